"""`milepost import` against a real server: files, what is refused of them, and runs that broke off."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from typer.testing import Result

from milepost import Client
from milepost.cli.app import app
from milepost.criteria import event
from milepost.importing import Settings, import_file
from milepost.importing import progress as progress_file
from milepost.v1.admin_service_pb2 import GetServerInfoRequest
from milepost.v1.catalog_service_pb2 import (
    VALUE_KIND_LIST,
    VALUE_KIND_NUMBER,
    VALUE_KIND_STRING,
    VALUE_KIND_TIME,
    GetUserRequest,
)
from tests.cli_runner import CliRunner
from tests.harness import Serving, serving

T0 = 1_700_000_000
ACCOUNT_ID = "a"
INPUT = "w/i"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path / "store", log_level="error") as running:
        running.create_inputs()
        yield running


@pytest.fixture
def client(service: Serving) -> Iterator[Client]:
    with Client(service.address, account=ACCOUNT_ID) as made:
        yield made


def run(service: Serving, *arguments: object) -> Result:
    command = ["import", *map(str, arguments), "--account", ACCOUNT_ID, "--target", service.address]
    return CliRunner().invoke(app, [*command, "--input", INPUT])


def events_of(service: Serving) -> int:
    return int(service.admin.GetServerInfo(GetServerInfoRequest()).events)


def rejected(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(count: int) -> list[dict[str, Any]]:
    """Events of 97 users with attributes of each kind that a file can hold."""
    return [
        {
            "user_id": f"u{row % 97}",
            "name": ("view", "buy", "cart")[row % 3],
            "time": f"{datetime.fromtimestamp(T0 + row, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "price": row / 4 if row % 5 else None,
            "plan": "gold" if row % 2 else None,
            "new": row % 7 == 0,
        }
        for row in range(count)
    ]


def write_ndjson(path: Path, made: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n" for row in made)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wb") as file:
        file.write(text.encode())
    return path


def write_parquet(path: Path, made: list[dict[str, Any]]) -> Path:
    table = pa.Table.from_pylist(made)
    times = pa.array([datetime.fromisoformat(row["time"]) for row in made], pa.timestamp("ms", "UTC"))
    table = table.set_column(table.schema.get_field_index("time"), "time", times)
    pyarrow.parquet.write_table(table, path, row_group_size=300)
    return path


def write_csv(path: Path, made: list[dict[str, Any]]) -> Path:
    with pa.output_stream(path) as file:
        pyarrow.csv.write_csv(pa.Table.from_pylist(made), file)
    return path


def answers(service: Serving) -> Any:
    """What reads say of the store."""
    with Client(service.address, account=ACCOUNT_ID) as client:
        client.ensure_journey("j")
        gold = event("buy").sum("price") >= 400
        client.ensure_milestone("j", "gold", criteria=gold)
        users = [
            client.catalog.GetUser(GetUserRequest(parent=client.account_name, user_id=f"u{number}")).user
            for number in range(97)
        ]
        names = list(client.list_event_names())
        attributes = list(client.list_attributes(event_name="buy"))
        return sorted(client.list_members("j/gold")), users, names, attributes


WRITERS = {
    "e.parquet": write_parquet,
    "e.csv": write_csv,
    "e.csv.gz": write_csv,
    "e.ndjson": write_ndjson,
    "e.ndjson.gz": write_ndjson,
}


def test_every_format_gives_the_same_store(tmp_path: Path) -> None:
    seen = {}
    for name, write in WRITERS.items():
        file = write(tmp_path / name, rows(1_000))
        with serving(tmp_path / f"store of {name}", log_level="error") as service:
            service.create_inputs()
            # Segments, and the record batches in them, begin anywhere in the groups of the Parquet file.
            result = run(service, file, "--segment-rows", 250)
            assert result.exit_code == 0, result.output
            assert "1,000 rows in" in result.output
            assert "1,000 events taken" in result.output
            seen[name] = answers(service)
    members, _, names, attributes = seen["e.parquet"]
    assert len(members) > 10
    assert [(each.name, each.events) for each in names] == [("buy", 333), ("cart", 333), ("view", 334)]
    assert [each.key for each in attributes] == ["new", "plan", "price"]
    for name, found in seen.items():
        assert found == seen["e.parquet"], f"{name} differs"


def test_rejected_rows_are_in_a_file_with_reasons(service: Serving, tmp_path: Path) -> None:
    made = rows(10)
    made[3]["user_id"] = None
    made[8]["user_id"] = None
    made[5]["time"] = "2999-01-01T00:00:00Z"
    file = write_parquet(tmp_path / "e.parquet", made)
    result = run(service, file, "--segment-rows", 4)
    assert result.exit_code == 3
    path = tmp_path / "e.parquet.rejected.ndjson"
    assert f"7 events taken, 3 rejected, see {path}" in result.output
    written = rejected(path)
    assert [(each["row"], each["reason"], each["field"], each["description"]) for each in written] == [
        (3, "REQUIRED", "user_id", "is required"),
        (5, "EVENT_IN_FUTURE", "time", "is more than 24 h ahead of the server's clock"),
        (8, "REQUIRED", "user_id", "is required"),
    ]
    assert written[0]["file"] == str(file)
    assert written[0]["data"] == {
        "user_id": None,
        "name": "view",
        "time": "2023-11-14 22:13:23+00:00",
        "price": 0.75,
        "plan": "gold",
        "new": False,
    }
    assert events_of(service) == 7


def test_a_bad_csv_value_rejects_only_its_row(service: Serving, tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    lines = [
        "user_id,name,time,amount,seen,zip",
        "ann,buy,2024-01-01T00:00:00Z,1.5,2024-01-01,01234",
        "bob,buy,yesterday,2,2024-01-01,1",
        'cid,"b,u\ny",2024-01-01 10:00:00,cheap,2024-01-01,1',
        "dan,buy,2024-01-01",
        "eve,buy,2024-01-02,,,1",
        "fay,buy,2024-01-02,1e3,never,1",
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = run(service, file, "--column", "zip:string")
    assert result.exit_code == 3, result.output
    # "cheap" and "never" make amount and seen strings. With a kind given, they reject their rows.
    assert events_of(service) == 4
    kinds = ["--column", "zip:string", "--column", "amount:number", "--column", "seen:time"]
    result = run(service, file, *kinds)
    assert result.exit_code == 1
    assert (
        "was imported before, differently: --column was 'zip:string' and is 'amount:number, seen:time,"
        " zip:string'. 4 events of 6 rows are in\n"
        "  --from-start --force imports all of it, and counts up to 4 events twice, because they have no"
        " event ids\n"
    ) in result.output
    assert result.output.endswith("--from-start --force\n")
    result = run(service, file, *kinds, "--from-start")
    assert result.exit_code == 1
    assert "--from-start would count events twice: 4 events of 6 rows are in, and 4 would" in result.output
    result = run(service, file, *kinds, "--from-start", "--force")
    assert result.exit_code == 3, result.output
    written = rejected(tmp_path / "e.csv.rejected.ndjson")
    assert [(each["row"], each["reason"], each["field"], each["description"]) for each in written] == [
        (3, "MALFORMED", "", "has 3 columns; 6 are expected"),
        (1, "INVALID_VALUE", "time", "is not a time"),
        (2, "INVALID_VALUE", "attributes['amount']", "is not a number"),
        (5, "INVALID_VALUE", "attributes['seen']", "is not a time"),
    ]
    assert written[0]["data"] == "dan,buy,2024-01-01"
    assert written[2]["data"]["name"] == "b,u\ny"
    assert events_of(service) == 4 + 2


def test_malformed_csv_rows_are_reported_by_row_number(service: Serving, tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    lines = [
        b"user_id,name,time,shop",
        b"ann,buy,2024-01-01,one,more",
        b'bob,"b\nuy",2024-01-01,a',
        b"",
        b"cid,buy,2024-01-01,caf\xe9",
        b"dan,buy",
        b"\xff,buy,2024-01-01,a",
        b"eve,buy,2024-01-01,a",
        b",buy,2024-01-01,a",
        b"fay,buy,2024-01-01,a",
        b"gus",
    ]
    file.write_bytes(b"\n".join(lines) + b"\n")
    result = run(service, file, "--segment-rows", 2)
    assert result.exit_code == 3, result.output
    assert "9 rows in" in result.output
    assert "3 events taken, 6 rejected" in result.output
    written = rejected(tmp_path / "e.csv.rejected.ndjson")
    by_row = {each["row"]: (each["reason"], each["field"], each["description"]) for each in written}
    assert by_row == {
        0: ("MALFORMED", "", "has 5 columns; 4 are expected"),
        2: ("MALFORMED", "attributes['shop']", "is not UTF-8"),
        3: ("MALFORMED", "", "has 2 columns; 4 are expected"),
        4: ("MALFORMED", "user_id", "is not UTF-8"),
        6: ("REQUIRED", "user_id", "is required"),
        8: ("MALFORMED", "", "has 1 columns; 4 are expected"),
    }
    data = {each["row"]: each["data"] for each in written}
    assert data[0] == "ann,buy,2024-01-01,one,more"
    assert data[2] == {"user_id": "cid", "name": "buy", "time": "2024-01-01", "shop": "caf\ufffd"}
    assert data[6]["user_id"] is None
    assert events_of(service) == 3


def test_ndjson_keeps_the_kind_of_each_value(service: Serving, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    lines = [
        {
            "user_id": "ann",
            "name": "buy",
            "time": T0 * 1_000_000,
            "x": "12",
            "tags": ["a", "b"],
            "big": 1 << 53,
        },
        {"userId": "ann", "name": "buy", "time": "2024-01-01", "x": 12, "eventId": "e"},
        {"userId": "ann", "name": "buy", "time": "2024-01-01", "x": True, "eventId": "e"},
        {
            "userId": "ann",
            "name": "buy",
            "time": "2024-01-01T00:00:00Z",
            "attributes": {
                "y": {"numberValue": 9.5},
                "at": {"timeValue": "2024-01-01T00:00:00Z"},
                "l": {"listValue": {"values": ["v"]}},
            },
        },
        {"user_id": 7, "name": "buy", "time": "2024-01-01", "big": (1 << 53) + 1},
        {"user_id": True, "name": "buy", "time": "2024-01-01"},
        {"user_id": "bob", "name": "buy", "time": "2024-01-01", "x": [1]},
        {"user_id": "bob", "name": "buy", "time": "2024-01-01", "x": {"a": 1}},
        ["no", "object"],
    ]
    text = "\n\n".join(map(json.dumps, lines)) + "\n{broken\n"
    file.write_text(text, encoding="utf-8")
    result = run(service, file)
    assert result.exit_code == 3, result.output
    written = rejected(tmp_path / "e.jsonl.rejected.ndjson")
    plain = "must be a string, a number, a bool or an array of strings"
    assert [(each["row"], each["reason"], each["field"], each["description"][:60]) for each in written] == [
        (4, "MALFORMED", "attributes['big']", "is an integer beyond 2^53, which no number holds exactly"),
        (5, "MALFORMED", "user_id", "must be a string or an integer"),
        (6, "MALFORMED", "attributes['x']", plain),
        (7, "MALFORMED", "attributes['x']", plain),
        (8, "MALFORMED", "", "is not a JSON object"),
        (9, "MALFORMED", "", written[-1]["description"][:60]),
    ]
    assert written[-1]["data"] == "{broken"
    kinds = {each.key: sorted(each.kinds) for each in client.list_attributes(event_name="buy")}
    assert kinds == {
        "x": [VALUE_KIND_STRING, VALUE_KIND_NUMBER],
        "tags": [VALUE_KIND_LIST],
        "big": [VALUE_KIND_NUMBER],
        "y": [VALUE_KIND_NUMBER],
        "at": [VALUE_KIND_TIME],
        "l": [VALUE_KIND_LIST],
    }
    # The second and third row have one event id.
    assert "3 events taken, 1 was there already, 6 rejected" in result.output


# --- again ---


class Broken(Exception):
    """The run broke off, as the test meant to."""


def test_an_interrupted_run_is_resumed(
    service: Serving, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = rows(1_000)
    for row in range(0, 1_000, 100):
        made[row]["user_id"] = None
    file = write_csv(tmp_path / "e.csv", made)
    saves = 0
    save = progress_file.ProgressFile.save

    def save_or_break(file: progress_file.ProgressFile, progress: progress_file.Progress) -> None:
        nonlocal saves
        saves += 1
        # Two a segment: before it is sent and once it is acknowledged. The third acknowledgement is lost.
        if saves == 6:
            raise Broken
        save(file, progress)

    settings = Settings(input=INPUT)
    monkeypatch.setattr(progress_file.ProgressFile, "save", save_or_break)
    with pytest.raises(Broken):
        import_file(client, file, settings, segment_rows=200)
    monkeypatch.undo()
    # The service has the third segment, and the file has its rejected rows; neither is known to be so.
    assert events_of(service) == 600 - 6
    [progress] = json.loads((tmp_path / "e.csv.milepost-import.json").read_text())["imports"]
    assert (progress["segments"], progress["rows"], progress["rejected"]) == (2, 400, 4)
    assert len(rejected(tmp_path / "e.csv.rejected.ndjson")) == 6
    imported = import_file(client, file, settings, segment_rows=200)
    assert (imported.rows, imported.resumed_rows) == (1_000, 400)
    assert (imported.accepted, imported.rejected) == (990, 10)
    assert events_of(service) == 990
    assert [each["row"] for each in rejected(imported.rejected_path)] == list(range(0, 1_000, 100))
    # Once more there is nothing to do.
    again = import_file(client, file, settings, segment_rows=200)
    assert (again.rows, again.resumed_rows, again.accepted) == (1_000, 1_000, 990)
    assert events_of(service) == 990


def test_the_service_recognises_a_file_without_its_progress_file(service: Serving, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "e.parquet", rows(500))
    progress = tmp_path / "e.parquet.milepost-import.json"
    assert run(service, file).exit_code == 0
    progress.unlink()
    assert run(service, file).exit_code == 0
    assert events_of(service) == 500
    # Another request id makes it another import.
    progress.unlink()
    assert run(service, file, "--request-id", "once more").exit_code == 0
    assert events_of(service) == 1_000


def open_segment(client: Client, file: Path, age: timedelta, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves a segment of the file sent and not acknowledged, so long ago."""
    with monkeypatch.context() as patched:
        at = datetime.now(UTC) - age
        patched.setattr(progress_file, "now", lambda: at)

        def lose(batches: Sequence[Any], **_: object) -> None:
            list(batches)
            raise Broken

        patched.setattr(client, "import_events", lose)
        with pytest.raises(Broken):
            import_file(client, file, Settings(input=INPUT))


@pytest.mark.parametrize(
    ("age", "event_ids", "resumes"),
    [
        (timedelta(hours=23, minutes=59), False, True),
        (timedelta(hours=24, minutes=1), False, False),
        (timedelta(hours=24, minutes=1), True, True),
    ],
)
def test_an_expired_segment_is_not_sent_again_without_force(
    service: Serving,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    age: timedelta,
    event_ids: bool,
    resumes: bool,
) -> None:
    made = [row | ({"event_id": f"e{at}"} if event_ids else {}) for at, row in enumerate(rows(50))]
    file = write_parquet(tmp_path / "e.parquet", made)
    open_segment(client, file, age, monkeypatch)
    result = run(service, file)
    if resumes:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code == 1
        assert "segment 1 (rows 0 to 49) was sent at" in result.output
        assert "50 rows of it have no event ids: sent again, they could count twice" in result.output
        assert events_of(service) == 0
        assert run(service, file, "--force").exit_code == 0
    assert events_of(service) == 50


def test_a_changed_file_is_not_resumed(service: Serving, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "e.parquet", rows(50))
    assert run(service, file).exit_code == 0
    write_parquet(file, rows(60))
    result = run(service, file)
    assert result.exit_code == 1
    assert "the file has changed since" in result.output
    assert events_of(service) == 50


# --- what cannot be imported ---


@pytest.mark.parametrize(
    ("name", "content", "arguments", "exit_code", "message"),
    [
        ("e.parquet", b"none", [], 1, "is not a Parquet file"),
        ("e.csv", b"", [], 1, "is empty: the first line must name the columns"),
        ("e.csv", b"a,a\n1,2\n", [], 1, "has more than one column 'a'"),
        ("e.txt", b"", [], 1, "shows no format: give --format parquet, csv or ndjson"),
        (
            "e.csv",
            b"id,name,time\na,b,2024-01-01\n",
            [],
            1,
            "e.csv: there is no column 'user_id' (--user-id-column). The columns: 'id', 'name', 'time'.",
        ),
        ("e.csv", b"a\n", ["--time-unit", "h"], 2, "--time-unit must be one of s, ms, us, ns, not 'h'"),
        ("e.csv", b"a\n", ["--default-type", "x"], 2, "--default-type must be one of"),
        ("e.csv", b"a\n", ["--column", "x"], 2, "--column must be NAME:KIND"),
        ("e.csv", b"a\n", ["other.csv", "--progress-file", "p"], 2, "--progress-file is for one file"),
        ("e.ndjson.gz", gzip.compress(b"plain", mtime=0)[:-9], [], 1, "cannot be read"),
    ],
)
def test_an_unusable_import_is_refused_with_the_reason(
    service: Serving,
    tmp_path: Path,
    name: str,
    content: bytes,
    arguments: list[str],
    exit_code: int,
    message: str,
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    result = run(service, file, *arguments)
    assert message in result.output
    assert result.exit_code == exit_code
    assert events_of(service) == 0


def test_a_missing_file_and_a_missing_library_are_refused(
    service: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(service, tmp_path / "nothing.csv")
    assert (result.exit_code, "nothing.csv does not exist" in result.output) == (1, True)
    file = tmp_path / "e.csv"
    file.write_bytes(b"user_id,name,time\n")
    for name in ("csv", "csv_file", "csv_kinds"):
        monkeypatch.delitem(sys.modules, f"milepost.importing.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run(service, file)
    assert result.exit_code == 1
    assert "importing needs pyarrow: pip install 'milepost[import]'" in result.output


def test_options_reach_the_service(service: Serving, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "e.csv"
    file.write_text("who,at,kind,id\nann,1700000000,session,1\nann,1700000000,,1\nbob,1700000001,,2\n")
    names = [
        "--user-id-column",
        "who",
        "--time-column",
        "at",
        "--type-column",
        "kind",
        "--event-id-column",
        "id",
    ]
    result = run(
        service, file, *names, "--default-name", "came", "--default-type", "commerce", "--time-unit", "s"
    )
    assert result.exit_code == 0, result.output
    assert "2 events taken, 1 was there already" in result.output
    found = {(each.name, each.event_type, each.events) for each in client.list_event_names()}
    assert found == {("came", 4, 1), ("came", 3, 1)}


def test_several_files_go_one_after_another(service: Serving, tmp_path: Path) -> None:
    made = rows(20)
    made[4]["user_id"] = None
    files = [write_parquet(tmp_path / f"{name}.parquet", made) for name in "ab"]
    all_rejected = tmp_path / "rejected"
    result = run(service, *files, "--rejected", all_rejected)
    assert result.exit_code == 3
    # Their contents are equal and their times of change are not, so they are two imports.
    assert events_of(service) == 38
    assert [(each["file"], each["row"]) for each in rejected(all_rejected)] == [(str(f), 4) for f in files]
