"""Keys in order, however many: a sort in one call would keep every other thread waiting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

SORTED_AT_ONCE = 1 << 12
"""Keys that are sorted in one call: about a millisecond."""

PREFIX_BYTES = 8
"""Length of the prefix by which more keys than that are grouped."""
SHORT_PREFIX_BYTES = 2
"""The same for the prefixes themselves: there are 65,536 at most."""


def in_order(keys: Sequence[bytes], start: int = 0, step: int = PREFIX_BYTES) -> Iterator[bytes]:
    """Distinct keys, which have the first `start` bytes in common, in ascending order."""
    if len(keys) <= SORTED_AT_ONCE:
        yield from sorted(keys)
        return
    end = start + step
    by_prefix: dict[bytes, list[bytes]] = {}
    for key in keys:
        by_prefix.setdefault(key[:end], []).append(key)
    prefixes = [*by_prefix]
    is_short = step == SHORT_PREFIX_BYTES
    for prefix in sorted(prefixes) if is_short else in_order(prefixes, start, SHORT_PREFIX_BYTES):
        yield from in_order(by_prefix[prefix], end, step)
