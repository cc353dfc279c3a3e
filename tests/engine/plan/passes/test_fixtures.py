"""Each pass alone on small plans: fixtures/<pass>.txt, one "before => after" a line.

A number before a colon is how many steps the plan may be left with; fixtures of `share` are read without
sharing, those of every other pass with it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.plan.passes import ALL_PASSES, Pass
from engine.plan.statistics import NoStatistics
from tests.engine.plan.passes.notation import parse, render

FIXTURES = Path(__file__).parent / "fixtures"
PASSES: dict[str, Pass] = {run.__name__: run for run in ALL_PASSES}
WITH_NOTATION_OF_THEIR_OWN = {"simplify_rows", "tighten_counts"}


def lines() -> list[tuple[str, str]]:
    return [
        (path.stem, line)
        for path in sorted(FIXTURES.glob("*.txt"))
        if path.stem not in WITH_NOTATION_OF_THEIR_OWN
        for line in path.read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]


@pytest.mark.parametrize(("name", "line"), lines())
def test_pass_matches_its_fixture(name: str, line: str) -> None:
    before, after = line.split(" => ")
    count, _, expression = before.rpartition(":")
    plan = PASSES[name](parse(expression, shared=name != "share"), NoStatistics())
    assert render(plan) == after
    if count:
        assert len(plan.steps) == int(count)


def test_every_pass_has_fixtures() -> None:
    assert {path.stem for path in FIXTURES.iterdir()} == set(PASSES)
