"""Options that say how files are read, as the command line takes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
)
from tests.clients.importing.command import Target


def kinds(target: Target) -> dict[str, list[int]]:
    with target.client() as client:
        return {each.key: list(each.kinds) for each in client.list_attributes(event_name="buy")}


def test_a_semicolon_file_with_commas_in_numbers(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    text = "user_id;name;when;price;utm_source;zip\nann;buy;01.11.2025 10:00;9,5;x;01234\n"
    path.write_text(text, encoding="utf-8")
    result = target.run(path)
    assert result.exit_code == 1
    needed = "none of the columns that rows need (user_id, time, name), and looks separated by something else"
    assert f"export.csv, line 1: the header has {needed}: give --delimiter ';'" in result.output
    assert "event_id" not in result.output
    options = ["--delimiter", ";", "--decimal-comma", "--time-column", "when", "--exclude", "utm_*"]
    result = target.run(path, *options, "--time-format", "%d.%m.%Y %H:%M")
    assert result.exit_code == 0, result.output
    assert kinds(target) == {"price": [VALUE_KIND_NUMBER], "zip": [VALUE_KIND_STRING]}
    with target.client() as client:
        (name,) = client.list_event_names()
        assert name.last_time.ToJsonString() == "2025-11-01T10:00:00Z"


def test_lines_of_segment(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "calls.ndjson"
    line = {
        "type": "track",
        "userId": "ann",
        "event": "buy",
        "messageId": "m",
        "originalTimestamp": "2025-11-01T10:00:00Z",
        "properties": {"price": 9.5, "cart": [{"sku": 1}]},
        "context": {"ip": "::1"},
    }
    path.write_text(json.dumps(line), encoding="utf-8")
    result = target.run(path, "--profile", "segment")
    assert result.exit_code == 0, result.output
    assert "left out, as no attribute holds such values: cart (1), context (1)" in result.output
    assert kinds(target) == {"price": [VALUE_KIND_NUMBER], "type": [VALUE_KIND_STRING]}
    # The message id is the event id.
    again = target.run(path, "--profile", "segment", "--from-start", "--request-id", "2")
    assert "1 was there already" in again.output


def test_times_by_an_option(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text("user_id,name,paid\nann,buy,2025-11-01 10:00+0100\n", encoding="utf-8")
    assert target.run(path).exit_code == 1
    result = target.run(path, "--default-time", "2025-11-02")
    assert result.exit_code == 0, result.output
    assert kinds(target) == {"paid": [VALUE_KIND_TIME]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--delimiter", ";;"], "--delimiter must be one character, or tab, not ';;'"),
        (["--time-format", "%Q"], "has %Q; known are"),
        (["--default-time", "soon"], "--default-time: expected a time like"),
        (["--profile", "other"], "--profile must be one of segment, rudderstack, not 'other'"),
    ],
)
def test_options_that_cannot_be_used(
    target: Target, tmp_path: Path, options: list[str], message: str
) -> None:
    result = target.run(tmp_path / "e.csv", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_the_standard_input(target: Target, tmp_path: Path) -> None:
    text = b"user_id,name,time,n\nann,buy,2025-11-01,1\nbob,buy,never,2\n"
    main = "from milepost.cli import main; main()"
    options = ["--input", "w/i", "--target", target.address, "--account", target.account]

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-c", main, "import", *arguments, *options]
        return subprocess.run(command, input=text, capture_output=True, cwd=tmp_path, check=False, timeout=60)

    result = run("-", "--format", "csv")
    assert result.returncode == 3, result.stderr
    assert b"1 event taken, 1 rejected, see standard-input.rejected.ndjson" in result.stdout
    [line] = (tmp_path / "standard-input.rejected.ndjson").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["data"] == {"user_id": "bob", "name": "buy", "time": "never", "n": "2"}
    # The same bytes are the same import, although nothing was kept of it.
    assert run("-", "--format", "csv").returncode == 3
    assert target.events() == 1
    assert b"- is the standard input: give it alone, with --format" in run("-").stderr
