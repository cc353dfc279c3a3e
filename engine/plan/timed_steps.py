"""The steps of a planner that depend on the instant: windows, relative times and retention."""

from __future__ import annotations

from collections.abc import Mapping

from engine.plan.compile import Planner
from engine.plan.model import Step, encode_step
from engine.values import TIME_MAX_MICROS, TIME_MIN_MICROS, Micros


class TimedSteps:
    """Makes the steps, by index among those of the planner, as of any instant."""

    def __init__(self, planner: Planner) -> None:
        # A step that is the same at both ends of time does not depend on it.
        self._makers = {
            index: make
            for index, make in planner.steps.makers.items()
            if encode_step(make(TIME_MIN_MICROS)) != encode_step(make(TIME_MAX_MICROS))
        }
        self._last: tuple[Micros, Mapping[int, Step]] | None = None

    def __bool__(self) -> bool:
        return bool(self._makers)

    def at(self, as_of: Micros) -> Mapping[int, Step]:
        """The steps as of an instant: made once for several questions about one."""
        last = self._last
        if last is None or last[0] != as_of:
            last = self._last = as_of, {index: make(as_of) for index, make in self._makers.items()}
        return last[1]
