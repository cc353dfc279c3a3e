"""Python values as the contract's values, and back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from milepost import from_value, to_value

NOON = datetime(2026, 3, 1, 12, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize("plain", ["", "a", 0, 2.5, True, NOON, [], ["a", "b"]])
def test_a_value_comes_back_as_it_was(plain: Any) -> None:
    assert from_value(to_value(plain)) == plain


@pytest.mark.parametrize(
    "wrong", [{"city": "Bonn"}, {"a"}, b"a", object(), iter(["a"])], ids=lambda wrong: type(wrong).__name__
)
def test_what_no_attribute_can_hold_is_refused_and_not_taken_as_a_list(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"^{type(wrong).__name__} is no value: expected str, int, "):
        to_value(wrong)


def test_a_list_of_anything_but_strings_is_refused() -> None:
    with pytest.raises(TypeError):
        to_value([1, 2])  # type: ignore[list-item]
