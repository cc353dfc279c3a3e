"""Which pages leave the page cache: those used longest ago, without a look at all of them at once.

A cache of few pages is put in order of use. Of a larger one a sample tells since when pages have been used
that may stay; the others go, some at a time.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterator
from typing import Generic, Protocol, TypeVar

EVICT_TO_SHARE = 0.75
"""Share of the budget that stays in use."""
EVICT_AGAIN_GROWTH = 1.1
"""A cache of which too little can go tries again when it has grown by this factor."""
PAGES_AT_ONCE = 1 << 10
"""Pages that are looked at before others go first: a fraction of a millisecond."""


class Page(Protocol):
    """When a page was used last, and its bytes."""

    used: int
    size: int


P = TypeVar("P", bound=Page)


class Eviction(Generic[P]):
    """Makes room in a cache, in steps."""

    def __init__(
        self, pages: Collection[P], bytes_used: int, bytes_max: int, may_go: Callable[[P], bool]
    ) -> None:
        """`may_go`: whether a page can be read again."""
        self._bytes_max = bytes_max
        self._target = bytes_max * EVICT_TO_SHARE
        self._left: list[P] = []
        self._used_through = -1
        self._is_enough = False
        stride = -(-len(pages) // PAGES_AT_ONCE) or 1
        sample = sorted(
            filter(may_go, itertools.islice(pages, 0, None, stride)), key=operator.attrgetter("used")
        )
        if not sample:
            return
        if stride == 1:
            self._left, self._used_through = sample, sample[-1].used
        else:
            self._left = list(pages)
            self._used_through = _used_through(sample, (bytes_used - self._target) / stride)
        # They are taken from the end: those that have been there for longest first.
        self._left.reverse()

    def next_pages(self) -> Iterator[P]:
        """The next pages to evict, if they may go."""
        for _ in range(min(PAGES_AT_ONCE, len(self._left))):
            page = self._left.pop()
            if page.used <= self._used_through:
                yield page

    def has_room(self, bytes_used: int) -> bool:
        """Whether enough has gone."""
        self._is_enough = bytes_used <= self._target
        return self._is_enough

    @property
    def is_over(self) -> bool:
        """Whether nothing more goes."""
        return self._is_enough or not self._left

    def again_above(self, bytes_used: int) -> int:
        """The bytes from which it is worth trying again."""
        if self._is_enough:
            return self._bytes_max
        return max(self._bytes_max, int(bytes_used * EVICT_AGAIN_GROWTH))


def _used_through(sample: list[P], surplus: float) -> int:
    """The latest use among the pages to evict, which together free `surplus` bytes. The sample is in order of
    use.
    """
    for page, freed in zip(sample, itertools.accumulate(page.size for page in sample), strict=True):
        if freed >= surplus:
            return page.used
    return sample[-1].used
