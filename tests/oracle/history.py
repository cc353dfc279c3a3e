"""The state of each user after all operations (section 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.backends.base import EventRecord, Record, UserRecord
from engine.criteria.model import ConsentState
from engine.values import Micros, Value
from tests.oracle.world import Alias, Batch, Erase, Expire, Forget, Operation, World, workspace_of

_T = TypeVar("_T")
_Writes = list[tuple[Micros, _T]]


@dataclass
class Sent:
    """A record, its current owner, and whether it is a removed event."""

    owner: str
    record: Record
    removed: bool = False


class History:
    """All records of a user, in order of arrival. Removed events count only as seen times."""

    def __init__(self, user_id: str, sent: Sequence[Sent]) -> None:
        self.user_id = user_id
        self.records = tuple(each.record for each in sent)
        self.events = [
            each.record for each in sent if isinstance(each.record, EventRecord) and not each.removed
        ]
        updates = [record for record in self.records if isinstance(record, UserRecord)]
        self.attributes = self._attributes(updates)
        self.attribute_times = self._attribute_times(updates)
        self.identities = self._identities(updates)
        self.consents = self._consents(updates)
        self.inputs = {record.input for record in self.records}

    @staticmethod
    def _attributes(updates: list[UserRecord]) -> Mapping[tuple[str, str], Value | None]:
        """(workspace, key) → value, None where the last write unset it."""
        writes: dict[tuple[str, str], _Writes[Value | None]] = {}
        for update in updates:
            for key, value in update.attributes.items():
                writes.setdefault((workspace_of(update.input), key), []).append((update.time, value))
        return {place: last_write(history) for place, history in writes.items()}

    @staticmethod
    def _attribute_times(updates: list[UserRecord]) -> Mapping[tuple[str, str], Micros]:
        """(workspace, key) → the time of the last write."""
        times: dict[tuple[str, str], Micros] = {}
        for update in updates:
            for key in update.attributes:
                place = (workspace_of(update.input), key)
                times[place] = max(update.time, times.get(place, update.time))
        return times

    @staticmethod
    def _identities(updates: list[UserRecord]) -> Mapping[str, str | None]:
        writes: dict[str, _Writes[str | None]] = {}
        for update in updates:
            for type_, identity in update.identities.items():
                writes.setdefault(type_, []).append((update.time, identity))
        return {type_: last_write(history) for type_, history in writes.items()}

    @staticmethod
    def _consents(updates: list[UserRecord]) -> Mapping[tuple[str, str], ConsentState]:
        writes: dict[tuple[str, str], _Writes[ConsentState]] = {}
        for update in updates:
            for purpose, state in update.consents.items():
                writes.setdefault(purpose, []).append((update.time, state))
        return {purpose: last_write(history) for purpose, history in writes.items()}

    def seen_times(self, inputs: tuple[str, ...]) -> list[Micros]:
        """All seen times through the inputs."""
        return [record.time for record in self.records if record.input in inputs]


def last_write(writes: _Writes[_T]) -> _T:
    """The value with the latest time; of equal times, the one that arrived last."""
    latest = max(time for time, _ in writes)
    return [value for time, value in writes if time == latest][-1]


class Aliases:
    """The current aliases."""

    def __init__(self) -> None:
        self._renamed: dict[str, str] = {}

    def copied(self) -> Aliases:
        """The aliases as they are now."""
        copy = Aliases()
        copy._renamed = dict(self._renamed)
        return copy

    def now_called(self, user_id: str) -> str:
        """The user an id resolves to, at the end of its chain."""
        return self.chain(user_id)[-1]

    def chain(self, user_id: str) -> list[str]:
        """The id and its chain of aliases."""
        chain = [user_id]
        while chain[-1] in self._renamed:
            chain.append(self._renamed[chain[-1]])
        return chain

    def closes_cycle(self, from_user_id: str, to_user_id: str) -> bool:
        """The alias would close a cycle."""
        return self.now_called(from_user_id) == self.now_called(to_user_id)

    def link(self, from_user_id: str, to_user_id: str) -> tuple[str, str]:
        """Makes one id an alias of another; returns the users of both. Raises ValueError on a cycle."""
        if self.closes_cycle(from_user_id, to_user_id):
            raise ValueError(f"{from_user_id!r} already is {to_user_id!r}, or the other way round")
        source, target = self.now_called(from_user_id), self.now_called(to_user_id)
        self._renamed[source] = to_user_id
        return source, target

    def forget(self, user_ids: Iterable[str]) -> set[str]:
        """The users that the ids resolve to. Their aliases become separate ids again."""
        forgotten = {self.now_called(user_id) for user_id in user_ids}
        kept = {a: b for a, b in self._renamed.items() if self.now_called(a) not in forgotten}
        self._renamed = kept
        return forgotten


class _Past:
    """What the operations so far have left."""

    def __init__(self, account: str) -> None:
        self.kept: list[Sent] = []
        self._account = account
        self._aliases = Aliases()
        self._seen_events: set[tuple[str, str]] = set()
        self._seen_requests: set[str] = set()

    def add(self, operation: Operation) -> None:
        """The operation happens."""
        match operation:
            case Batch():
                self._take(operation)
            case Alias():
                source, target = self._aliases.link(operation.from_user_id, operation.to_user_id)
                for sent in self.kept:
                    sent.owner = target if sent.owner == source else sent.owner
            case Erase():
                erased = self._aliases.forget(operation.user_ids)
                self.kept = [sent for sent in self.kept if sent.owner not in erased]
            case Expire():
                for sent in self.kept:
                    sent.removed |= sent.record.time < operation.before
            case Forget():
                self._forget(operation)

    def _take(self, batch: Batch) -> None:
        if batch.request_id:
            if batch.request_id in self._seen_requests:
                return
            self._seen_requests.add(batch.request_id)
        for record in batch.records:
            if isinstance(record, EventRecord) and record.event_id:
                if (record.input, record.event_id) in self._seen_events:
                    continue
                self._seen_events.add((record.input, record.event_id))
            self.kept.append(Sent(self._aliases.now_called(record.user_id), record))

    def _forget(self, forget: Forget) -> None:
        if any(forget.covers(sent.record.input) for sent in self.kept):
            return
        self._seen_events = {each for each in self._seen_events if not forget.covers(each[0])}
        if forget.name == self._account:
            self._aliases, self._seen_requests = Aliases(), set()


def histories(world: World) -> dict[str, History]:
    """Every user that exists at the end, by user id."""
    past = _Past(world.account)
    for operation in world.operations:
        past.add(operation)
    owned: dict[str, list[Sent]] = {}
    for sent in past.kept:
        owned.setdefault(sent.owner, []).append(sent)
    return {user_id: History(user_id, sent) for user_id, sent in owned.items()}


def aliases_after(operations: Sequence[Operation]) -> Aliases:
    """What is an alias of whom, after operations that forget nothing."""
    aliases = Aliases()
    for operation in operations:
        if isinstance(operation, Alias):
            aliases.link(operation.from_user_id, operation.to_user_id)
        elif isinstance(operation, Erase):
            aliases.forget(operation.user_ids)
    return aliases
