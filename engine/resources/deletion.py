"""Deletes inputs, workspaces and accounts, which must be empty.

An input is empty while no user belongs to it: nothing came through it, or all its users were erased. Users
whose events fell out of the retention still belong to it and have to be erased. Whatever is created under the
name of something deleted starts anew.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from engine.backends.base import DataWriter, UserReader
from engine.criteria.uses import inputs_in
from engine.errors import FailedPrecondition, InvalidInput, MilepostError
from engine.resources.checks import check_etag
from engine.resources.leftovers import Leftovers
from engine.resources.names import Resource, check_name
from engine.resources.planning import planned
from engine.resources.records import (
    Account,
    ApiKey,
    Closing,
    Connection,
    Input,
    Journey,
    Milestone,
    Output,
    Record,
    Workspace,
    account_of,
    journey_of,
)
from engine.resources.repository import Repository
from engine.resources.requests import Requests
from engine.write_gate import WriteGate


class Data(DataWriter, UserReader, Protocol):
    """Counts users, and forgets what has none."""


class Deletion:
    """Deletes what data comes in through. Safe to call from several threads."""

    def __init__(
        self,
        repository: Repository,
        requests: Requests,
        backend: Data,
        gate: WriteGate,
        leftovers: Leftovers,
        close_audiences: Callable[[str], None],
    ) -> None:
        """`close_audiences` finishes the deletion of a journey's audiences, if nothing waits for it."""
        self._repository = repository
        self._requests = requests
        self._backend = backend
        self._gate = gate
        self._leftovers = leftovers
        self._close_audiences = close_audiences

    def delete_input(self, name: str, etag: str = "") -> None:
        """Deletes an input that no user belongs to and no journey names. Raises NotFound, EtagMismatch,
        FailedPrecondition.
        """
        check_name(name, "name", Resource.INPUT)
        account = account_of(name)

        def unnamed() -> Input:
            known = self._repository.get(Input, name)
            check_etag(known, etag)
            self._refuse_named(account, name)
            return known

        plan = planned(self._repository, account, unnamed)
        with self._gate.closed(account), self._repository.writing():
            known = plan()
            users = self._backend.universe_size(account, [name])
            if users:
                raise FailedPrecondition(
                    f"{name} is not empty: {users:,} of the account's users belong to it; erase them with"
                    " DeleteUsers first",
                    reason="INPUT_NOT_EMPTY",
                    metadata={"users": str(users)},
                )
            self._delete(known)

    def delete_workspace(self, name: str, etag: str = "") -> None:
        """Deletes a workspace without inputs. Raises NotFound, EtagMismatch, FailedPrecondition."""
        check_name(name, "name", Resource.WORKSPACE)
        with self._gate.closed(account_of(name)), self._repository.writing():
            known = self._repository.get(Workspace, name)
            check_etag(known, etag)
            inputs = ",".join(each.name for each in self._repository.scan(Input, f"{name}/inputs/"))
            if inputs:
                raise FailedPrecondition(
                    f"{name} has inputs: {inputs}; delete them first",
                    reason="WORKSPACE_NOT_EMPTY",
                    metadata={"inputs": inputs},
                )
            self._delete(known)

    def delete_account(self, name: str, confirmation: str, etag: str = "") -> None:
        """Deletes an account without journeys, connections, outputs and workspaces, and its API keys;
        `confirmation` is its id. Raises InvalidInput, NotFound, EtagMismatch, FailedPrecondition.
        """
        check_name(name, "name", Resource.ACCOUNT)
        account_id = name.removeprefix("accounts/")
        if confirmation != account_id:
            raise InvalidInput.one("confirmation", f"must repeat the id of the account, {account_id!r}")
        for journey in {journey_of(closing.milestone.name) for closing in self._closings(name)}:
            self._close_audiences(journey)
        with self._gate.closed(name), self._repository.writing():
            known = self._repository.get(Account, name)
            check_etag(known, etag)
            self._refuse_content(name)
            self._delete(known, *self._repository.scan(ApiKey, f"{name}/"))

    def _refuse_named(self, account: str, input_name: str) -> None:
        """Raises FailedPrecondition when a journey selects the input or criteria name it."""
        journeys = self._repository.scan(Journey, f"{account}/journeys/")
        milestones = self._repository.scan(Milestone, f"{account}/journeys/")
        naming = {
            "journeys": [each.name for each in journeys if input_name in each.inputs],
            "milestones": [
                each.name
                for each in milestones
                if each.criteria is not None and input_name in inputs_in(each.criteria)
            ],
        }
        if any(naming.values()):
            raise FailedPrecondition(
                f"{input_name} is named by {_listed(naming)}; take it out of their inputs and criteria first",
                reason="INPUT_IN_USE",
                metadata=_metadata(naming),
            )

    def _refuse_content(self, account: str) -> None:
        """Raises FailedPrecondition unless the account is empty. Users belong to inputs of its workspaces."""
        kinds: dict[str, type[Record]] = {
            "journeys": Journey,
            "connections": Connection,
            "outputs": Output,
            "workspaces": Workspace,
        }
        content = {
            kind: [each.name for each in self._repository.scan(record, f"{account}/")]
            for kind, record in kinds.items()
        }
        # Deleted since they were closed above.
        content["audiences"] = [closing.name for closing in self._closings(account)]
        if any(content.values()):
            raise FailedPrecondition(
                f"{account} is not empty: it has {_listed(content)}; delete them first",
                reason="ACCOUNT_NOT_EMPTY",
                metadata=_metadata(content),
            )

    def _closings(self, account: str) -> tuple[Closing, ...]:
        return self._repository.scan(Closing, f"{account}/audiences/")

    def _delete(self, record: Record, *with_it: Record) -> None:
        """Deletes records, and then what is left of the first; no one else writes meanwhile."""
        with self._repository.writing() as changes:
            for each in (record, *with_it):
                changes.delete(each)
            self._requests.forget(changes, record.name)
            self._leftovers.note(changes, record.name)
        # It is deleted, whether or not the store takes a write now.
        with suppress(MilepostError):
            self._leftovers.clear(record.name)


def _listed(names: dict[str, list[str]]) -> str:
    """The kinds that have names, with the names."""
    return "; ".join(f"{kind} {', '.join(some)}" for kind, some in names.items() if some)


def _metadata(names: dict[str, list[str]]) -> dict[str, str]:
    return {kind: ",".join(some) for kind, some in names.items() if some}
