"""A scope in the memory that readers map: its members, and for which definitions and instant they hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
from pyroaring import BitMap

from engine.backends.base.serving import EstimateOutlook
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


class SharedScope:
    """Writes the record of one scope. One thread at a time."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.at = arena.allocate(SCOPE_WORDS * WORD_BYTES)
        self._record = arena.words[self.at // WORD_BYTES : self.at // WORD_BYTES + SCOPE_WORDS]
        for word in range(SCOPE_WORDS):
            self._record[word] = 0
        self._record[Scope.GENERATION] = NOT_SERVED
        self._blocks: dict[tuple[str, int], tuple[BitMap, Block]] = {}
        """By audience and group: the bitmap that is published, and where."""
        self._names: dict[str, int] = {}
        self._columns: dict[str, int] = {}
        """By audience, for good: a reader may know a name from before and the members from now."""

    def publish(
        self,
        members: Mapping[str, Sequence[BitMap]],
        names: Mapping[str, str],
        publication: Publication,
    ) -> None:
        """Publishes members (by audience, then group)."""
        blocks = {
            (audience, group): self._block(audience, group, users)
            for audience, groups in members.items()
            for group, users in enumerate(groups)
        }
        for audience in members:
            self._columns.setdefault(audience, len(self._columns))
        encoded = _encode(
            [
                [blocks[audience, group][1] for group in range(len(members.get(audience, ())))]
                for audience in self._columns
            ]
        )
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
        old += [
            (block.at, block.size)
            for key, (_, block) in self._blocks.items()
            if blocks.get(key, _NONE)[1] != block
        ]
        self._change(words)
        self._blocks = blocks
        self._free(old)
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
        old = self._held() + [(block.at, block.size) for _, block in self._blocks.values()]
        self._change({Scope.GENERATION: NOT_SERVED} | {word: 0 for at in _HELD for word in at})
        self._blocks = {}
        self._free(old)
        self._tell_names({})

    def _block(self, audience: str, group: int, users: BitMap) -> tuple[BitMap, Block]:
        known = self._blocks.get((audience, group))
        # What is published never changes, so the same object has the same members.
        if known is not None and known[0] is users:
            return known
        if not users:
            return users, EMPTY
        data = users.serialize()
        return users, Block(self._arena.next_number(), self._arena.put(data), len(data), len(users))

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
_NONE = (BitMap(), EMPTY)
