"""`--exclude` and `--flatten` that fit nothing are refused before a row is sent, as an unknown `--column` is.
If not all columns are known before, there is a warning. A column to be left out must not be sent unseen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.importing import CannotImport, Settings, import_file
from tests.clients.importing.command import Target

ROW: dict[str, Any] = {
    "user_id": "ann",
    "name": "buy",
    "time": "2026-01-01T00:00:00Z",
    "email": "ann@example.com",
    "properties": {"price": 5.0, "utm_source": "x"},
}
PLAIN = {name: value for name, value in ROW.items() if name != "properties"}
FORMATS = ["csv", "ndjson", "parquet"]

UNUSED = [
    (["--exclude", "emial"], "--exclude emial: there is no column 'emial', did you mean 'email'?"),
    (["--exclude", "phone"], "--exclude phone: there is no column 'phone'. The columns: 'user_id', 'name'"),
    (["--exclude", "utm_*"], "--exclude 'utm_*': no column is like 'utm_*'."),
    (["--exclude", "user_id"], "--exclude user_id: is not an attribute."),
    (["--exclude", ""], "--exclude '': every column has a name."),
    (["--flatten", "properties"], "--flatten properties: there is no object 'properties'."),
    (["--flatten", "email"], "--flatten email: there is no object 'email'."),
    (
        ["--exclude", "email", "--exclude", "x", "--flatten", "y"],
        "--exclude x: there is no column 'x'; --flatten y",
    ),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format of the file's suffix."""
    match path.suffix:
        case ".csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
            path.write_text("\n".join(lines) + "\n")
        case ".ndjson":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case _:
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


def keys(target: Target) -> set[str]:
    """The attributes that came in."""
    with target.client() as client:
        return {each.key for each in client.list_attributes(event_name="buy")}


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("arguments", "said"), UNUSED)
def test_what_names_nothing_is_refused_before_a_row_is_sent(
    target: Target, tmp_path: Path, format_: str, arguments: list[str], said: str
) -> None:
    result = target.run(write(tmp_path / f"e.{format_}", [PLAIN]), *arguments)
    assert result.exit_code == 1
    assert said in result.output
    assert target.events() == 0


@pytest.mark.parametrize("format_", FORMATS)
def test_what_names_something_is_used(target: Target, tmp_path: Path, format_: str) -> None:
    row = PLAIN if format_ == "csv" else ROW
    flatten = [] if format_ == "csv" else ["--flatten", "properties", "--exclude", "utm_*"]
    # Two patterns for one column do something both.
    result = target.run(
        write(tmp_path / f"e.{format_}", [row]), *flatten, "--exclude", "email", "--exclude", "*mail"
    )
    assert result.exit_code == 0, result.output
    assert "--exclude" not in result.output
    assert keys(target) == (set() if format_ == "csv" else {"price"})


def test_a_long_file_of_lines_is_imported_with_a_warning(target: Target, tmp_path: Path) -> None:
    rows = [*[PLAIN] * 1_000, ROW]
    arguments = [
        "--exclude",
        "emial",
        "--exclude",
        "utm_*",
        "--flatten",
        "propertys",
        "--flatten",
        "properties",
    ]
    result = target.run(write(tmp_path / "e.ndjson", rows), *arguments)
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.output.splitlines() if "matches nothing" in line]
    assert warnings == [
        f"milepost: warning: {tmp_path / 'e.ndjson'}: --exclude emial matches nothing in any row",
        f"milepost: warning: {tmp_path / 'e.ndjson'}: --flatten propertys matches nothing in any row",
    ]
    assert keys(target) == {"email", "price"}


@pytest.mark.parametrize("lines", [1, 1_001])
def test_one_file_of_several_is_enough(target: Target, tmp_path: Path, lines: int) -> None:
    files = [
        write(tmp_path / "a.ndjson", [PLAIN] * lines),
        write(tmp_path / "b.ndjson", [ROW] * lines),
        write(tmp_path / "c.csv", [PLAIN]),
    ]
    used = ["--exclude", "utm_*", "--exclude", "email", "--flatten", "properties"]
    result = target.run(*files, *used, "--from-start")
    assert result.exit_code == 0, result.output
    assert "matches nothing" not in result.output
    assert target.events() == 2 * lines + 1
    result = target.run(
        *files, *used, "--exclude", "phone", "--column", "amount:number", "--from-start", "--force"
    )
    if lines == 1:
        assert result.exit_code == 1
        assert (
            "--column amount: there is no column 'amount'; --exclude phone: there is no column"
            in result.output
        )
    else:
        assert result.exit_code == 0, result.output
        warnings = [
            line for line in result.output.splitlines() if "warning: " in line and "event id" not in line
        ]
        assert warnings == [
            "milepost: warning: --exclude phone matches nothing in any row",
            "milepost: warning: no row has the attribute 'amount' that --column names",
        ]


def test_what_a_profile_takes_apart_may_be_missing(target: Target, tmp_path: Path) -> None:
    row = {"userId": "ann", "event": "buy", "originalTimestamp": ROW["time"], "messageId": "1"}
    result = target.run(write(tmp_path / "e.ndjson", [row]), "--profile", "segment")
    assert result.exit_code == 0, result.output
    result = target.run(
        write(tmp_path / "f.ndjson", [row]), "--profile", "segment", "--flatten", "context.traits"
    )
    assert result.exit_code == 1
    assert "--flatten context.traits: there is no object 'context.traits'" in result.output


def test_the_library_refuses_too(target: Target, tmp_path: Path) -> None:
    path = write(tmp_path / "e.csv", [PLAIN])
    with target.client() as client, pytest.raises(CannotImport, match="--exclude emial: there is no column"):
        import_file(client, path, Settings(input="w/i", exclude=("emial",)))
    long = write(tmp_path / "e.ndjson", [PLAIN] * 1_001)
    with target.client() as client:
        imported = import_file(client, long, Settings(input="w/i", exclude=("emial", "email")))
    assert imported.unused == [("--exclude", "emial")]
