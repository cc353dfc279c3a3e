"""The users of each milestone of the sample journey, by SQL over the dataset's own files."""

from __future__ import annotations

import duckdb

from milepost.sample import dataset
from milepost.sample.journey import NOT_REDEEMED_ID, OTHERS_ID, RECEIVED_ID, REDEEMED_ID, SPENT_ID

START = "start"
FIGURES = {
    START: 2_469,
    RECEIVED_ID: 1_490,
    REDEEMED_ID: 406,
    SPENT_ID: 104,
    NOT_REDEEMED_ID: 1_084,
    OTHERS_ID: 979,
}
"""Users of each milestone, by its id."""
DRAWS = {
    RECEIVED_ID: 2_469,
    REDEEMED_ID: 1_490,
    SPENT_ID: 406,
    NOT_REDEEMED_ID: 1_084,
    OTHERS_ID: 979,
}
"""Users each milestone draws from: its parent's, less those an earlier sibling took."""

# Amounts are added as decimals. Each query gives the households of one set.
_SETS_SQL = {
    START: """select household_id from transactions semi join products using (product_id)
              union from (select household_id from campaigns)
              union from (select household_id from coupon_redemptions)
              union from (select household_id from demographics)""",
    RECEIVED_ID: """select distinct household_id from campaigns join campaign_descriptions using (campaign_id)
                    where campaign_type = 'Type A'""",
    "coupon": "select distinct household_id from coupon_redemptions",
    "spent": """select household_id from transactions semi join products using (product_id)
                group by household_id having sum(cast(sales_value as decimal(18, 2))) >= 5000""",
}


def open_files() -> duckdb.DuckDBPyConnection:
    """A connection with one view for each file of the dataset; the caller closes it."""
    connection = duckdb.connect()
    for path in sorted(dataset.data_files().glob("*.parquet")):
        connection.execute(f"create view {path.stem} as from read_parquet('{path}')")
    return connection


def members() -> dict[str, set[str]]:
    """The user ids of each milestone, by its id, and of the start."""
    with open_files() as files:
        found = {
            name: {str(household) for (household,) in files.execute(sql).fetchall()}
            for name, sql in _SETS_SQL.items()
        }
    received = found[RECEIVED_ID]
    redeemed = received & found["coupon"]
    return {
        START: found[START],
        RECEIVED_ID: received,
        REDEEMED_ID: redeemed,
        SPENT_ID: redeemed & found["spent"],
        NOT_REDEEMED_ID: received - redeemed,
        OTHERS_ID: found[START] - received,
    }
