"""Resource names: built from ids, and ids read back out of them.

>>> journey("acme", "winback")
'accounts/acme/journeys/winback'
>>> last_id("accounts/acme/journeys/winback")
'winback'
"""

from __future__ import annotations


def account(account_id: str) -> str:
    """`accounts/{a}`."""
    return f"accounts/{account_id}"


def workspace(account_id: str, workspace_id: str) -> str:
    """`accounts/{a}/workspaces/{w}`."""
    return f"accounts/{account_id}/workspaces/{workspace_id}"


def input_(account_id: str, workspace_id: str, input_id: str) -> str:
    """`accounts/{a}/workspaces/{w}/inputs/{i}`."""
    return f"accounts/{account_id}/workspaces/{workspace_id}/inputs/{input_id}"


def journey(account_id: str, journey_id: str) -> str:
    """`accounts/{a}/journeys/{j}`."""
    return f"accounts/{account_id}/journeys/{journey_id}"


def milestone(account_id: str, journey_id: str, milestone_id: str) -> str:
    """`accounts/{a}/journeys/{j}/milestones/{m}`."""
    return f"accounts/{account_id}/journeys/{journey_id}/milestones/{milestone_id}"


def audience(account_id: str, audience_id: str) -> str:
    """`accounts/{a}/audiences/{id}`."""
    return f"accounts/{account_id}/audiences/{audience_id}"


def output(account_id: str, output_id: str) -> str:
    """`accounts/{a}/outputs/{o}`."""
    return f"accounts/{account_id}/outputs/{output_id}"


def connection(account_id: str, connection_id: str) -> str:
    """`accounts/{a}/connections/{c}`."""
    return f"accounts/{account_id}/connections/{connection_id}"


def last_id(name: str) -> str:
    """The id at the end of a name."""
    return name.rpartition("/")[2]
