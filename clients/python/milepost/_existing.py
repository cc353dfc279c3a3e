"""What exists on a service, for messages about names that do not."""

from __future__ import annotations

from milepost import names
from milepost._near import did_you_mean, listed
from milepost.client import Client
from milepost.errors import MilepostError


def no_account(client: Client) -> str:
    """The message for the client's account when it does not exist: what it is called may be a slip."""
    ids = accounts(client)
    return (
        f"account {client.account_id!r} (--account) does not exist"
        f"{did_you_mean(client.account_id, ids) or '.'}{listed('accounts', ids)}"
    )


def accounts(client: Client) -> list[str]:
    """The ids of all accounts; none where there is no right to see them."""
    try:
        return [names.last_id(each.name) for each in client.list_accounts()]
    except MilepostError:
        return []


def inputs(client: Client) -> list[str]:
    """All inputs of the account, as WORKSPACE/INPUT; none where there is no right to see them."""
    try:
        return [names.short_input(each.name) for each in client.list_inputs()]
    except MilepostError:
        return []
