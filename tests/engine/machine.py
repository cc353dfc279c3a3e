"""A machine whose clocks a test sets."""

from __future__ import annotations

from dataclasses import dataclass

from engine.values import Micros


@dataclass
class Machine:
    """The `real` time, a wall clock that is `wrong` by so much, and a monotonic clock."""

    real: Micros
    wrong: Micros = 0
    running: Micros = 0

    def wall(self) -> Micros:
        """What the wall clock shows."""
        return self.real + self.wrong

    def monotonic(self) -> Micros:
        """What the monotonic clock shows."""
        return self.running

    def pass_time(self, micros: Micros) -> None:
        """Time passes."""
        self.real += micros
        self.running += micros

    def jump(self, micros: Micros) -> None:
        """The wall clock is set ahead, or back."""
        self.wrong += micros

    def restart(self, down: Micros) -> None:
        """The machine is off for a while; its monotonic clock begins anew."""
        self.real += down
        self.running = 0
