"""Outputs: creating, reading and changing them. `targets` has their kinds."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from engine.clock import Clock
from engine.errors import AlreadyExists, FailedPrecondition, Violation
from engine.limits import Limits
from engine.resources.checks import check_etag, display_name_faults, masked_values, refuse_if_any
from engine.resources.names import Resource, check_name, chosen_or_made_id
from engine.resources.paging import Page
from engine.resources.records import Account, Connection, Output, account_of
from engine.resources.repository import Repository
from engine.resources.requests import Requests

OUTPUT_FIELDS = frozenset({"display_name", "target"})


class Outputs:
    """Creates, reads and changes outputs."""

    def __init__(self, repository: Repository, limits: Limits, clock: Clock) -> None:
        self._repository = repository
        self._requests = Requests(repository, limits, clock.stamp)
        self._limits = limits
        self._clock = clock

    def create_output(self, parent: str, output_id: str, output: Output, request_id: str = "") -> Output:
        """Creates an output. Raises NotFound, AlreadyExists, InvalidInput."""
        check_name(parent, "parent", Resource.ACCOUNT)
        with self._repository.writing() as changes:
            answered = self._requests.first_answer("create_output", parent, request_id, Output)
            if answered is not None:
                return answered
            self._repository.get(Account, parent)
            name = f"{parent}/outputs/{chosen_or_made_id(output_id, 'output_id')}"
            if self._repository.find(Output, name) is not None:
                raise AlreadyExists(name)
            now = self._clock()
            created = msgspec.structs.replace(output, name=name, create_time=now, update_time=now)
            refuse_if_any(self._faults(created))
            changes.put(created)
            self._requests.remember(changes, "create_output", parent, request_id, created)
            return created

    def get_output(self, name: str) -> Output:
        """The output. Raises NotFound."""
        check_name(name, "name", Resource.OUTPUT)
        return self._repository.get(Output, name)

    def list_outputs(self, parent: str, *, page_size: int = 0, page_token: str = "") -> Page[Output]:
        """The account's outputs, in order of name. Raises NotFound."""
        check_name(parent, "parent", Resource.ACCOUNT)
        self._repository.get(Account, parent)
        outputs = self._repository.scan(Output, f"{parent}/outputs/")
        question = ("list_outputs", parent)
        return self._repository.pages.by_name(outputs, question, page_size=page_size, page_token=page_token)

    def update_output(self, record: Output, fields: Collection[str], etag: str = "") -> Output:
        """Changes the named fields, `display_name` and `target`. A target without its secret keeps the one
        it has. Raises NotFound, EtagMismatch, InvalidInput.
        """
        check_name(record.name, "output.name", Resource.OUTPUT)
        values = masked_values(record, fields, OUTPUT_FIELDS)
        with self._repository.writing() as changes:
            known = self._repository.get(Output, record.name)
            check_etag(known, etag)
            if "target" in values:
                values["target"] = values["target"].with_secrets_of(known.target)
            updated = msgspec.structs.replace(known, **values, update_time=self._clock())
            refuse_if_any(self._faults(updated))
            changes.put(updated)
            return updated

    def delete_output(self, name: str, etag: str = "") -> None:
        """Deletes an output without connections. Raises NotFound, EtagMismatch, FailedPrecondition."""
        check_name(name, "name", Resource.OUTPUT)
        with self._repository.writing() as changes:
            known = self._repository.get(Output, name)
            check_etag(known, etag)
            connections = self._repository.scan(Connection, f"{account_of(name)}/connections/")
            using = ",".join(connection.name for connection in connections if connection.output == name)
            if using:
                raise FailedPrecondition(
                    f"{name} has connections: {using}",
                    reason="OUTPUT_IN_USE",
                    metadata={"connections": using},
                )
            changes.delete(known)

    def _faults(self, output: Output) -> Iterable[Violation]:
        yield from display_name_faults(output.display_name, "output.display_name", self._limits)
        yield from output.target.faults()
