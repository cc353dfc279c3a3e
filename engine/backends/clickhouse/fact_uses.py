"""Which facts questions ask about most: these get columns of their own in the next base."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence

from engine.backends.clickhouse.tables import CONSENT, IDENTITY, consent_key
from engine.plan.model import Plan
from engine.plan.reads import reads_of

FACTS_MAX = 1_000
"""Facts of an account whose uses are counted. Beyond, those used least are forgotten."""

Fact = tuple[str, str]
"""Place and key."""


class FactUses:
    """Counts uses by account, in memory. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[Fact]] = {}

    def note(self, plan: Plan) -> None:
        """A plan is asked over many users."""
        reads = reads_of(plan.steps)
        facts = [
            *reads.attributes,
            *((IDENTITY, type_) for type_ in reads.identities),
            *((CONSENT, consent_key(*consent)) for consent in reads.consents),
        ]
        if not facts:
            return
        with self._lock:
            counts = self._counts.setdefault(plan.account, Counter())
            counts.update(facts)
            if len(counts) > FACTS_MAX:
                self._counts[plan.account] = Counter(dict(counts.most_common(FACTS_MAX // 2)))

    def most_used(self, account: str, count: int, before: Sequence[Fact]) -> tuple[Fact, ...]:
        """At most `count` facts, those used most first. Then come some of `before`: right after a start
        nothing is counted.
        """
        with self._lock:
            counts = self._counts.get(account, Counter())
            # Of equal ones in one order, whatever came first.
            found = sorted(counts, key=lambda fact: (-counts[fact], fact))
        return tuple(dict.fromkeys((*found, *before)))[:count]
