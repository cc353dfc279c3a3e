"""The comparison of counted instructions with the committed ones."""

from __future__ import annotations

import io

from rich.console import Console

from tests.bench.instructions import Counts, compare, dearer, read
from tests.bench.instructions_world import QUESTIONS
from tests.bench.questions import forms

THEN = {"a question": 1_000, "a check": 200}
MADE_WITH = {"python": "3.11.7"}


def _compared(now: Counts, then: Counts) -> tuple[bool, str]:
    printed = io.StringIO()
    passed = compare(now, then, Console(file=printed, width=200))
    return passed, printed.getvalue()


def test_a_tenth_more_passes_and_anything_above_fails() -> None:
    assert dearer({"a question": 1_100, "a check": 150}, THEN) == []
    assert dearer({"a question": 1_101, "a check": 200}, THEN) == ["a question: 1,101 instructions, +10%"]
    assert dearer({"another": 5}, THEN) == ["another: not in instructions.json"]


def test_counts_of_other_builds_fail_nothing_and_say_so() -> None:
    then = Counts(MADE_WITH, THEN)
    passed, printed = _compared(Counts({"python": "3.12.1"}, {"a question": 9_000}), then)
    assert passed
    assert "counted with python 3.12.1, not 3.11.7: nothing fails" in printed
    passed, printed = _compared(Counts(MADE_WITH, {"a question": 9_000}), then)
    assert not passed
    assert "a question: 9,000 instructions, +800%" in printed


def test_fewer_instructions_ask_for_a_new_file() -> None:
    passed, printed = _compared(Counts(MADE_WITH, {"a question": 899}), Counts(MADE_WITH, THEN))
    assert passed
    assert "renew it with make instructions ARGS=--write" in printed


def test_the_committed_file_has_every_count() -> None:
    counted = read().instructions
    assert set(QUESTIONS) <= {form.name for form in forms()}
    questions = {f"{name}, {when}" for name in QUESTIONS for when in ("first", "warm")}
    others = {"check of one user", "estimate of a milestone", "ingest of 1,000 events"}
    assert counted.keys() == questions | others
