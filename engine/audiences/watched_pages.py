"""Pages of changes that many watchers read at once: those of one audience are all at its last change."""

from __future__ import annotations

import threading
from collections import OrderedDict

from engine.backends.base import ChangePage, MembershipReader

PAGES_MAX = 32
"""Pages that are kept: those read last."""


class WatchedPages:
    """Reads pages of change logs, each once for all watchers that read it soon after one another."""

    def __init__(self, backend: MembershipReader, changes_max: int) -> None:
        """A page has at most `changes_max` changes."""
        self._backend = backend
        self._changes_max = changes_max
        self._pages: OrderedDict[tuple[str, int, int], ChangePage] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, audience: str, epoch: str, after: int, last: int) -> ChangePage:
        """The changes after `after` up to `last`, an audience's last change, or the first page of them.
        Raises CursorExpired, NotFound.
        """
        key = epoch, after, last
        with self._lock:
            page = self._pages.get(key)
        if page is None:
            page = self._backend.changes(audience, after, min(self._changes_max, last - after))
            with self._lock:
                self._pages[key] = page
                if len(self._pages) > PAGES_MAX:
                    self._pages.popitem(last=False)
        return page
