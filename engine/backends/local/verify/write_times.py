"""Checks the spans of write times against the profiles."""

from __future__ import annotations

from collections.abc import Iterator

from engine.backends.local.attributes.profile_codec import ProfileData
from engine.backends.local.attributes.write_times import SPANS, Span
from engine.backends.local.storage.keys import Family, key
from engine.backends.local.storage.page_cache import PAGE_BITS
from engine.backends.local.verify.examination import Examination

_Page = tuple[int, int, int]
"""Account, group and page."""


class WriteTimesCheck:
    """Reads the spans, then every profile, and reports pages in which they disagree."""

    def __init__(self, examination: Examination) -> None:
        self._examination = examination
        self._spans: dict[_Page, dict[int, Span]] = {}
        """Stored spans, minus the writes found at each end."""
        self._outside: set[_Page] = set()
        """Pages with a write outside of its span."""

    def read(self) -> Iterator[None]:
        """Reads every stored span."""
        for page, _, spans in self._examination.values(Family.WRITE_TIMES, SPANS.decode):
            self._spans[page] = spans
            yield

    def meet(self, account: int, group: int, dense: int, profile: ProfileData) -> None:
        """The writes of one user."""
        page = (account, group, dense >> PAGE_BITS)
        spans = self._spans.get(page, {})
        for field, (time, _, value) in profile.items():
            if value is None:
                continue
            span = spans.get(field)
            if span is None or not span.first <= time <= span.last:
                self._outside.add(page)
            else:
                span.replace(time, None)

    def finish(self) -> None:
        """Called after all profiles."""
        if not self._examination.is_sound(Family.PROFILE, Family.WRITE_TIMES):
            return
        miscounted = {
            page
            for page, spans in self._spans.items()
            if any(span.at_first or span.at_last for span in spans.values())
        }
        for page in sorted(self._outside | miscounted):
            self._examination.fault(
                Family.WRITE_TIMES, "disagrees with the profiles", key(Family.WRITE_TIMES, *page)
            )
