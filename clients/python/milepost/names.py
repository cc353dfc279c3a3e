"""Resource names: built from ids, and ids read back out of them.

>>> journey("acme", "winback")
'accounts/acme/journeys/winback'
>>> last_id("accounts/acme/journeys/winback")
'winback'
"""

from __future__ import annotations

import re

ID_RULE = "must be 1-63 of a-z0-9-, starting with a letter"
REMAINING_USERS = "Remaining users"
"""Display name of remaining users that are given none; the service has the same."""
ANY = "-"
"""In the place of a workspace's id: all of them, where the contract allows it."""
_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")


def is_id(text: str) -> bool:
    """Whether a resource may have this id: see `ID_RULE`."""
    return _ID.fullmatch(text) is not None


def account(account_id: str) -> str:
    """`accounts/{a}`."""
    return f"accounts/{account_id}"


def backup(backup_id: str) -> str:
    """`backups/{b}`."""
    return f"backups/{backup_id}"


def workspace(account_id: str, workspace_id: str) -> str:
    """`accounts/{a}/workspaces/{w}`."""
    return f"accounts/{account_id}/workspaces/{workspace_id}"


def input_(account_id: str, workspace_id: str, input_id: str) -> str:
    """`accounts/{a}/workspaces/{w}/inputs/{i}`."""
    return f"accounts/{account_id}/workspaces/{workspace_id}/inputs/{input_id}"


def short_input(name: str) -> str:
    """`{w}/{i}` of an input's full name; any other text as it is."""
    found = re.fullmatch("accounts/[^/]*/workspaces/([^/]*)/inputs/([^/]*)", name)
    return f"{found[1]}/{found[2]}" if found else name


def journey(account_id: str, journey_id: str) -> str:
    """`accounts/{a}/journeys/{j}`."""
    return f"accounts/{account_id}/journeys/{journey_id}"


def milestone(account_id: str, journey_id: str, milestone_id: str) -> str:
    """`accounts/{a}/journeys/{j}/milestones/{m}`."""
    return f"accounts/{account_id}/journeys/{journey_id}/milestones/{milestone_id}"


def short_milestone(name: str) -> str:
    """`{j}/{m}` of a milestone's full name; any other text as it is."""
    found = re.fullmatch("accounts/[^/]*/journeys/([^/]*)/milestones/([^/]*)", name)
    return f"{found[1]}/{found[2]}" if found else name


def journey_of(milestone_name: str) -> str:
    """The full name of a milestone's journey."""
    return milestone_name.rpartition("/milestones/")[0]


def audience(account_id: str, audience_id: str) -> str:
    """`accounts/{a}/audiences/{id}`."""
    return f"accounts/{account_id}/audiences/{audience_id}"


def output(account_id: str, output_id: str) -> str:
    """`accounts/{a}/outputs/{o}`."""
    return f"accounts/{account_id}/outputs/{output_id}"


def connection(account_id: str, connection_id: str) -> str:
    """`accounts/{a}/connections/{c}`."""
    return f"accounts/{account_id}/connections/{connection_id}"


def api_key(account_id: str, api_key_id: str) -> str:
    """`accounts/{a}/apiKeys/{k}`."""
    return f"accounts/{account_id}/apiKeys/{api_key_id}"


def operator_key(api_key_id: str) -> str:
    """`apiKeys/{k}`."""
    return f"apiKeys/{api_key_id}"


def collection(name: str) -> str:
    """The collection that a name is of: `journeys` of `accounts/{a}/journeys/{j}`."""
    return name.rpartition("/")[0].rpartition("/")[2]


def short(name: str) -> str:
    """A name as people write it: `{j}/{m}` of a milestone, `{w}/{i}` of an input, the id of anything else."""
    shortened = short_milestone(short_input(name))
    return last_id(name) if shortened == name else shortened


def last_id(name: str) -> str:
    """The id at the end of a name."""
    return name.rpartition("/")[2]
