"""What the threads beside the server tell."""

from __future__ import annotations

from engine.errors import DataLoss, MilepostError
from service.background import WriteWatch


def test_health_follows_whether_writes_are_taken() -> None:
    faults: list[MilepostError | None] = [None, DataLoss("keys are gone"), DataLoss("keys are gone"), None]
    told: list[bool] = []
    watch = WriteWatch(lambda: faults[len(told)], told.append)
    for _ in range(4):
        watch._turn()
    assert told == [True, False, False, True]
