"""`milepost import --users`: attributes, identities and consents from files of each format."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from milepost.v1.catalog_service_pb2 import GetUserRequest, User
from milepost.v1.data_pb2 import CONSENT_STATE_DENIED, CONSENT_STATE_GIVEN
from tests.clients.importing.command import Target, rejected

OPTIONS = ("--users", "--identity", "mail:email", "--consent", "ads:gdpr/ads", "--exclude", "secret")
ROWS: list[dict[str, Any]] = [
    {
        "user_id": "ann",
        "time": "2026-01-01T00:00:00Z",
        "plan": "gold",
        "age": 41,
        "vip": True,
        "since": "2020-05-01T12:00:00Z",
        "mail": "ann@example.com",
        "ads": True,
        "secret": "x",
    },
    {"user_id": "bob", "time": "2026-01-02T00:00:00Z", "age": 7.5, "ads": False},
    {"user_id": None, "time": "2026-01-02T00:00:00Z", "age": 8},
    {"user_id": "cid", "time": "2026-01-03T00:00:00Z", "plan": "free", "mail": "cid@example.com"},
]
COLUMNS = tuple(ROWS[0])


def write(directory: Path, format_: str, rows: list[dict[str, Any]]) -> Path:
    path = directory / f"users.{format_}"
    columns = [name for name in COLUMNS if any(name in row for row in rows)]
    if format_ == "ndjson":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    elif format_ == "csv":
        lines = [",".join(columns)]
        for row in rows:
            values = (row.get(name) for name in columns)
            lines.append(",".join("" if value is None else str(value) for value in values))
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        table = pa.table({name: [row.get(name) for row in rows] for name in columns})
        for name in {"time", "since"} & set(columns):
            at = table.schema.get_field_index(name)
            times = [
                None if each is None else datetime.fromisoformat(each) for each in table[name].to_pylist()
            ]
            table = table.set_column(at, name, pa.array(times, pa.timestamp("us", "UTC")))
        pyarrow.parquet.write_table(table, path)
    return path


def user(target: Target, user_id: str) -> User:
    with target.client() as client:
        return client.catalog.GetUser(GetUserRequest(parent=client.account_name, user_id=user_id)).user


@pytest.mark.parametrize("format_", ["ndjson", "csv", "parquet"])
def test_files_of_each_format_give_the_same_users(target: Target, tmp_path: Path, format_: str) -> None:
    kinds = () if format_ == "parquet" else ("--column", "since:time")
    path = write(tmp_path, format_, ROWS)
    result = target.run(path, *OPTIONS, *kinds)
    assert result.exit_code == 3, result.output
    assert "3 users taken, 1 rejected" in result.stdout
    [line] = rejected(path.with_name(f"{path.name}.rejected.ndjson"))
    assert (line["row"], line["reason"], line["field"]) == (2, "REQUIRED", "user_id")

    ann = user(target, "ann")
    values = ann.attributes[0].attributes
    assert set(values) == {"plan", "age", "vip", "since"}
    assert (values["plan"].string_value, values["age"].number_value) == ("gold", 41.0)
    assert values["vip"].bool_value is True
    assert values["since"].time_value.ToJsonString() == "2020-05-01T12:00:00Z"
    assert dict(ann.identities) == {"email": "ann@example.com"}
    assert [each.state for each in ann.consents] == [CONSENT_STATE_GIVEN]
    assert ann.inputs[0].last_seen.ToJsonString() == "2026-01-01T00:00:00Z"
    bob = user(target, "bob")
    assert set(bob.attributes[0].attributes) == {"age"}
    assert not bob.identities
    assert [each.state for each in bob.consents] == [CONSENT_STATE_DENIED]


def test_a_file_without_times_gets_the_default_time(target: Target, tmp_path: Path) -> None:
    path = write(tmp_path, "csv", [{"user_id": "ann", "plan": "gold"}])
    assert target.run(path, "--users", "--default-time", "2024-02-03T04:05:06Z").exit_code == 0
    assert user(target, "ann").inputs[0].last_seen.ToJsonString() == "2024-02-03T04:05:06Z"
    other = write(tmp_path, "ndjson", [{"user_id": "bob", "plan": "gold"}])
    before = datetime.now(UTC)
    assert target.run(other, "--users").exit_code == 0
    seen = user(target, "bob").inputs[0].last_seen.ToDatetime(UTC)
    assert before <= seen <= datetime.now(UTC)


@pytest.mark.parametrize("unset", [False, True])
def test_missing_values_unset_only_with_unset_nulls(target: Target, tmp_path: Path, unset: bool) -> None:
    first = write(
        tmp_path, "ndjson", [{"user_id": "ann", "time": "2026-01-01T00:00:00Z", "plan": "a", "age": 1}]
    )
    assert target.run(first, "--users").exit_code == 0
    path = tmp_path / "second.csv"
    path.write_text("user_id,time,plan,age\nann,2026-01-02T00:00:00Z,,2\n", encoding="utf-8")
    assert target.run(path, "--users", *(["--unset-nulls"] if unset else [])).exit_code == 0
    assert set(user(target, "ann").attributes[0].attributes) == ({"age"} if unset else {"plan", "age"})


def test_consent_values_can_be_configured(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "consents.csv"
    path.write_text("user_id,ads\nann,JA\nbob,nein\ncid,vielleicht\ndan,\n", encoding="utf-8")
    options = ("--users", "--consent", "ads:gdpr/ads", "--given", "ja", "--denied", "nein")
    result = target.run(path, *options)
    assert result.exit_code == 3, result.output
    assert "consents[gdpr/ads]: must be one of 'ja', 'nein'" in result.stdout
    states = {name: [each.state for each in user(target, name).consents] for name in ("ann", "bob", "dan")}
    assert states == {"ann": [CONSENT_STATE_GIVEN], "bob": [CONSENT_STATE_DENIED], "dan": []}


def test_users_and_events_of_one_file_have_separate_progress(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "both.csv"
    path.write_text("user_id,name,time\nann,buy,2026-01-01T00:00:00Z\n", encoding="utf-8")
    assert target.run(path).exit_code == 0
    assert target.run(path, "--users").exit_code == 0
    assert user(target, "ann").attributes[0].attributes["name"].string_value == "buy"
    assert "was imported before" in target.run(path, "--users").stdout
    refused = target.run(path, "--users", "--exclude", "name")
    assert refused.exit_code == 1
    assert "the latest time of each value wins" in refused.output
    assert target.run(path, "--users", "--exclude", "name", "--from-start").exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--users", "--name-column", "n"], "--name-column is for events, not for --users"),
        (["--users", "--profile", "segment"], "is for events, not for --users"),
        (["--identity", "mail:email"], "--identity needs --users"),
        (["--unset-nulls"], "--unset-nulls needs --users"),
        (["--users", "--identity", "mail"], "--identity must be COLUMN:TYPE, not 'mail'"),
        (["--users", "--consent", "ads:gdpr"], "--consent must be COLUMN:REGULATION/PURPOSE"),
        (["--users", "--given", "ja"], "--given and --denied go together"),
    ],
)
def test_options_that_cannot_be_used(
    target: Target, tmp_path: Path, options: list[str], message: str
) -> None:
    result = target.run(write(tmp_path, "csv", ROWS), *options)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("format_", ["csv", "parquet"])
def test_a_missing_column_is_reported_before_sending(target: Target, tmp_path: Path, format_: str) -> None:
    path = write(tmp_path, format_, ROWS)
    result = target.run(path, "--users", "--identity", "email:email", "--consent", "adz:gdpr/ads")
    assert result.exit_code == 1
    assert "there is no column 'email'" in result.output
    assert "there is no column 'adz', did you mean 'ads'? (--consent)" in result.output
