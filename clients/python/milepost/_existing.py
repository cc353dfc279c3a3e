"""What exists on a service, for messages about names that do not."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from milepost import names
from milepost._near import did_you_mean, listed, nearest
from milepost.client import Client
from milepost.errors import MilepostError


def no_account(client: Client) -> str:
    """The message for the client's account when it does not exist: what it is called may be a slip."""
    ids = accounts(client)
    return (
        f"account {client.account_id!r} (--account) does not exist"
        f"{did_you_mean(client.account_id, ids) or '.'}{listed('accounts', ids)}"
    )


def accounts(client: Client) -> list[str] | None:
    """The ids of all accounts; None when the service does not say, as where the key may not list them."""
    try:
        return [names.last_id(each.name) for each in client.list_accounts()]
    except MilepostError:
        return None


def inputs(client: Client) -> list[str] | None:
    """All inputs of the account, as WORKSPACE/INPUT; None when the service does not say."""
    try:
        return [names.short_input(each.name) for each in client.list_inputs()]
    except MilepostError:
        return None


def nearest_resource(client: Client, name: str) -> str:
    """The full name of what exists and is nearest to a resource of the account that does not; "" when nothing
    is near, and when the service does not say.
    """
    beginning, _, own = name.partition("/milestones/")
    try:
        if own and names.is_id(own):
            return _nearest_milestone(client, names.last_id(beginning), own)
        listing = _LISTINGS.get(names.collection(name)) if name.startswith("accounts/") else None
        known: dict[str, str] = (
            {} if listing is None else {names.short(each.name): each.name for each in listing(client)}
        )
    except MilepostError:
        return ""
    return known.get(nearest(names.short(name), known), "")


def _nearest_milestone(client: Client, journey_id: str, milestone_id: str) -> str:
    """Looks into the journey, or into the nearest one when there is none of that id."""
    journeys = [names.last_id(each.name) for each in client.list_journeys()]
    journey = journey_id if journey_id in journeys else nearest(journey_id, journeys)
    if not journey:
        return ""
    milestones = {names.last_id(each.name): each.name for each in client.list_milestones(journey)}
    return milestones.get(milestone_id) or milestones.get(nearest(milestone_id, milestones), "")


_LISTINGS: dict[str, Callable[[Client], Iterable[Any]]] = {
    "workspaces": lambda client: client.list_workspaces(),
    "inputs": lambda client: client.list_inputs(),
    "journeys": lambda client: client.list_journeys(),
    "outputs": lambda client: client.list_outputs(),
    "connections": lambda client: client.list_connections(),
    "apiKeys": lambda client: client.list_api_keys(),
}
"""By collection, what lists the resources of an account."""
