"""Removes events that an account's retention no longer covers, and frees their space.

Answers do not depend on it: criteria never look back further than the retention (`engine.plan.windows`). So
removal is late on purpose and in whole days: a question about an instant up to `PAST_QUESTIONS_MICROS` ago
finds every event that counted then, and most removed events are in slices of a table that are dropped without
being read.

Removal follows the settled time (`engine.clock`): after a clock jump nothing is removed until the clock is
trusted.

Removal is final: a longer retention applies only to events that arrive, or are sent again, afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from engine.backends.base import DataWriter
from engine.errors import MilepostError
from engine.resources.records import Account
from engine.resources.repository import Repository
from engine.values import MICROS_PER_DAY, Micros

RETENTION_INTERVAL_S = 600.0
"""Interval between calls of `Retention.run`."""

PAST_QUESTIONS_MICROS = MICROS_PER_DAY
"""Delay between an event leaving the retention and its removal, extended to the end of that day (UTC)."""


_log = logging.getLogger(__name__)


class Retention:
    """Removes events past the retention. Safe to call from several threads."""

    def __init__(self, repository: Repository, backend: DataWriter, settled: Callable[[], Micros]) -> None:
        self._repository = repository
        self._backend = backend
        self._settled = settled
        self._exact_since: dict[str, Micros] = {}

    def exact_since(self, account: str) -> Micros:
        """The earliest instant for which answers are complete; earlier events have been removed. 0 when this
        process has removed none.
        """
        return self._exact_since.get(account, 0)

    def forget(self, account: str) -> None:
        """Forgets a deleted account."""
        self._exact_since.pop(account, None)

    def run(self) -> None:
        """Removes expired events in every account.

        An account that fails does not delay the others; the first failure is raised at the end.
        """
        failures: list[MilepostError] = []
        for account in self._repository.scan(Account, ""):
            try:
                self._remove(account.name)
            except MilepostError as error:
                failures.append(error)
        if failures:
            raise failures[0]

    def _remove(self, name: str) -> None:
        known = self._repository.find(Account, name)
        if known is None or not known.event_retention:
            return
        before, removals = self._oldest_kept(known), 0
        for names in self._backend.events_before(name, before):
            # A change of the retention waits for one removal at most, and the old one removes nothing after
            # the call has returned.
            with self._repository.writing():
                account = self._repository.find(Account, name)
                if account is None or not account.event_retention or self._oldest_kept(account) < before:
                    break
                # Before removing, so that a concurrent reader can detect afterwards that events were removed.
                self._exact_since[name] = max(self.exact_since(name), before + account.event_retention)
                self._backend.remove_events(name, before, names)
            removals += 1
        if removals:
            _log.info("events removed", extra={"account": name, "before": before, "removals": removals})

    def _oldest_kept(self, account: Account) -> Micros:
        """The instant before which events of an account with a retention are removed."""
        oldest = self._settled() - account.event_retention - PAST_QUESTIONS_MICROS
        return oldest // MICROS_PER_DAY * MICROS_PER_DAY
