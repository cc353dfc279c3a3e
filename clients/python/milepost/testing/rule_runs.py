"""Tests of rules from Python, as `milepost test` runs them."""

from __future__ import annotations

from pathlib import Path

from milepost.rules import Result, Runner, read
from milepost.testing.in_process import in_process


def run_rules(file: Path | str) -> list[Result]:
    """The results of the tests in a file. Raises InvalidRuleTests for a file with faults.

    @pytest.mark.parametrize("result", run_rules("rules/gardeners.test.yaml"), ids=str)
    def test_rules(result: Result) -> None:
        assert result.passed, result.failures
    """
    tests = read(Path(file))
    with in_process() as connect:
        return list(Runner(connect).run(tests))
