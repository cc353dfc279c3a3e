"""What is known of each user once everything has happened (section 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.backends.base import EventRecord, Record, UserRecord
from engine.criteria.model import ConsentState
from engine.values import Micros, Value
from tests.oracle.world import Alias, Batch, Erase, Expire, World, workspace_of

_T = TypeVar("_T")
_Writes = list[tuple[Micros, _T]]


@dataclass
class Sent:
    """A record, and what became of it: whose it is by now, and whether it is an event that was removed."""

    owner: str
    record: Record
    removed: bool = False


class History:
    """All that a user sent, in the order of arrival. Events that were removed are signs of life only."""

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
        """The times of all signs of life through the inputs."""
        return [record.time for record in self.records if record.input in inputs]


def last_write(writes: _Writes[_T]) -> _T:
    """The value with the latest time; of equal times, the one that arrived last."""
    latest = max(time for time, _ in writes)
    return [value for time, value in writes if time == latest][-1]


class Aliases:
    """Which ids are now other ids."""

    def __init__(self) -> None:
        self._renamed: dict[str, str] = {}

    def copied(self) -> Aliases:
        """The aliases as they are now."""
        copy = Aliases()
        copy._renamed = dict(self._renamed)
        return copy

    def now_called(self, user_id: str) -> str:
        """What an id stands for, at the end of its chain."""
        return self.chain(user_id)[-1]

    def chain(self, user_id: str) -> list[str]:
        """The id, what it was made an alias of, and so on."""
        chain = [user_id]
        while chain[-1] in self._renamed:
            chain.append(self._renamed[chain[-1]])
        return chain

    def closes_cycle(self, from_user_id: str, to_user_id: str) -> bool:
        """The alias would lead back to itself."""
        return self.now_called(from_user_id) == self.now_called(to_user_id)

    def link(self, from_user_id: str, to_user_id: str) -> tuple[str, str]:
        """Makes one id another; answers what the two stood for. Raises ValueError on a cycle."""
        if self.closes_cycle(from_user_id, to_user_id):
            raise ValueError(f"{from_user_id!r} already is {to_user_id!r}, or the other way round")
        source, target = self.now_called(from_user_id), self.now_called(to_user_id)
        self._renamed[source] = to_user_id
        return source, target

    def forget(self, user_ids: Iterable[str]) -> set[str]:
        """The users that the ids stand for. Ids that were aliases of theirs start anew as themselves."""
        forgotten = {self.now_called(user_id) for user_id in user_ids}
        kept = {a: b for a, b in self._renamed.items() if self.now_called(a) not in forgotten}
        self._renamed = kept
        return forgotten


def histories(world: World) -> dict[str, History]:
    """Every user that exists at the end, by user id."""
    kept: list[Sent] = []
    aliases = Aliases()
    seen_events: set[tuple[str, str]] = set()
    seen_requests: set[str] = set()
    for operation in world.operations:
        match operation:
            case Batch():
                if operation.request_id:
                    if operation.request_id in seen_requests:
                        continue
                    seen_requests.add(operation.request_id)
                for record in operation.records:
                    if isinstance(record, EventRecord) and record.event_id:
                        if (record.input, record.event_id) in seen_events:
                            continue
                        seen_events.add((record.input, record.event_id))
                    kept.append(Sent(aliases.now_called(record.user_id), record))
            case Alias():
                source, target = aliases.link(operation.from_user_id, operation.to_user_id)
                for sent in kept:
                    sent.owner = target if sent.owner == source else sent.owner
            case Erase():
                erased = aliases.forget(operation.user_ids)
                kept = [sent for sent in kept if sent.owner not in erased]
            case Expire():
                for sent in kept:
                    sent.removed |= sent.record.time < operation.before
    return {
        user_id: History(user_id, [sent for sent in kept if sent.owner == user_id])
        for user_id in {sent.owner for sent in kept}
    }
