"""A first try that fails: it is refused once, names what exists, and never blocks the corrected command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from milepost.importing import CannotImport, Settings, import_file
from tests.clients.importing.command import Target, rejected, write_csv
from tests.harness import serving


def side_files(directory: Path) -> list[str]:
    return sorted(
        each.name for each in directory.iterdir() if "milepost-import" in each.name or "rejected" in each.name
    )


FIRST_TRIES = [
    (
        ["--time-column", "foo"],
        {},
        1,
        "no column 'foo' (--time-column). The columns: 'user_id', 'name', 'time'",
    ),
    (["--user-id-column", "userid"], {}, 1, "no column 'userid', did you mean 'user_id'? (--user-id-column)"),
    (["--event-id-column", "id"], {}, 1, "there is no column 'id' (--event-id-column)"),
    (
        ["--column", "amuont:number"],
        {},
        1,
        "no column 'amuont', did you mean 'amount'? The columns: 'user_id'",
    ),
    (["--column", "time:string"], {}, 1, "--column time: is not an attribute"),
    (["--column", "amount:int"], {}, 2, "--column must be NAME:KIND"),
    ([], {"account": "acount"}, 1, "account 'acount' (--account) does not exist, did you mean 'account"),
    ([], {"account": "A1"}, 2, "the account's id must be 1-63 of a-z0-9-, starting with a letter, not 'A1'"),
    (["--create"], {"account": "A1"}, 2, "the account's id must be 1-63 of a-z0-9-"),
    ([], {"input": "W/i"}, 2, "(each must be 1-63 of a-z0-9-, starting with a letter), not 'W/i'"),
    (["--create"], {"input": "w/i/j"}, 2, "--input must be WORKSPACE/INPUT, not 'w/i/j'"),
    (["--create"], {"input": "accounts/b/workspaces/w/inputs/i"}, 2, "makes inputs of --account account"),
    ([], {"input": "w/j"}, 1, ", did you mean 'w/i'? The inputs: 'w/i'. --create makes it"),
    ([], {"input": "i"}, 2, "--input must be WORKSPACE/INPUT, not 'i'. The inputs: 'w/i'."),
    ([], {"input": ""}, 2, "events need an input: --input WORKSPACE/INPUT, or --input-column"),
    (["--format", "parquet"], {}, 1, "is not a Parquet file"),
    (["--time-unit", "h"], {}, 2, "--time-unit must be one of"),
    # Read in full, and no row can be taken: nothing is in the service either.
    (["--time-column", "name"], {}, 3, "3 rows rejected, time: is not a time"),
    (["--input-column", "name"], {"input": ""}, 3, "3 rows rejected, input: input 'buy' does not exist"),
]


@pytest.mark.parametrize(("arguments", "place", "exit_code", "said"), FIRST_TRIES)
def test_the_corrected_command_goes_through(
    target: Target, tmp_path: Path, arguments: list[str], place: dict[str, str], exit_code: int, said: str
) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    first = target.run(file, *arguments, **place)
    assert first.exit_code == exit_code, first.output
    assert said in first.output
    assert first.output.count("\n") <= 4, "one message, not one a row"
    assert target.events() == 0
    if exit_code != 3:
        assert side_files(tmp_path) == []
    corrected = target.run(file)
    assert corrected.exit_code == 0, corrected.output
    assert "3 events taken" in corrected.output
    assert target.events() == 3
    assert side_files(tmp_path) == ["e.csv.milepost-import.json"]


@pytest.mark.parametrize("lines", [1, 3_000])
def test_a_wrong_ndjson_column_is_one_error(target: Target, tmp_path: Path, lines: int) -> None:
    file = tmp_path / "e.ndjson"
    row = {"userId": "ann", "name": "buy", "at": "2026-01-01T00:00:00Z", "attributes": {"amount": 1}}
    file.write_text((json.dumps(row) + "\n") * lines, encoding="utf-8")
    result = target.run(file)
    assert result.exit_code == 1
    assert (
        "there is no column 'time' (--time-column). The columns: 'user_id', 'name', 'at', 'amount'."
        in result.output
    )
    assert side_files(tmp_path) == []
    if lines == 1:
        result = target.run(file, "--time-column", "at", "--column", "amuont:string")
        assert result.exit_code == 1
        assert "there is no column 'amuont', did you mean 'amount'?" in result.output
    assert target.run(file, "--time-column", "at").exit_code == 0
    assert target.events() == lines


def test_a_warning_names_an_attribute_that_no_line_has(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "e.ndjson"
    row = {"user_id": "ann", "name": "buy", "time": "2026-01-01T00:00:00Z", "amount": 1}
    file.write_text((json.dumps(row) + "\n") * 1_001, encoding="utf-8")
    result = target.run(file, "--column", "amuont:string", "--column", "amount:number")
    assert result.exit_code == 0
    assert "no row has the attribute 'amuont' that --column names" in result.output


def test_create_makes_a_missing_account_and_input(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    result = target.run(file, "--create", account="new", input="shop/web")
    assert result.exit_code == 0, result.output
    with target.client("new") as client:
        assert [(each.input, each.events) for each in client.list_event_names()] == [
            ("accounts/new/workspaces/shop/inputs/web", 3)
        ]
    result = target.run(file, "--create", input="shop")
    assert result.exit_code == 2
    assert "--input must be WORKSPACE/INPUT, not 'shop'" in result.output


def test_unknown_inputs_are_listed_with_their_rows(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    known, unknown = (f"accounts/{target.account}/workspaces/w/inputs/{id_}" for id_ in "ix")
    inputs = [known] * 5 + [unknown] * 700 + ["shop"] * 40
    lines = [f"u{row},buy,2026-01-01,{name}" for row, name in enumerate(inputs)]
    file.write_text("\n".join(["user_id,name,time,where", *lines]), encoding="utf-8")
    result = target.run(file, "--input-column", "where", "--segment-rows", 100)
    assert result.exit_code == 3
    assert "5 events taken, 740 rejected" in result.output
    assert f"  700 rows rejected, input: input '{unknown}' does not exist\n" in result.output
    assert "  40 rows rejected, input: input 'shop' does not exist\n" in result.output
    assert target.events() == 5


# --- what a former import left ---


def test_an_import_into_a_wrong_account_does_not_block_the_right_one(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    assert target.run(file, "--create", account="wrong").exit_code == 0
    assert target.run(file).exit_code == 0
    assert (target.events("wrong"), target.events()) == (3, 3)
    # Each account knows that it has the file.
    for account in ("wrong", target.account):
        again = target.run(file, account=account)
        assert again.exit_code == 0
        assert "was imported before (--from-start imports it again): 3 events taken" in again.output
    assert (target.events("wrong"), target.events()) == (3, 3)


def test_accounts_of_the_same_name_on_two_services_are_different(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    assert target.run(file).exit_code == 0
    with serving(tmp_path / "other", log_level="error") as other:
        same_name = Target(other.address, target.account)
        assert same_name.run(file).exit_code == 0
        assert same_name.events() == 3


def test_events_with_ids_count_once_with_other_settings(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3, event_ids=True)
    assert target.run(file).exit_code == 0
    result = target.run(file, "--column", "amount:string")
    assert result.exit_code == 1
    assert (
        "differently: --column was not given and is 'amount:string'. 3 events of 3 rows are in\n"
        "  --from-start imports all of it and counts no event twice, because all have event ids"
    ) in result.output
    assert result.output.splitlines()[-1].startswith(f"  milepost import {file} --column amount:string")
    assert result.output.splitlines()[-1].endswith("--from-start")
    again = target.run(file, "--column", "amount:string", "--from-start")
    assert "0 events taken, 3 were there already" in again.output
    assert target.events() == 3


def test_event_ids_count_per_input(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3, event_ids=True)
    assert target.run(file, "--create", input="w/wrong").exit_code == 0
    result = target.run(file, "--from-start")
    assert result.exit_code == 1
    assert (
        "--from-start would count events twice: 3 events of 3 rows are in, and 3 would be counted again,"
        " because event ids are known per input, and the input or the ids differ now. --force does it"
    ) in result.output
    assert target.events() == 3
    assert target.run(file, "--from-start", "--force").exit_code == 0
    assert target.events() == 6


def test_a_refused_restart_keeps_the_progress(target: Target, tmp_path: Path) -> None:
    """A new try that ends before anything is sent does not make the file look as if it was never imported."""
    file = write_csv(tmp_path / "e.csv", 3)
    assert target.run(file).exit_code == 0
    assert target.run(file, "--time-column", "foo", "--from-start", "--force").exit_code == 1
    result = target.run(file)
    assert "was imported before" in result.output
    assert target.events() == 3


def test_refused_rows_are_taken_once_their_input_exists(target: Target, tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    late = f"accounts/{target.account}/workspaces/w/inputs/late"
    file.write_text(f"user_id,name,time,where\nann,buy,2026-01-01,{late}\n")
    assert target.run(file, "--input-column", "where", input="").exit_code == 3
    with target.client() as client:
        client.ensure_input("w", "late")
    result = target.run(file, "--input-column", "where", input="")
    assert result.exit_code == 0, result.output
    assert target.events() == 1
    assert not (tmp_path / "e.csv.rejected.ndjson").exists()


def test_rows_refused_before_an_interruption_stay_counted_as_rejected(
    target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "e.csv"
    known, late = (f"accounts/{target.account}/workspaces/w/inputs/{id_}" for id_ in ("i", "late"))
    lines = [f"u{row},buy,2026-01-01,{late if row % 2 else known},e{row}" for row in range(6)]
    file.write_text("\n".join(["user_id,name,time,where,event_id", *lines]))
    with target.client() as client, monkeypatch.context() as patched:
        real = client.import_events

        def lose_the_answer(batches: Sequence[Any], **options: Any) -> Any:
            real(batches, **options)
            raise ConnectionError

        patched.setattr(client, "import_events", lose_the_answer)
        with pytest.raises(CannotImport):
            import_file(client, file, Settings(input="w/i", input_column="where"))
        client.ensure_input("w", "late")
    assert target.events() == 3
    result = target.run(file, "--input-column", "where")
    assert result.exit_code == 3
    assert "3 events taken, 3 rejected" in result.output
    assert "3 rows rejected, refused when they were first sent, before the run broke off" in result.output
    result = target.run(file, "--input-column", "where", "--from-start")
    assert "3 events taken, 3 were there already" in result.output
    assert target.events() == 6


def test_a_damaged_progress_file_names_the_consequences(target: Target, tmp_path: Path) -> None:
    file = write_csv(tmp_path / "e.csv", 3)
    (tmp_path / "e.csv.milepost-import.json").write_text("{")
    result = target.run(file)
    assert result.exit_code == 1
    assert "earlier imports of the file are unknown. --from-start --force imports the file" in result.output
    assert target.run(file, "--from-start", "--force").exit_code == 0
    assert target.events() == 3


def test_rows_without_event_ids_are_warned_about_once_before_sending(target: Target, tmp_path: Path) -> None:
    files = [write_csv(tmp_path / f"{name}.csv", 5) for name in "abc"]
    result = target.run(*files, "--segment-rows", 2)
    assert result.exit_code == 0
    assert result.stderr.count("without an event id") == 1
    assert result.stderr.startswith(
        f"milepost: warning: {files[0]}: 2 rows of its first segment without an event id (--event-id-column)."
    )
    with_ids = write_csv(tmp_path / "ids.csv", 5, event_ids=True)
    assert target.run(with_ids).stderr == ""


# --- rows without a user ---


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_rows_without_a_user_are_skipped_and_counted(target: Target, tmp_path: Path, suffix: str) -> None:
    users = ["ann", "", "bob", None, "", "cid", ""]
    file = tmp_path / f"e.{suffix}"
    if suffix == "csv":
        lines = [f"{user or ''},buy,2026-01-01,{'x' if row == 5 else 1}" for row, user in enumerate(users)]
        file.write_text("\n".join(["user_id,name,time,amount", *lines]))
    else:
        made = [
            {"user_id": user, "name": "buy", "time": "2026-01-01" if row != 5 else "never"}
            for row, user in enumerate(users)
        ]
        file.write_text("\n".join(map(json.dumps, made)))
    kind = ["--column", "amount:number"] if suffix == "csv" else []
    result = target.run(file, "--skip-without-user", "--segment-rows", 2, *kind)
    assert result.exit_code == 3, result.output
    assert "7 rows in" in result.output
    assert "2 events taken, 4 without a user skipped, 1 rejected" in result.output
    # The rejected row is named by its place in the file.
    assert [each["row"] for each in rejected(tmp_path / f"e.{suffix}.rejected.ndjson")] == [5]
    assert target.events() == 2


@pytest.mark.parametrize("damage", ["imports", "entries", "entry", "missing", "more", "type", "text"])
def test_a_damaged_progress_file_is_refused_with_the_options_to_continue(
    target: Target, tmp_path: Path, damage: str
) -> None:
    file = write_csv(tmp_path / "e.csv", 3, event_ids=True)
    assert target.run(file).exit_code == 0
    progress = tmp_path / "e.csv.milepost-import.json"
    stored = json.loads(progress.read_text())
    entry = stored["imports"][0]
    if damage in ("missing", "more", "type"):
        changed = {**entry, "more": 1} if damage == "more" else {**entry, "rows": "3"}
        stored["imports"] = [changed if damage != "missing" else {"account": entry["account"]}]
    else:
        broken = {
            "imports": {"version": 3},
            "entries": {**stored, "imports": 5},
            "entry": {**stored, "imports": [5]},
        }
        stored = broken.get(damage, "text")
    progress.write_text(json.dumps(stored))
    result = target.run(file)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "so earlier imports of the file are unknown. --from-start --force imports" in result.stderr
    assert target.run(file, "--from-start", "--force").exit_code == 0
    assert target.events() == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"user_id": "ann",\n "name": "buy"}', None),
        ('\n{\n  "user_id": "ann",\n  "name": "buy"\n}\n', "an object goes over several lines"),
        ('{\r\n\t"user_id": "ann"\r\n}\r\n', "an object goes over several lines"),
        ("{\n}\n", "an object goes over several lines"),
        ('[\n  {"user_id": "ann"}\n]', "the file is a JSON array"),
        ('{\n{"user_id": "ann", "name": "buy", "time": "2026-01-01"}\n', None),
    ],
)
def test_json_over_several_lines_is_refused_once_with_the_way_on(
    text: str, said: str | None, target: Target, tmp_path: Path
) -> None:
    """Not line by line; a line of rubbish before good ones is a rejected row."""
    file = tmp_path / "events.ndjson"
    file.write_bytes(text.encode())
    result = target.run(file)
    assert result.exit_code == (3 if said is None else 1), result.output
    assert (said is not None) == ("> converted-events.ndjson" in result.output)
    assert said is None or said in result.output
    assert not said or not rejected_file(file).exists()


def rejected_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.rejected.ndjson")
