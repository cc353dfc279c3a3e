"""What readers have to know beside sizes to answer estimates of calculated audiences (`EstimateOutlook`).

It costs about a question, so only audiences are looked at whose estimates were asked of this process lately,
and only once their account has had no write for a round: the next write ends what was found. Once readers
answer the estimates, nobody asks here any more; then the outlook ends after a while, the next question comes
here, and begins it again.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from engine.audiences.targets import Located, Targets
from engine.backends.base import EstimateOutlook, PlanExecutor
from engine.errors import MilepostError
from engine.plan.model import Plan
from engine.values import Micros

ASKED_MAX = 64
"""Audiences that are looked at: a round of all takes some tens of milliseconds."""
ASKED_S = 60.0
"""How long an audience is looked at after a question."""


State: TypeAlias = tuple[int, int, Mapping[str, str]]
"""The generation of the records, the number of writes and the calculated milestones."""


@dataclass(slots=True)
class _Asked:
    """A milestone whose estimate was asked for; the state of the last round, and what was found in which."""

    at: float
    seen: State | None = None
    found_in: State | None = None
    outlook: EstimateOutlook | None = None


class Outlooks:
    """The outlooks of estimates. Safe to call from several threads."""

    def __init__(
        self, targets: Targets, backend: PlanExecutor, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._targets = targets
        self._backend = backend
        self._timer = timer
        self._asked: OrderedDict[str, _Asked] = OrderedDict()
        self._lock = threading.Lock()

    def asked(self, milestone: str) -> None:
        """The estimate of a milestone (its resource name) was asked for."""
        with self._lock:
            known = self._asked.pop(milestone, None) or _Asked(0.0)
            known.at = self._timer()
            self._asked[milestone] = known
            while len(self._asked) > ASKED_MAX:
                self._asked.popitem(last=False)

    def of(
        self, milestones: Mapping[str, str], instant: Micros, generation: int, writes: int
    ) -> dict[str, EstimateOutlook]:
        """The outlooks of calculated milestones of a journey, by audience. `milestones` has all of them by
        audience; `generation` and `writes` are those from before the call.
        """
        if not self._asked:
            # Most often; without the lock, which each of many journeys would take.
            return {}
        found = {}
        audiences = {milestone: audience for audience, milestone in milestones.items()}
        state = generation, writes, milestones
        for milestone, asked in self._lately():
            if milestone not in audiences:
                continue
            if asked.seen != state:
                asked.seen = state
                continue
            if asked.found_in != state:
                asked.outlook = self._found(milestone, audiences, instant)
                asked.found_in = state
            if asked.outlook is not None:
                found[audiences[milestone]] = asked.outlook
        return found

    def _lately(self) -> Sequence[tuple[str, _Asked]]:
        with self._lock:
            since = self._timer() - ASKED_S
            while self._asked and next(iter(self._asked.values())).at < since:
                self._asked.popitem(last=False)
            return list(self._asked.items())

    def _found(self, milestone: str, audiences: Mapping[str, str], instant: Micros) -> EstimateOutlook | None:
        """The outlook of a milestone; None when its estimate takes more than sizes of such audiences."""
        try:
            located = self._targets.saved(milestone)
            needed = _needed(located)
            if not all(each in audiences for each in needed) or self._targets.warnings(located):
                return None
            compiled = located.compile(instant)
            if compiled.labels:
                return None
            work = self._work(compiled.plan, located)
        except MilepostError:
            # The question itself fails as it has to.
            return None
        parent = located.milestone.parent
        before = tuple(audiences[sibling.id] for sibling in located.tree.before(located.milestone))
        return EstimateOutlook("" if parent is None else audiences[parent], before, work)

    def _work(self, plan: Plan, located: Located) -> float:
        return self._backend.outlook(plan, located.tree.inputs).work


def _needed(located: Located) -> list[str]:
    """The milestones that a milestone draws from."""
    milestone, tree = located.milestone, located.tree
    above = [] if milestone.parent is None else [milestone.parent]
    return above + [sibling.id for sibling in tree.before(milestone)]
