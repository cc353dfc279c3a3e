"""Questions through the public API whose answers identify every event: slots by user, and duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from milepost import Client
from milepost.criteria import any_of, event, event_attribute
from milepost.errors import NotFound
from milepost.outputs import FileOutput
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER,
    BatchCheckMembershipRequest,
    ExportMembersRequest,
)
from milepost.v1.catalog_service_pb2 import GetUserRequest
from milepost.values import from_value
from tests.faults.kill_ledger import SLOTS, AttributeRef, Slots
from tests.faults.kill_writers import EVENT_NAME, INPUTS

DOUBLED = "doubled"
PAIRS_MAX = 10_000
"""Of one BatchCheckMembership."""


def prepare(client: Client) -> list[str]:
    """Creates inputs and audiences: one for each slot, and `DOUBLED`. The first is activated, so that kills
    meet stored membership and delivery as well.
    """
    client.ensure_account()
    for name in INPUTS:
        client.ensure_input(*name.split("/"))
    slots = [event(EVENT_NAME, where=event_attribute("slot").equals(slot)) for slot in range(SLOTS)]
    criteria = {f"slot-{slot}": events.happened() for slot, events in enumerate(slots)}
    criteria[DOUBLED] = any_of(*(events.count() > 1 for events in slots))
    audiences = []
    for journey, criterion in criteria.items():
        client.ensure_journey(journey)
        audiences.append(client.ensure_milestone(journey, "reached", criteria=criterion).audience)
    output = client.ensure_output("file", FileOutput(path="file"))
    client.ensure_connection("first-slot", target=audiences[0], output=output.name)
    client.activate_connection("first-slot")
    return audiences


class Questions:
    """Asks a running service about the audiences that `prepare` made."""

    def __init__(self, client: Client, audiences: Sequence[str], at_least: str) -> None:
        self._client = client
        self._audiences = audiences
        self._at_least = at_least

    def slots(self, user_ids: Sequence[str]) -> tuple[dict[str, Slots], set[str]]:
        """The slots of each of these users, and the users with a duplicate."""
        slots: dict[str, Slots] = {}
        doubled: set[str] = set()
        users_max = PAIRS_MAX // len(self._audiences)
        for start in range(0, len(user_ids), users_max):
            answer = self._client.audiences.BatchCheckMembership(
                BatchCheckMembershipRequest(
                    parent=self._client.account_name,
                    user_ids=user_ids[start : start + users_max],
                    audiences=self._audiences,
                    at_least=self._at_least,
                )
            )
            for user in answer.users:
                *has, has_doubled = [status == MEMBERSHIP_STATUS_MEMBER for status in user.statuses]
                slots[user.user_id] = sum(1 << slot for slot, flag in enumerate(has) if flag)
                if has_doubled:
                    doubled.add(user.user_id)
        return slots, doubled

    def all_slots(self) -> tuple[dict[str, Slots], set[str]]:
        """The same for every user with events, from whole audiences."""
        slots: dict[str, Slots] = {}
        for slot, audience in enumerate(self._audiences[:SLOTS]):
            for user_id in self._members(audience):
                slots[user_id] = slots.get(user_id, 0) | 1 << slot
        return slots, set(self._members(self._audiences[SLOTS]))

    def _members(self, audience: str) -> Iterator[str]:
        for page in self._client.audiences.ExportMembers(
            ExportMembersRequest(name=audience, at_least=self._at_least)
        ):
            yield from page.user_ids

    def attributes(self, user_ids: Iterable[str]) -> dict[AttributeRef, float]:
        """Every number attribute of the existing ones among these users, by user and attribute."""
        found: dict[AttributeRef, float] = {}
        for user_id in user_ids:
            request = GetUserRequest(parent=self._client.account_name, user_id=user_id)
            try:
                user = self._client.catalog.GetUser(request).user
            except NotFound:
                continue
            for workspace in user.attributes:
                for key, value in workspace.attributes.items():
                    number = from_value(value)
                    assert isinstance(number, float)
                    found[user_id, key] = number
        return found
