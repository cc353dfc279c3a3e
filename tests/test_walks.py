"""A walk fails when any of its cells does, and names each of them."""

from __future__ import annotations

import inspect

import pytest

from tests.walks import each_of

seen: list[tuple[str, int]] = []


@pytest.fixture
def word() -> str:
    return "a"


@each_of("number", range(3))
def test_a_walk_gets_every_value_and_its_fixtures(word: str, number: int) -> None:
    seen.append((word, number))
    assert seen == [("a", each) for each in range(number + 1)]


def test_every_value_that_fails_is_named() -> None:
    @each_of("number", [1, 2, 3, 4], lambda number: f"<{number}>")
    def odd(number: int) -> None:
        assert number % 2, f"{number} is even"

    with pytest.raises(AssertionError, match="2 is even") as failed:
        odd()
    assert failed.value.__notes__ == ["number = <2>, <4>"]
    assert list(inspect.signature(odd).parameters) == []
