"""The file of rejected rows is JSON, whatever the values of the rows."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.clients.importing.command import Target


def test_rejected_rows_are_json_whatever_their_values(target: Target, tmp_path: Path) -> None:
    """JSON has no NaN and no infinities: they are texts."""
    table = {"user_id": ["u"] * 3, "name": ["buy"] * 3, "time": [1, 2, 3]}
    values = [float("nan"), float("-inf"), float("inf")]
    pyarrow.parquet.write_table(pa.table({**table, "a": values}), tmp_path / "e.parquet")
    assert target.run(tmp_path / "e.parquet").exit_code == 3
    lines = (tmp_path / "e.parquet.rejected.ndjson").read_text().splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [each["data"]["a"] for each in read] == ["nan", "-inf", "inf"]
