"""Events that an account's retention no longer covers leave the store, and their room is used again.

What counts does not hang on it: criteria never look further back than the retention (`engine.plan.windows`).
So removal comes late on purpose and in steps of whole days: a question about an instant up to
`PAST_QUESTIONS_MICROS` ago finds every event that counted then, and most of what goes are slices of a table
that are dropped without being read.

Removal goes by the settled time (`engine.clock`): a clock that jumps removes nothing until it is believed.

Removed is removed: a longer retention covers what comes, or is sent again, from then on.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.backends.base import DataWriter
from engine.errors import MilepostError
from engine.resources.records import Account
from engine.resources.repository import Repository
from engine.values import MICROS_PER_DAY, Micros

RETENTION_INTERVAL_S = 600.0
"""How often `Retention.run` is to be called."""

PAST_QUESTIONS_MICROS = MICROS_PER_DAY
"""Events stay for so long after they have left the retention, and until that day (UTC) is over."""


class Retention:
    """Removes what is too old to count. Safe to call from several threads."""

    def __init__(self, repository: Repository, backend: DataWriter, settled: Callable[[], Micros]) -> None:
        self._repository = repository
        self._backend = backend
        self._settled = settled
        self._exact_since: dict[str, Micros] = {}

    def exact_since(self, account: str) -> Micros:
        """From this instant on a question finds all that counted then; before it, events have been removed.
        0 when this process has removed none.
        """
        return self._exact_since.get(account, 0)

    def run(self) -> None:
        """Removes what is due in every account.

        An account that fails does not keep the others waiting; the first failure is raised at the end.
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
        # A change of the retention waits: once it is answered, nothing is removed by the one before.
        with self._repository.writing():
            account = self._repository.find(Account, name)
            if account is None or not account.event_retention:
                return
            oldest = self._settled() - account.event_retention - PAST_QUESTIONS_MICROS
            before = oldest // MICROS_PER_DAY * MICROS_PER_DAY
            # Known first: whoever has looked meanwhile at what is about to go sees afterwards that it did.
            self._exact_since[name] = max(self.exact_since(name), before + account.event_retention)
            self._backend.remove_events(name, before)
