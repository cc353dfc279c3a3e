"""Tests of rules: YAML documents with data, journeys and the members expected at several instants.

`milepost test FILE` runs them; docs/testing-rules.md has the form. In Python:

    from pathlib import Path
    from milepost import rules, testing

    tests = rules.read(Path("gardeners.test.yaml"))
    for result in testing.run_rules(tests):
        assert result.passed, result.failures
"""

from __future__ import annotations

from milepost.rules.coverage import Coverage
from milepost.rules.model import RuleTests
from milepost.rules.reading import InvalidRuleTests, read
from milepost.rules.running import Failure, Result, Runner

__all__ = ["Coverage", "Failure", "InvalidRuleTests", "Result", "RuleTests", "Runner", "read"]
