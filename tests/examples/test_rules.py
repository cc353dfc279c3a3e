"""The tests of the examples' journey pass, and leave no criterion untried."""

from __future__ import annotations

from pathlib import Path

from milepost.rules import Coverage, Runner, read
from milepost.testing.in_process import in_process

TESTS = Path(__file__).resolve().parents[2] / "examples" / "rules.test.yaml"


def test_the_rules_of_the_examples_pass_with_full_coverage() -> None:
    coverage = Coverage()
    with in_process() as connect:
        assert [result.failures for result in Runner(connect, coverage).run(read(TESTS))] == [()]
    assert coverage.percent == 100.0
