"""The world of the growth table: each user has ten events within thirty days, and users come in random order.

Generated from a seed as pyarrow record batches, in ten rounds in each of which every user occurs once, so
that only one round of users is held in memory. Times are random and unordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milepost.criteria import all_of, event, event_attribute
from milepost.v1.criteria_pb2 import Criteria

SEED = 20_261_001
ROUNDS = 10
"""Events a user."""
DAYS = 30
MICROS_A_DAY = 86_400_000_000
FIRST_MICROS = 1_750_000_000_000_000
END = datetime.fromtimestamp(FIRST_MICROS // 1_000_000, UTC) + timedelta(days=DAYS)
"""Just after the last event."""

NAMES = ("view", "open", "search", "cart", "buy")
NAME_SHARES = (0.40, 0.25, 0.20, 0.10, 0.05)
CATEGORIES = tuple(f"category {number:02}" for number in range(50))
AMOUNT_CENTS_MAX = 100_000
BATCH_ROWS = 1 << 17

VIEWS_MIN = 2
VIEW_DAYS = 14
CART_AMOUNT_MIN = 500
OPEN_DAYS = 7


def criteria() -> Criteria:
    """Three terms: a count in a window, a condition on the event, and an event that did not happen. True for
    about an eighth of the users at `END`.
    """
    return all_of(
        event("view", last=timedelta(days=VIEW_DAYS)).count() >= VIEWS_MIN,
        event("cart", where=event_attribute("amount") >= CART_AMOUNT_MIN).happened(),
        event("open", last=timedelta(days=OPEN_DAYS)).never(),
    )


def batches(users: int) -> Iterator[Any]:
    """The events of that number of users: user_id, name, time, amount and category. Equal numbers of users
    give equal batches.
    """
    drawn = np.random.default_rng(SEED)
    for _ in range(ROUNDS):
        order = drawn.permutation(users)
        for start in range(0, users, BATCH_ROWS):
            yield _batch(drawn, order[start : start + BATCH_ROWS])


def _batch(drawn: np.random.Generator, users: npt.NDArray[np.int64]) -> Any:
    count = len(users)
    times = FIRST_MICROS + drawn.integers(0, DAYS * MICROS_A_DAY, count)
    columns = {
        "user_id": pc.binary_join_element_wise("u", pa.array(users).cast(pa.string()), ""),
        "name": _coded(NAMES, drawn.choice(len(NAMES), count, p=NAME_SHARES)),
        "time": pa.array(times, pa.timestamp("us", "UTC")),
        "amount": pa.array(drawn.integers(1, AMOUNT_CENTS_MAX, count) / 100),
        "category": _coded(CATEGORIES, drawn.integers(0, len(CATEGORIES), count)),
    }
    return pa.RecordBatch.from_pydict(columns)


def _coded(texts: tuple[str, ...], codes: npt.NDArray[np.int64]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(texts))
