"""Fills an account with what a file of rule tests has: inputs, journeys, users and events."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from milepost import Client, journeys
from milepost._batches import Sent
from milepost.errors import InvalidArgument, MilepostError
from milepost.rules.criteria import in_account
from milepost.rules.model import Change, RuleTests, TestedJourney
from milepost.v1.data_pb2 import Event, UserUpdate


class Refused(Exception):
    """The service does not take what a test has. `lines` say where and why."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Loading:
    """Makes and fills the account of a client."""

    def __init__(self, client: Client, tests: RuleTests) -> None:
        self._client = client
        self._tests = tests

    def prepare(self) -> None:
        """Creates the account and its inputs, and applies the journeys. Raises Refused."""
        try:
            self._client.ensure_account(time_zone=self._tests.time_zone)
            for workspace in dict.fromkeys(each.partition("/")[0] for each in self._tests.inputs):
                self._client.ensure_workspace(workspace)
            for each in self._tests.inputs:
                self._client.ensure_input(*each.split("/"))
        except MilepostError as error:
            raise Refused([f"{self._tests.file}: {error}"]) from error
        for journey in self._tests.journeys:
            self._apply(journey)

    def _apply(self, journey: TestedJourney) -> None:
        document = in_account(
            journey.document, self._tests.account, self._client.account_id, self._audiences()
        )
        try:
            self._client.apply_journey(journeys.message_of(document))
        except InvalidArgument as error:
            start = f"{journey.path}." if journey.path else ""
            lines = []
            for violation in error.violations:
                place = journey.places.of(start + violation.field.removeprefix("document."))
                lines.append(f"{place}: {violation.description}")
            raise Refused(lines or [f"{journey.places.file}: {error}"]) from error
        except MilepostError as error:
            raise Refused([f"{journey.places.position(journey.path)}: {error}"]) from error

    def _audiences(self) -> dict[str, str]:
        """By the names that criteria use, those of the audiences of the milestones applied so far."""
        found = {}
        for name, milestone in self._tests.audiences.items():
            journey = milestone.partition("/")[0]
            if any(each.name.endswith(f"/{journey}") for each in self._client.list_journeys()):
                found[name] = self._client.audience_name(milestone)
        return found

    def send(self, changes: Sequence[Change]) -> None:
        """Sends updates and events. Raises Refused."""
        updates = [each for each in changes if isinstance(each.message, UserUpdate)]
        events = [each for each in changes if isinstance(each.message, Event)]
        try:
            if updates:
                self._check_sent(self._client.upsert_users(map(self._own, updates)), updates)
            if events:
                self._check_sent(self._client.ingest_events(map(self._own, events)), events)
        except MilepostError as error:
            raise Refused([f"{self._tests.places.position(changes[0].path)}: {error}"]) from error

    def _own(self, change: Change) -> Any:
        """The message for this account."""
        message = copy.deepcopy(change.message)
        message.input = self._client.input_name(message.input)
        return message

    def _check_sent(self, sent: Sent, changes: Sequence[Change]) -> None:
        if sent.rejections:
            raise Refused(
                [
                    f"{self._tests.places.of(changes[each.index].path)}: {each.description}"
                    f" ({each.field.partition('.')[2]})"
                    for each in sent.rejections
                ]
            )
