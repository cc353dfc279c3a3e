"""Times in 1970 cause a warning before they are sent, with the unit that is likely meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.importing.early_times import EarlyTimes, early_times
from milepost.v1.ingest_service_pb2 import (
    TIME_UNIT_MICROSECONDS,
    TIME_UNIT_MILLISECONDS,
    TIME_UNIT_SECONDS,
    TimeUnit,
)
from tests.clients.importing.command import Target

SECONDS = [1_790_000_000 + second for second in range(4)]
MILLIS = [second * 1_000 for second in SECONDS]
MICROS = [second * 1_000_000 for second in SECONDS]


@pytest.mark.parametrize(
    ("times", "unit", "likely"),
    [
        (pa.array(SECONDS), TIME_UNIT_MICROSECONDS, "s"),
        (pa.array(SECONDS), TIME_UNIT_MILLISECONDS, "s"),
        (pa.array(MILLIS), TIME_UNIT_MICROSECONDS, "ms"),
        (pa.array(map(str, MILLIS)).dictionary_encode(), TIME_UNIT_MICROSECONDS, "ms"),
        (pa.array([*map(str, SECONDS), "yesterday", None]), TIME_UNIT_MICROSECONDS, "s"),
        (pa.array(SECONDS, pa.uint64()), TIME_UNIT_MICROSECONDS, "s"),
        (pa.array([each + 0.5 for each in SECONDS]), TIME_UNIT_MICROSECONDS, "s"),
        (pa.array([f"{each}.25" for each in SECONDS]), TIME_UNIT_MICROSECONDS, "s"),
        (pa.array(SECONDS).cast(pa.decimal128(38, 9)), TIME_UNIT_MICROSECONDS, "s"),
        # A file whose writer made the mistake: the type says the unit, and no option mends it.
        (pa.array(SECONDS, pa.timestamp("us")), TIME_UNIT_MICROSECONDS, ""),
        (pa.array([0, 0]), TIME_UNIT_MICROSECONDS, ""),
    ],
)
def test_times_in_1970_are_found(times: Any, unit: TimeUnit.ValueType, likely: str) -> None:
    found = early_times([pa.record_batch({"time": times})], "time", unit)
    of_1970 = 2 if len(times) == 2 else 4
    assert found == EarlyTimes(of_1970, len(times) - times.null_count, likely)


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (pa.array(SECONDS), TIME_UNIT_SECONDS),
        (pa.array(MICROS), TIME_UNIT_MICROSECONDS),
        (pa.array(MICROS, pa.timestamp("us", "UTC")), TIME_UNIT_MICROSECONDS),
        (pa.array(["2026-01-01", "9" * 30, "5", "-5"]), TIME_UNIT_MICROSECONDS),
        (pa.array([1 << 63, 1 << 63, 5], pa.uint64()), TIME_UNIT_MICROSECONDS),
        (pa.array([-1, -1]), TIME_UNIT_MICROSECONDS),
        (pa.array([5, *MICROS]), TIME_UNIT_MICROSECONDS),
        (pa.array([None], pa.null()), TIME_UNIT_MICROSECONDS),
        (pa.array([], pa.int64()), TIME_UNIT_MICROSECONDS),
        (pa.array([float("nan"), 1e300, 1.7e15]), TIME_UNIT_MICROSECONDS),
    ],
)
def test_other_times_are_not_found(times: Any, unit: TimeUnit.ValueType) -> None:
    assert early_times([pa.record_batch({"time": times})], "time", unit) is None
    assert early_times([pa.record_batch({"at": times})], "time", unit) is None


@pytest.mark.parametrize("suffix", ["csv", "ndjson", "parquet"])
def test_the_command_warns_before_it_sends(target: Target, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"e.{suffix}"
    if suffix == "parquet":
        table = pa.table({"user_id": list("abcd"), "name": ["buy"] * 4, "time": SECONDS})
        pyarrow.parquet.write_table(table, file)
    elif suffix == "csv":
        file.write_text("\n".join(["user_id,name,time", *(f"u,buy,{second}" for second in SECONDS)]))
    else:
        file.write_text(
            "\n".join(f'{{"user_id": "u", "name": "buy", "time": {second}}}' for second in SECONDS)
        )
    result = target.run(file)
    assert result.stderr.startswith(
        f"milepost: warning: {file}: 4 of 4 times of its first segment fall into 1970."
        " Likely they are in another unit: --time-unit s\n"
    )
    assert "fall into 1970" not in target.run(file, "--time-unit", "s", "--request-id", "r").output
