"""What the columns of the CSV files of a run became, and why, is in what the command says."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost.importing import run as running
from milepost.v1.catalog_service_pb2 import VALUE_KIND_NUMBER, VALUE_KIND_STRING
from tests.clients.importing.command import Target, rejected


def kinds_of(target: Target) -> dict[str, list[int]]:
    with target.client() as client:
        return {each.key: sorted(each.kinds) for each in client.list_attributes(event_name="buy")}


def write(path: Path, amounts: list[str]) -> Path:
    lines = [f"u{row},buy,2026-01-01,{amount},gold" for row, amount in enumerate(amounts)]
    path.write_text("\n".join(["user_id,name,time,amount,plan", *lines]) + "\n")
    return path


def test_a_text_among_numbers_is_reported_with_its_row_and_options(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "e.csv", ["1.5"] * 17 + ["NA"] + ["2"] * 2)
    result = target.run(file)
    assert result.exit_code == 0
    why = "amount: string, because 'NA' (e.csv, row 17) is not a number; 19 of 20 are"
    assert f"warning: {why}. With --null-value NA it means no value, with --column" in result.stderr
    assert result.stdout.splitlines()[-2:] == ["columns: plan: string", f"column {why}"]
    assert kinds_of(target) == {"amount": [VALUE_KIND_STRING], "plan": [VALUE_KIND_STRING]}


@pytest.mark.parametrize(
    ("options", "exit_code", "events"),
    [(["--null-value", "NA"], 0, 3), (["--column", "amount:number"], 3, 2)],
)
def test_either_suggested_option_makes_the_column_numbers(
    target: Target, tmp_path: Path, options: list[str], exit_code: int, events: int
) -> None:
    file = write(tmp_path / "e.csv", ["1.5", "NA", "2"])
    result = target.run(file, *options)
    assert result.exit_code == exit_code, result.output
    assert "because" not in result.output
    assert target.events() == events
    assert kinds_of(target)["amount"] == [VALUE_KIND_NUMBER]


def test_kinds_are_found_over_all_files_of_a_run(target: Target, tmp_path: Path) -> None:
    files = [write(tmp_path / "a.csv", ["1", "2"]), write(tmp_path / "b.csv", ["3", "x"])]
    result = target.run(*files)
    assert result.exit_code == 0, result.output
    assert "column amount: string, because 'x' (b.csv, row 1) is not a number; 3 of 4 are" in result.stdout
    assert kinds_of(target)["amount"] == [VALUE_KIND_STRING]


def test_a_resumed_file_keeps_its_kinds(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it goes on alone, without the file that made a column texts."""
    files = [write(tmp_path / "a.csv", ["1", "2", "3", "4"]), write(tmp_path / "b.csv", ["x"])]
    send = running._Sending.send

    def stop(self: running._Sending, segment: object) -> None:
        send(self, segment)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(running._Sending, "send", stop)
        assert target.run(*files, "--segment-rows", 2).exit_code == 130
    assert target.events() == 2
    assert target.run(files[0], "--segment-rows", 2).exit_code == 0
    assert target.events() == 4
    assert kinds_of(target)["amount"] == [VALUE_KIND_STRING]


def test_a_file_with_a_damaged_end_is_refused_before_sending(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "e.csv", ["1"] * 10)
    file.write_text(file.read_text() + 'u,buy,2026-01-01,1,"open\n')
    other = write(tmp_path / "f.csv", ["1"])
    result = target.run(file, other, "--segment-rows", 2)
    assert result.exit_code == 1
    assert "a quote that is not closed before the end of the file" in result.stderr
    assert "1 of 2 files imported" in result.stdout
    assert target.events() == 1
    assert not (tmp_path / "e.csv.milepost-import.json").exists()


def test_skipped_objects_are_counted(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "e.ndjson"
    row = '{"user_id": "ann", "name": "buy", "time": "2026-01-01", "context": {"ip": "::1"}, "n": 1}\n'
    file.write_text(row * 3)
    result = target.run(file, "--skip-objects", "--segment-rows", 2)
    assert result.exit_code == 0, result.output
    assert "  left out, as no attribute holds such values: context (3)\n" in result.stdout
    assert target.events() == 3
    file.write_text(row * 4)
    result = target.run(file, "--from-start", "--force")
    assert result.exit_code == 3
    assert len(rejected(tmp_path / "e.ndjson.rejected.ndjson")) == 4


def test_messages_show_only_the_start_of_a_long_value(target: Target, tmp_path: Path) -> None:
    file = write(tmp_path / "e.csv", ["1.5", "x" * 100_000, "2"])
    result = target.run(file)
    shown = f"'{'x' * 60}'... (100,000 characters)"
    why = f"amount: string, because {shown} (e.csv, row 1) is not a number; 2 of 3 are"
    assert f"warning: {why}. With --column amount:number its row is rejected\n" in result.stderr
    assert "--null-value" not in result.stderr
    assert len(result.output) < 2_000
