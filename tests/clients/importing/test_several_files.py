"""Many files in one run: one bad file is named, the others go on, and the figures are added up."""

from __future__ import annotations

import re
from pathlib import Path

from tests.clients.importing.command import Target, rejected, write_csv


def test_one_bad_file_of_many_is_named_and_the_others_go_on(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{number:03}.csv", 2) for number in range(12)]
    files[4].write_text("id,name,time\na,buy,2026-01-01\n")
    files[7].write_bytes(b"PAR1")
    result = target.run(*files)
    assert result.exit_code == 1
    assert target.events() == 20
    told = [line for line in result.stderr.splitlines() if "warning" not in line]
    assert len(told) == 2
    assert told[0] == (
        f"milepost: {files[4]}: there is no column 'user_id' (--user-id-column)."
        " The columns: 'id', 'name', 'time'."
    )
    assert told[1].startswith(f"milepost: {files[7]}")
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


def test_what_is_wrong_with_all_files_is_said_once(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{number:03}.csv", 2) for number in range(5)]
    result = target.run(*files, "--time-column", "foo")
    assert result.exit_code == 1
    assert result.stderr.count("The columns:") == 1
    assert result.stderr.count(f"the same as {files[0]}") == 4
    # A missing account or input is no fault of the files.
    result = target.run(*files, input="w/j")
    assert result.exit_code == 1
    assert result.output.count("milepost:") == 1
    assert "input 'w/j' does not exist" in result.output
    assert target.events() == 0


def test_a_kind_for_an_attribute_of_no_file_is_refused_before_anything_is_sent(
    target: Target, tmp_path: Path
) -> None:
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


def test_side_files_are_in_one_place(target: Target, tmp_path: Path) -> None:
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


def test_a_directory_that_cannot_be_written_is_said_before_anything_is_sent(
    target: Target, tmp_path: Path
) -> None:
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


def test_a_run_again_leaves_the_rejected_rows_of_other_files_where_they_are(
    target: Target, tmp_path: Path
) -> None:
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
