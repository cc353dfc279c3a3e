"""Background threads report to health checks and logs."""

from __future__ import annotations

from typing import Any

import pytest

from engine.audiences.live.rounds import REST_S_MAX, REST_S_MIN
from engine.errors import DataLoss, MilepostError
from service import background
from service.background import Refresher, WriteWatch


def test_health_reports_whether_writes_are_accepted() -> None:
    faults: list[MilepostError | None] = [None, DataLoss("keys are gone"), DataLoss("keys are gone"), None]
    told: list[bool] = []
    watch = WriteWatch(lambda: faults[len(told)], told.append)
    for _ in range(4):
        watch._turn()
    assert told == [True, False, False, True]


class Rounds:
    """Rounds that take some processor time, and wait for others as well. It is the module `time`, too."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._spent = 0.0

    def refresh_timely(self, *, retry_after_s: float) -> dict[str, MilepostError]:
        assert retry_after_s > 0
        self._spent += self._seconds
        return {}

    def monotonic(self) -> float:
        return 10 * self._spent

    def thread_time(self) -> float:
        return self._spent


@pytest.mark.parametrize(
    ("seconds", "pause"),
    [
        (0.001, REST_S_MIN),
        (0.5 * REST_S_MIN, REST_S_MIN),
        (0.05, 0.05),
        (REST_S_MAX, REST_S_MAX),
        (3, REST_S_MAX),
    ],
)
def test_the_pause_after_a_round_is_as_long_as_it_computed(
    seconds: float, pause: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: Any = Rounds(seconds)
    monkeypatch.setattr(background, "time", rounds)
    assert Refresher(rounds, interval_s=0.2)._round() == pytest.approx(pause)
