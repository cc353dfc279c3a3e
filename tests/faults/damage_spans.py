"""Where a store can be damaged: every byte of its two files, by what it is a byte of.

The files are parsed page by page here, independently of the code that the store uses.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from engine.backends.local.storage.keys import Family, family_of

PAGE = 4_096
HEADER, NODE = 16, 8
META_BYTES = 136
BRANCH, LEAF, OVERFLOW = 1, 2, 4
BIG = 1
NO_ROOT = (1 << 64) - 1


class Span(NamedTuple):
    """Bytes of a file that are of one kind."""

    file: str
    kind: str
    start: int
    end: int


class _Tree(NamedTuple):
    depth: int
    root: int


class _File:
    """One data file of LMDB."""

    def __init__(self, directory: Path, name: str) -> None:
        self._name = name
        self._content = (directory / name / "data.mdb").read_bytes()
        self._used = {0, 1}

    def spans(self) -> Iterator[Span]:
        newest = max((0, 1), key=lambda page: self._u64(page * PAGE + HEADER + 128))
        for page in (0, 1):
            which = "newest" if page == newest else "older"
            yield self._span(f"{which} meta page", page * PAGE, HEADER + META_BYTES)
            yield self._span("unused", page * PAGE + HEADER + META_BYTES, PAGE - HEADER - META_BYTES)
        for at, is_free_list in ((24, True), (72, False)):
            start = newest * PAGE + HEADER + at
            tree = _Tree(struct.unpack_from("<H", self._content, start + 6)[0], self._u64(start + 40))
            if tree.root != NO_ROOT:
                yield from self._page(tree.root, is_free_list)
        for page in set(range(len(self._content) // PAGE)) - self._used:
            yield self._span("free page", page * PAGE, PAGE)

    def _page(self, number: int, is_free_list: bool) -> Iterator[Span]:
        self._used.add(number)
        base = number * PAGE
        _, _, flags, lower, upper = struct.unpack_from("<QHHHH", self._content, base)
        tree = "free list " if is_free_list else ""
        kind = f"{tree}{'branch' if flags == BRANCH else 'leaf'} page"
        yield self._span(f"{kind}: header", base, HEADER)
        yield self._span(f"{kind}: pointers", base + HEADER, lower - HEADER)
        yield self._span("unused", base + lower, upper - lower)
        for pointer in struct.unpack_from(f"<{(lower - HEADER) // 2}H", self._content, base + HEADER):
            yield from self._node(base + pointer, flags == BRANCH, is_free_list, kind)

    def _node(self, at: int, is_branch: bool, is_free_list: bool, kind: str) -> Iterator[Span]:
        low, high, flags, size = struct.unpack_from("<HHHH", self._content, at)
        is_big = not is_branch and flags == BIG
        yield self._span(f"{kind}: {'node of a large value' if is_big else 'node'}", at, NODE)
        key = self._content[at + NODE : at + NODE + size]
        if is_branch:
            yield self._span(f"{kind}: key", at + NODE, size)
            yield from self._page(low | high << 16 | flags << 32, is_free_list)
            return
        family = "free list" if is_free_list else family_of(key).name
        yield self._span(f"{family} key", at + NODE, size)
        data, length = at + NODE + size, low | high << 16
        if not is_big:
            yield self._span(f"{family} value", data, length)
            return
        yield self._span(f"{family} place of value", data, 8)
        first, pages = self._u64(data), (HEADER - 1 + length) // PAGE + 1
        self._used |= set(range(first, first + pages))
        yield self._span("overflow page: header", first * PAGE, HEADER)
        yield self._span(f"{family} value", first * PAGE + HEADER, length)
        end = first * PAGE + HEADER + length
        yield self._span("unused", end, (first + pages) * PAGE - end)

    def _span(self, kind: str, start: int, length: int) -> Span:
        return Span(self._name, f"{self._name}: {kind}", start, start + length)

    def _u64(self, at: int) -> int:
        return int(struct.unpack_from("<Q", self._content, at)[0])


def spans_by_kind(directory: Path) -> dict[str, list[Span]]:
    """All bytes of a store's files, by kind. Every kind has some."""
    found: dict[str, list[Span]] = defaultdict(list)
    for name in ("index", "log"):
        for span in _File(directory, name).spans():
            if span.end > span.start:
                found[span.kind].append(span)
    return dict(sorted(found.items()))


def families_met(kinds: dict[str, list[Span]]) -> set[str]:
    """The families of which there are keys."""
    names = {family.name for family in Family}
    return {kind.split()[1] for kind in kinds if kind.endswith(" key") and kind.split()[1] in names}
