"""Checks of user updates by column refuse what checks of single updates refuse, for the same reason."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.backends.base import UserRecord
from engine.checks import Times, check_user, check_user_columns
from engine.criteria.model import BUILT_IN_ATTRIBUTES, ConsentState
from engine.limits import DEFAULT_LIMITS, Limits
from engine.values import MICROS_PER_DAY, TIME_MAX_MICROS, TIME_MIN_MICROS
from tests.conformance.as_columns import user_columns_of
from tests.conformance.site import NOON, WEB

LIMITS = Limits(
    name_bytes_max=9, string_bytes_max=12, list_items_max=2, list_item_bytes_max=4, event_attributes_max=3
)
ALLOWED = Times.by_clock((NOON, NOON))
TEXTS = st.sampled_from(("", "a", "123456789", "1234567890", "ü" * 6, "ü" * 7))
TIMES = st.sampled_from((NOON, NOON + MICROS_PER_DAY, NOON + MICROS_PER_DAY + 1, TIME_MIN_MICROS - 1))
VALUES = st.one_of(
    st.none(),
    TEXTS,
    st.booleans(),
    st.sampled_from((1.0, float("inf"), float("nan"))),
    st.sampled_from((NOON, TIME_MAX_MICROS + 1)),
    st.lists(st.sampled_from(("", "abcd", "abcde")), max_size=3).map(tuple),
)
UPDATES = st.builds(
    UserRecord,
    TEXTS,
    st.sampled_from((WEB, "")),
    TIMES,
    st.dictionaries(st.sampled_from(("a", "b", "$user_id", "c", "d", "", "long" * 3)), VALUES, max_size=5),
    st.dictionaries(TEXTS, st.none() | TEXTS, max_size=2),
    st.dictionaries(st.tuples(TEXTS, TEXTS), st.sampled_from(ConsentState), max_size=2),
)


def input_fault(name: str) -> tuple[str, str, str] | None:
    return None if name else ("REQUIRED", "input", "is required")


@given(st.lists(UPDATES, max_size=8))
def test_column_faults_equal_single_update_faults(updates: list[UserRecord]) -> None:
    columns = user_columns_of(updates)
    found = {}
    for fault in check_user_columns(columns, ALLOWED, LIMITS, input_fault):
        for row in fault.rows.tolist():
            assert row not in found
            found[row] = fault.reason, fault.field
    assert found.keys() == {row for row, update in enumerate(updates) if _faults(update)}
    for row, (reason, field) in found.items():
        assert (reason, field) in _faults(updates[row])


@pytest.mark.parametrize("name", sorted(BUILT_IN_ATTRIBUTES))
def test_values_that_criteria_cannot_see_are_refused_and_may_be_unset(name: str) -> None:
    update = UserRecord("ann", WEB, NOON, {"plan": "gold", name: "mine"})
    expected = (
        "RESERVED_NAME",
        f"attributes[{name!r}]",
        "is built in: criteria would not see the value; rename it",
    )
    assert check_user(update, ALLOWED, DEFAULT_LIMITS) == expected
    unset = UserRecord("ann", WEB, NOON, {"plan": "gold", name: None})
    assert check_user(unset, ALLOWED, DEFAULT_LIMITS) is None
    columns = user_columns_of([unset, update, UserRecord("bob", WEB, NOON, {"$email": "b@example.com"})])
    [fault] = check_user_columns(columns, ALLOWED, DEFAULT_LIMITS, input_fault)
    assert (fault.reason, fault.field, fault.description, fault.rows.tolist()) == (*expected, [1])


def _faults(update: UserRecord) -> set[tuple[str, str]]:
    """Every fault that an update may be refused for: the first one of any order of its names."""
    attributes = [{name: value} for name, value in update.attributes.items()]
    identities = [{name: value} for name, value in update.identities.items()]
    plain = UserRecord("u", WEB, NOON)
    parts = [
        msgspec.structs.replace(update, attributes={}, identities={}, consents={}),
        *(msgspec.structs.replace(plain, attributes=each) for each in attributes),
        *(msgspec.structs.replace(plain, identities=each) for each in identities),
        *(msgspec.structs.replace(plain, consents={name: state}) for name, state in update.consents.items()),
        msgspec.structs.replace(plain, attributes=dict.fromkeys(update.attributes)),
    ]
    faults = (check_user(part, ALLOWED, LIMITS) or input_fault(part.input) for part in parts)
    return {(fault[0], fault[1]) for fault in faults if fault is not None}
