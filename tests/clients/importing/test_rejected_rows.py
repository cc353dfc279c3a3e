"""The file of rejected rows is JSON, whatever the values of the rows."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.importing.rejected import RejectedRows
from milepost.importing.source import Malformed, Segment
from tests.clients.importing.command import Target, write_csv


def test_rejected_rows_are_valid_json_for_any_value(target: Target, tmp_path: Path) -> None:
    """JSON has no NaN and no infinities: they are texts."""
    table = {"user_id": ["u"] * 3, "name": ["buy"] * 3, "time": [1, 2, 3]}
    values = [float("nan"), float("-inf"), float("inf")]
    pyarrow.parquet.write_table(pa.table({**table, "a": values}), tmp_path / "e.parquet")
    assert target.run(tmp_path / "e.parquet").exit_code == 3
    lines = (tmp_path / "e.parquet.rejected.ndjson").read_text().splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [each["data"]["a"] for each in read] == ["nan", "-inf", "inf"]


def test_lines_of_others_stay_in_a_shared_file(tmp_path: Path) -> None:
    """Only the own rows from the first one on go, and a line that a crash cut off."""
    shared = tmp_path / "all.ndjson"
    own = ['{"file": "e.csv", "row": 4}', '{"file": "e.csv", "row": 5}']
    others = ['{"file": "f.csv", "row": 9}', "user_id,name,time", '{"user_id": "u"}', "[1]"]
    shared.write_text("\n".join([*own, *others, '{"file": "e.c']))
    rows = RejectedRows(shared, Path("e.csv"), 5)
    rows.add(Segment(5, 1, (), malformed=[Malformed(5, "a", "is bad", "x")]), ())
    *kept, last = shared.read_text().splitlines()
    assert kept == [own[0], *others]
    assert json.loads(last)["description"] == "is bad"


@pytest.mark.parametrize("option", ["--rejected", "--progress-file"])
def test_a_side_file_is_no_file_to_import(target: Target, tmp_path: Path, option: str) -> None:
    path = write_csv(tmp_path / "e.csv", 3)
    before = path.read_bytes()
    (tmp_path / "link.csv").symlink_to(path)
    for arguments in ((path, option, path), (path, option, tmp_path / "link.csv", "--from-start", "--force")):
        result = target.run(*arguments)
        assert result.exit_code == 2
        assert f"{option} {arguments[2]} is a file to import: it would be overwritten" in result.output
    assert path.read_bytes() == before
    assert target.events() == 0


def test_what_is_no_file_is_refused_with_the_way_on(target: Target, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "many.csv").mkdir()
    for name, message in (
        ("pipe.csv", "is a pipe or a device: send its content to the standard input, and name -"),
        ("many.csv", "is a directory: name the files in it"),
        ("gone.csv", "does not exist"),
    ):
        result = target.run(tmp_path / name)
        assert (result.exit_code, f"{name} {message}" in result.output) == (1, True)
