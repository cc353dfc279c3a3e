"""The records of audiences. They are created and deleted with their milestones."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from engine.errors import InvalidInput
from engine.limits import Limits
from engine.resources.activation import Activation
from engine.resources.checks import check_etag, masked_values
from engine.resources.names import Resource, check_name
from engine.resources.paging import Page
from engine.resources.records import Account, Audience, Journey, Milestone, account_of, journey_of
from engine.resources.repository import Repository
from engine.values import Micros

AUDIENCE_FIELDS = frozenset({"external_name"})


class AudienceRecords:
    """Reads and changes the records of audiences."""

    def __init__(
        self, repository: Repository, activation: Activation, limits: Limits, clock: Callable[[], Micros]
    ) -> None:
        self._repository = repository
        self._activation = activation
        self._limits = limits
        self._clock = clock

    def get(self, name: str, field: str = "name") -> Audience:
        """The audience. Raises NotFound."""
        check_name(name, field, Resource.AUDIENCE)
        return self._repository.get(Audience, name)

    def of(self, name: str, field: str = "name") -> Audience:
        """The audience with that name, or that of the milestone with that name. Raises NotFound."""
        record = self._repository.find(Audience, name)
        if record is not None:
            return record
        check_name(name, field, Resource.AUDIENCE, Resource.MILESTONE)
        milestone = self._repository.find(Milestone, name)
        return self._repository.get(Audience, name if milestone is None else milestone.audience)

    def milestone(self, audience: Audience) -> Milestone:
        """The milestone of the audience."""
        return self._repository.get(Milestone, audience.milestone)

    def display_name(self, name: str) -> str:
        """The display name of its milestone. Raises NotFound."""
        return self.milestone(self.get(name)).display_name

    def list(
        self, parent: str, *, journey: str = "", page_size: int = 0, page_token: str = ""
    ) -> Page[Audience]:
        """The account's audiences, or one journey's, in order of name. Raises NotFound."""
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)
        audiences = self._repository.scan(Audience, f"{parent}/audiences/")
        if journey:
            check_name(journey, "journey", Resource.JOURNEY)
            if account_of(journey) != parent:
                raise InvalidInput.one("journey", f"must name a journey of {parent}")
            self._repository.get(Journey, journey)
            audiences = tuple(a for a in audiences if journey_of(a.milestone) == journey)
        question = ("list_audiences", parent, journey)
        return self._repository.pages.by_name(audiences, question, page_size=page_size, page_token=page_token)

    def update(self, record: Audience, fields: Collection[str], etag: str = "") -> Audience:
        """Changes `external_name`. Raises NotFound, EtagMismatch, InvalidInput."""
        check_name(record.name, "audience.name", Resource.AUDIENCE)
        values = masked_values(record, fields, AUDIENCE_FIELDS)
        if len(record.external_name.encode()) > self._limits.name_bytes_max:
            raise InvalidInput.one(
                "audience.external_name", f"is longer than {self._limits.name_bytes_max} bytes"
            )
        with self._repository.writing() as changes:
            known = self._repository.get(Audience, record.name)
            check_etag(known, etag)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            changes.put(updated)
            return updated

    def activated(self, name: str) -> bool:
        """Whether the audience has an ACTIVE connection."""
        return name in self._activation.activated(account_of(name))
