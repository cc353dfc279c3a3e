"""A machine whose clocks a test sets."""

from __future__ import annotations

from dataclasses import dataclass

from engine.values import Micros


@dataclass
class Machine:
    """The `real` time, a wall clock that is off by `wrong`, and a monotonic clock."""

    real: Micros
    wrong: Micros = 0
    running: Micros = 0

    def wall(self) -> Micros:
        """The reading of the wall clock."""
        return self.real + self.wrong

    def monotonic(self) -> Micros:
        """The reading of the monotonic clock."""
        return self.running

    def pass_time(self, micros: Micros) -> None:
        """Time passes."""
        self.real += micros
        self.running += micros

    def jump(self, micros: Micros) -> None:
        """Sets the wall clock ahead or back."""
        self.wrong += micros

    def restart(self, down: Micros) -> None:
        """Turns the machine off for a while; its monotonic clock restarts."""
        self.real += down
        self.running = 0
