"""Revision tokens name a state of one store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from service.convert.revisions import revision_of, revision_token


@given(st.integers(0, 2**63 - 1))
def test_a_token_names_its_revision(revision: int) -> None:
    assert revision_of(revision_token("s1", revision), "s1") == revision


def test_an_empty_token_asks_for_nothing() -> None:
    assert revision_of("", "s1") == 0


@pytest.mark.parametrize(
    "token", ["s2.1", "s1", "s1.", "s1.xyz", "s1.1.1", "s1.-1", ".1", "s1.1 ", "s1." + "f" * 17]
)
def test_a_token_this_store_has_not_given_is_refused(token: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        revision_of(token, "s1")
    assert refusal.value.reason == "INVALID_REVISION"
    assert [violation.field for violation in refusal.value.violations] == ["at_least"]
