"""The reference pages are made from the contract, and say its limits in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.spec.scenario import METHODS
from tools.contract import Rules, compiled, of_contract
from tools.generate_reference import Reference, limits

PAGES = Path(__file__).resolve().parent.parent / "docs" / "reference"


def test_the_committed_pages_are_those_of_the_contract() -> None:
    made = Reference(of_contract(compiled())).pages()
    assert made == {path.name: path.read_text(encoding="utf-8") for path in PAGES.iterdir()}


def test_every_method_is_on_the_page_of_its_service() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in PAGES.glob("*-service.md"))
    without = [
        name
        for name, method in METHODS.items()
        if f"## {method.name}\n" not in pages
        or f"`POST /{method.containing_service.full_name}/{method.name}`" not in pages
    ]
    assert without == []
    assert len(METHODS) > 60


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({}, ""),
        ({"required": True, "string.max_bytes": 256}, "required, at most 256 bytes"),
        ({"int32.gte": 0, "int32.lte": 100_000}, "0 to 100,000"),
        ({"duration.gte": 0, "duration.lte": 30 * 86_400_000_000}, "0 s to 30 days"),
        ({"duration.gte": 100_000}, "at least 0.1 s"),
        ({"double.gt": 0.0, "double.finite": True}, "more than 0, finite"),
        (
            {"repeated.items.string.pattern": "^accounts/[a-z][a-z0-9-]{0,62}$", "repeated.max_items": 5},
            "each `accounts/{id}`, at most 5 elements",
        ),
        ({"map.keys.string.max_bytes": 9, "map.max_pairs": 2}, "keys at most 9 bytes, at most 2 entries"),
        ({"ignore": "IGNORE_IF_ZERO_VALUE", "int64.gte": 65_536}, "at least 65,536"),
    ],
)
def test_limits_are_said_in_words(rules: Rules, words: str) -> None:
    assert limits(rules) == words
