"""Background threads report to health checks and logs."""

from __future__ import annotations

from engine.errors import DataLoss, MilepostError
from service.background import WriteWatch


def test_health_reports_whether_writes_are_accepted() -> None:
    faults: list[MilepostError | None] = [None, DataLoss("keys are gone"), DataLoss("keys are gone"), None]
    told: list[bool] = []
    watch = WriteWatch(lambda: faults[len(told)], told.append)
    for _ in range(4):
        watch._turn()
    assert told == [True, False, False, True]
