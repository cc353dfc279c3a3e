"""Several files in one run: a bad file is named, the others are imported, and the figures are added up."""

from __future__ import annotations

import re
from pathlib import Path

from tests.clients.importing.command import Target, rejected, write_csv


def test_a_bad_file_is_named_and_the_others_are_imported(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{number:03}.csv", 2) for number in range(12)]
    files[4].write_text("id,name,time\na,buy,2026-01-01\n")
    files[7].write_bytes(b"PAR1")
    result = target.run(*files)
    assert result.exit_code == 1
    assert target.events() == 20
    messages = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(messages) == 2
    assert messages[0] == (
        f"milepost: {files[4]}: there is no column 'user_id' (--user-id-column)."
        " The columns: 'id', 'name', 'time'."
    )
    assert messages[1].startswith(f"milepost: {files[7]}")
    total, failed = result.stdout.splitlines()[-2:]
    assert re.fullmatch(
        r"10 of 12 files imported: 20 rows in [\d.]+ s, [\d,]+ rows/s; 20 events taken", total
    )
    assert failed == f"2 failed: {files[4]}, {files[7]}"
    # Mended, only what is missing is imported.
    write_csv(files[4], 2)
    files[7].unlink()
    write_csv(files[7], 2)
    result = target.run(*files)
    assert result.exit_code == 0, result.output
    assert target.events() == 24
    assert "12 of 12 files imported (10 of them before): 4 rows in" in result.stdout


def test_a_file_that_is_named_twice_is_one_file(target: Target, tmp_path: Path) -> None:
    first, second = write_csv(tmp_path / "a.csv", 2), write_csv(tmp_path / "b.csv", 3)
    link = tmp_path / "link.csv"
    link.symlink_to(first)
    result = target.run(second, first, link, tmp_path / "." / "b.csv")
    assert result.exit_code == 0, result.output
    assert "2 of 2 files imported: 5 rows in" in result.stdout
    assert "5 events taken" in result.stdout
    assert [line.partition(":")[0] for line in result.stdout.splitlines()[:2]] == ["b.csv", "a.csv"]


def test_a_fault_of_all_files_is_reported_once(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{number:03}.csv", 2) for number in range(5)]
    result = target.run(*files, "--time-column", "foo")
    assert result.exit_code == 1
    assert result.stderr.count("The columns:") == 1
    assert result.stderr.count(f"the same error as {files[0]}") == 4
    # A missing account or input is no fault of the files.
    result = target.run(*files, input="w/j")
    assert result.exit_code == 1
    assert result.output.count("milepost:") == 1
    assert "input 'w/j' does not exist" in result.output
    assert target.events() == 0


def test_a_kind_for_an_unknown_attribute_is_refused_before_sending(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / "a.csv", 2), write_csv(tmp_path / "b.csv", 2)]
    files[1].write_text("user_id,name,time,plan\nann,buy,2026-01-01,1\n")
    result = target.run(*files, "--column", "amuont:number")
    assert result.exit_code == 1
    assert "--column amuont: there is no column 'amuont', did you mean 'amount'?" in result.output
    assert target.events() == 0
    # Each of these is in one of the files.
    result = target.run(*files, "--column", "amount:number", "--column", "plan:string")
    assert result.exit_code == 0, result.output
    assert target.events() == 3


def test_side_dir_holds_all_side_files(target: Target, tmp_path: Path) -> None:
    files = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        files.append(write_csv(tmp_path / name / "e.csv", 3))
        files[-1].write_text(files[-1].read_text() + ",buy,2026-01-01,1\n")
    side = tmp_path / "state" / "import"
    result = target.run(*files, "--side-dir", side)
    assert result.exit_code == 3, result.output
    assert "2 of 2 files imported: 8 rows" in result.output
    assert "6 events taken, 2 rejected" in result.output
    names = [re.sub(r"\.[0-9a-f]{8}\.", ".#.", each.name) for each in side.iterdir()]
    assert sorted(names) == ["e.csv.#.milepost-import.json"] * 2 + ["e.csv.#.rejected.ndjson"] * 2
    assert sorted(each.name for name in "xy" for each in (tmp_path / name).iterdir()) == ["e.csv", "e.csv"]
    again = target.run(*files, "--side-dir", side)
    assert "2 of 2 files imported (2 of them before): 0 rows" in again.output
    assert target.events() == 6


def test_an_unwritable_directory_is_reported_before_sending(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    (tmp_path / "e.csv.milepost-import.json").mkdir()
    result = target.run(file)
    assert result.exit_code == 1
    assert "Progress and rejected rows are kept beside the file, or in --side-dir" in result.output
    assert target.events() == 0
    (tmp_path / "taken").write_text("")
    result = target.run(file, "--side-dir", tmp_path / "taken")
    assert result.exit_code == 2
    assert "--side-dir" in result.output
    assert target.run(file, "--side-dir", tmp_path / "side").exit_code == 0
    assert target.events() == 3


def test_a_second_run_keeps_rejected_rows_of_other_files(target: Target, tmp_path: Path) -> None:
    """A file of rejected rows that several files share is cut by file and row, not by length."""
    shared = tmp_path / "rejected.ndjson"
    files = [write_csv(tmp_path / f"{name}.csv", 1) for name in "ab"]
    for file in files:
        file.write_text(file.read_text() + ",buy,2026-01-01,1\n")
    options = ["--rejected", shared, "--column", "amount:number"]
    assert target.run(*files, *options).exit_code == 3
    assert [each["file"] for each in rejected(shared)] == [str(file) for file in files]
    # The first file once more: its row is there once, behind that of the other file.
    assert target.run(files[0], *options, "--from-start", "--force").exit_code == 3
    assert [each["file"] for each in rejected(shared)] == [str(files[1]), str(files[0])]
