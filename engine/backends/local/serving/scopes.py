"""A scope in the memory that readers map: its members, and for which definitions and instant they hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from pyroaring import BitMap

from engine.backends.local.serving.arena import WORD_BYTES, Arena
from engine.backends.local.serving.layout import NOBODY, NOT_SERVED, SCOPE_WORDS, WORD_MASK, Header, Scope

_encode = msgspec.msgpack.Encoder().encode


class Block(msgspec.Struct, frozen=True, array_like=True):
    """A serialised bitmap: a number that no other has, and where it is. NOBODY stands for the empty one."""

    number: int
    at: int
    size: int


EMPTY = Block(NOBODY, 0, 0)


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
        *,
        stamp: int,
        account_at: int,
        generation: int,
        reached: int,
        depends_on_time: bool,
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
        words = {
            Scope.GENERATION: generation,
            Scope.REACHED: reached & WORD_MASK,
            Scope.DEPENDS_ON_TIME: int(depends_on_time),
            Scope.STAMP: stamp,
            Scope.ACCOUNT_AT: account_at,
            Scope.MEMBERS_AT: self._arena.put(encoded),
            Scope.MEMBERS_BYTES: len(encoded),
        }
        old = [(self._record[Scope.MEMBERS_AT], self._record[Scope.MEMBERS_BYTES])]
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

    def move_on(self, generation: int, reached: int) -> None:
        """The members that are published hold for these as well."""
        self._change({Scope.GENERATION: generation, Scope.REACHED: reached & WORD_MASK})

    def end(self) -> None:
        """Serves nothing any more."""
        old = [(block.at, block.size) for _, block in self._blocks.values()]
        old.append((self._record[Scope.MEMBERS_AT], self._record[Scope.MEMBERS_BYTES]))
        self._change({Scope.GENERATION: NOT_SERVED, Scope.MEMBERS_AT: 0, Scope.MEMBERS_BYTES: 0})
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
        return users, Block(self._arena.next_number(), self._arena.put(data), len(data))

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

    def _free(self, blocks: Iterable[tuple[int, int]]) -> None:
        for at, size in blocks:
            if size:
                self._arena.free(at, size)


_NONE = (BitMap(), EMPTY)
