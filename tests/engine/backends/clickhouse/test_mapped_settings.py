"""What an operator says of a table of others is checked before a server is asked."""

from __future__ import annotations

import math

import pytest

from engine.backends.clickhouse.mapped import (
    SETTLE_S_MAX,
    TABLE_BYTES_MAX,
    checked_settle_s,
    table_name,
)
from engine.errors import InvalidInput


@pytest.mark.parametrize("table", ["orders", ".orders", "shop.", "", "shop.or\nders", "é." + "é" * 255])
def test_a_table_has_a_database_a_name_and_a_limit(table: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        table_name(table)
    assert [each.field for each in refused.value.violations] == ["table"]


def test_names_are_quoted_up_to_the_limit() -> None:
    longest = "s." + "t" * (TABLE_BYTES_MAX - 2)
    assert table_name(longest).replace("`", "").replace('"', "") == longest


@pytest.mark.parametrize("settle_s", [-0.1, SETTLE_S_MAX + 1, math.inf, math.nan])
def test_the_time_to_settle_is_limited(settle_s: float) -> None:
    with pytest.raises(InvalidInput, match="settle_s"):
        checked_settle_s(settle_s)


def test_times_within_the_limit_are_taken() -> None:
    assert (checked_settle_s(0.0), checked_settle_s(SETTLE_S_MAX)) == (0.0, SETTLE_S_MAX)
