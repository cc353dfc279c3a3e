"""A scope in the memory that readers map: its members, and for which definitions and instant they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from pyroaring import BitMap

from engine.backends.base.serving import EstimateOutlook
from engine.backends.local.membership.alike import Members
from engine.backends.local.serving.arena import WORD_BYTES, Arena
from engine.backends.local.serving.layout import NOBODY, NOT_SERVED, SCOPE_WORDS, WORD_MASK, Header, Scope

_encode = msgspec.msgpack.Encoder().encode


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A serialised bitmap: a number that no other has, where it is, and its users. NOBODY stands for the
    empty one.
    """

    number: int
    at: int
    size: int
    users: int


EMPTY = Block(NOBODY, 0, 0, 0)


class ColumnOutlook(msgspec.Struct, frozen=True, array_like=True):
    """`EstimateOutlook` with columns for audiences."""

    above: int | None
    before: list[int]
    work: float


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What members are published with; see `layout`."""

    stamp: int
    account_at: int
    generation: int
    reached: int
    depends_on_time: bool
    is_late: bool
    ids: int
    population: int
    outlooks: Mapping[str, EstimateOutlook]
    writes: int


@dataclass(slots=True)
class _Taken:
    """Members of audiences, their encoded blocks, and how many audiences have them."""

    members: Members
    encoded: msgspec.Raw
    count: int = 0


class SharedBitmaps:
    """The serialised bitmaps, each once for all scopes that have the same object. One thread at a time."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._held: dict[int, tuple[BitMap, Block, int]] = {}
        """By identity: a bitmap, its block, and how many times it was taken."""
        self._taken: dict[int, _Taken] = {}
        """By identity of members."""

    def take_all(self, members: Members) -> msgspec.Raw:
        """The blocks of an audience's members by group, encoded: once for all that have the same object."""
        taken = self._taken.get(id(members))
        if taken is None:
            taken = _Taken(members, msgspec.Raw(_encode([self.take(users) for users in members])))
            self._taken[id(members)] = taken
        taken.count += 1
        return taken.encoded

    def give_all_back(self, members: Members) -> None:
        """An audience does not have these members any more."""
        taken = self._taken[id(members)]
        taken.count -= 1
        if not taken.count:
            del self._taken[id(members)]
            for users in members:
                self.give_back(users)

    def take(self, users: BitMap) -> Block:
        """The block of a bitmap, which nobody changes."""
        if not users:
            return EMPTY
        held = self._held.get(id(users))
        if held is None:
            data = users.serialize()
            block = Block(self._arena.next_number(), self._arena.put(data), len(data), len(users))
            held = users, block, 0
        self._held[id(users)] = users, held[1], held[2] + 1
        return held[1]

    def give_back(self, users: BitMap) -> None:
        """The block of a bitmap is not needed any more, as often as it was taken."""
        if not users:
            return
        _, block, count = self._held[id(users)]
        if count > 1:
            self._held[id(users)] = users, block, count - 1
            return
        del self._held[id(users)]
        self._arena.free(block.at, block.size)


class SharedScope:
    """Writes the record of one scope. One thread at a time."""

    def __init__(self, arena: Arena, bitmaps: SharedBitmaps) -> None:
        self._arena = arena
        self._bitmaps = bitmaps
        self.at = arena.allocate(SCOPE_WORDS * WORD_BYTES)
        self._record = arena.words[self.at // WORD_BYTES : self.at // WORD_BYTES + SCOPE_WORDS]
        for word in range(SCOPE_WORDS):
            self._record[word] = 0
        self._record[Scope.GENERATION] = NOT_SERVED
        self._members: dict[str, tuple[Members, msgspec.Raw]] = {}
        """By audience: the members that are published, and their blocks."""
        self._names: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        """By audience, for good: a reader may know a name from before and the members from now."""

    def publish(
        self,
        members: Mapping[str, Members],
        names: Mapping[str, str],
        publication: Publication,
    ) -> None:
        """Publishes members (by audience, then group)."""
        before = self._members
        # What is published never changes, so the same object has the same members.
        kept = {audience for audience, groups in members.items() if before.get(audience, _NONE)[0] is groups}
        now = {
            audience: before[audience] if audience in kept else (groups, self._bitmaps.take_all(groups))
            for audience, groups in members.items()
        }
        for audience in members:
            self._columns.setdefault(audience, len(self._columns))
        encoded = _encode([now.get(audience, _NONE)[1] for audience in self._columns])
        outlooks = _encode(self._outlooks(members, publication.outlooks))
        words = {
            Scope.GENERATION: publication.generation,
            Scope.REACHED: publication.reached & WORD_MASK,
            Scope.DEPENDS_ON_TIME: int(publication.depends_on_time),
            Scope.STAMP: publication.stamp,
            Scope.ACCOUNT_AT: publication.account_at,
            Scope.MEMBERS_AT: self._arena.put(encoded),
            Scope.MEMBERS_BYTES: len(encoded),
            Scope.LATE: int(publication.is_late),
            Scope.IDS: publication.ids,
            Scope.POPULATION: publication.population,
            Scope.OUTLOOKS_AT: self._arena.put(outlooks),
            Scope.OUTLOOKS_BYTES: len(outlooks),
            Scope.WRITES: publication.writes,
        }
        old = self._held()
        self._change(words)
        self._members = now
        self._free(old)
        for audience, (groups, _) in before.items():
            if audience not in kept:
                self._bitmaps.give_all_back(groups)
        served = {name: self._columns[audience] for name, audience in names.items() if audience in members}
        self._tell_names(served)

    def be_late(self) -> None:
        """A user is dirty."""
        self._record[Scope.LATE] = 1

    def move_on(self, generation: int, reached: int) -> None:
        """The members that are published hold for these as well."""
        self._change({Scope.GENERATION: generation, Scope.REACHED: reached & WORD_MASK})

    def end(self) -> None:
        """Serves nothing any more."""
        old, before, self._members = self._held(), self._members, {}
        self._change({Scope.GENERATION: NOT_SERVED} | {word: 0 for at in _HELD for word in at})
        self._free(old)
        for groups, _ in before.values():
            self._bitmaps.give_all_back(groups)
        self._tell_names({})

    def _outlooks(
        self, members: Collection[str], outlooks: Mapping[str, EstimateOutlook]
    ) -> dict[int, ColumnOutlook]:
        """By column; only those that are about audiences which are published."""
        columns = self._columns
        return {
            columns[audience]: ColumnOutlook(
                columns[each.above] if each.above else None,
                [columns[before] for before in each.before],
                each.work,
            )
            for audience, each in outlooks.items()
            if all(needed in members for needed in (audience, *each.before))
            and (not each.above or each.above in members)
        }

    def _tell_names(self, names: dict[str, int]) -> None:
        if names == self._names:
            return
        encoded = _encode(names)
        old = [(self._record[Scope.NAMES_AT], self._record[Scope.NAMES_BYTES])]
        self._change(
            {
                Scope.NAMES_AT: self._arena.put(encoded),
                Scope.NAMES_BYTES: len(encoded),
                Scope.NAMES_VERSION: self._record[Scope.NAMES_VERSION] + 1,
            }
        )
        self._names = names
        self._arena.words[Header.NAMES_VERSION] += 1
        self._free(old)

    def _change(self, words: Mapping[Scope, int]) -> None:
        record = self._record
        record[Scope.COUNTER] += 1
        for word, value in words.items():
            record[word] = value
        record[Scope.COUNTER] += 1

    def _held(self) -> list[tuple[int, int]]:
        """The blocks that only the publication of now has."""
        return [(self._record[at], self._record[size]) for at, size in _HELD]

    def _free(self, blocks: Iterable[tuple[int, int]]) -> None:
        for at, size in blocks:
            if size:
                self._arena.free(at, size)


_HELD = ((Scope.MEMBERS_AT, Scope.MEMBERS_BYTES), (Scope.OUTLOOKS_AT, Scope.OUTLOOKS_BYTES))
_NONE: tuple[Members, msgspec.Raw] = (), msgspec.Raw(_encode([]))
