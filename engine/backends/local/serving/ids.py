"""The ids of an account's users in the memory that readers map, by group and dense id.

They lie in pages, as in the store, which a page table of the group points at:

    users: 8 bytes · the end of each id: 4 bytes each, rounded up to whole words · the ids in UTF-8

A page is replaced as a whole when users are added to it or erased from it. An erased user has an empty id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from engine.backends.local.serving.arena import WORD_BYTES, Arena, Words, block_bytes
from engine.backends.local.storage.page_cache import PAGE_BITS, PAGE_MASK
from engine.backends.local.users.directory import Directory

END_BYTES = 4

MISSING_SHARE = 8
"""A page is put anew once this fraction of its ids is missing, or nobody has come since the last look: it
takes as long for a few new ids as for all of them.
"""


class IdPages:
    """Writes the ids of one group. Call with the state lock held."""

    def __init__(
        self,
        arena: Arena,
        directory: Directory,
        group: int,
        allocate: Callable[[int], Words],
        tell: Callable[[Words], None],
    ) -> None:
        """`allocate` gives memory for a table, and `tell` tells readers where that is."""
        self._arena = arena
        self._directory = directory
        self._group = group
        self._allocate = allocate
        self._tell = tell
        self._blocks: list[tuple[int, int]] = []
        """By page: where it is, and its size."""
        self.users = 0
        """Dense ids whose ids are there."""
        self._known = 0
        """Dense ids that were given at the last look."""
        self._table = self._new_table(1)

    @property
    def is_due(self) -> bool:
        """Whether a page is to be put. Needs no lock."""
        count = self._directory.counts[self._group]
        missing = count - self.users
        return missing > 0 and (count == self._known or missing * MISSING_SHARE >= self.users & PAGE_MASK)

    def look(self) -> None:
        """Remembers which users there are, to notice at the next look whether more have come."""
        self._known = self._directory.counts[self._group]

    def add_page(self) -> None:
        """Adds the ids of a page that are not there yet. Raises DataLoss."""
        page = self.users >> PAGE_BITS
        end = min(self._directory.counts[self._group], (page + 1) << PAGE_BITS)
        self._put(page, end)
        self.users = end

    def clear(self, users: Iterable[int]) -> None:
        """Users (dense ids) were erased. Raises DataLoss."""
        for page in {dense >> PAGE_BITS for dense in users if dense < self.users}:
            self._put(page, min(self.users, (page + 1) << PAGE_BITS), is_secret=True)

    def close(self) -> None:
        """Frees the pages. Readers know none any more."""
        self._tell(self._table[:0])
        for at, size in self._blocks:
            self._arena.free(at, size)
        self._blocks = []

    def _put(self, page: int, end: int, *, is_secret: bool = False) -> None:
        """Puts a page instead of the one before, of which with `is_secret` nothing is left."""
        encoded = encode_page(self._directory, self._group, page << PAGE_BITS, end)
        at = self._arena.put(encoded)
        if page < len(self._blocks):
            old, self._blocks[page] = self._blocks[page], (at, len(encoded))
            self._table[page] = at
            if is_secret:
                self._arena.array(old[0], block_bytes(old[1]) // WORD_BYTES)[:] = 0
            self._arena.free(*old)
            return
        if page == len(self._table):
            table = self._new_table(2 * page)
            table[:page] = self._table
            self._table = table
        self._blocks.append((at, len(encoded)))
        self._table[page] = at
        self._tell(self._table)

    def _new_table(self, pages: int) -> Words:
        table = self._allocate(pages)
        table[:] = 0
        return table


def encode_page(directory: Directory, group: int, start: int, end: int) -> bytes:
    """The ids from `start` to before `end`, which are of one page. Raises DataLoss."""
    [(text, ends)] = directory.joined_user_ids(group, start, end)
    users = end - start
    head = users.to_bytes(WORD_BYTES, "little") + ends[1:].astype(np.uint32).tobytes()
    return head.ljust(text_offset(users), b"\0") + text


def text_offset(users: int) -> int:
    """Where the text of a page of that many users begins, in bytes."""
    return WORD_BYTES + -(-END_BYTES * users // WORD_BYTES) * WORD_BYTES
