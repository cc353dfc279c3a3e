"""Every method of the contract is called over gRPC, and over HTTP with JSON, with a real request; the answers
and the refusals of both are the same.

The steps are in `methods.yaml`. A method without a step there fails the walk over the contract. A step
that does not get its answer fails the run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor

from tests.spec.scenario import ANY, METHODS, STEPS, Run, differences, scenario
from tests.walks import each_of

WRITES_ALONE = frozenset({"revision"})
"""Fields of an answer that say nothing about the request."""


# --- the walk ---


def missing(method: MethodDescriptor, steps: list[dict[str, Any]]) -> list[str]:
    """What the steps of a method lack: a request with fields, an answer with fields."""
    found = []
    answered = [step for step in steps if "refusal" not in step]
    if method.input_type.fields and not any(step.get("request") or step.get("requests") for step in answered):
        found.append("a request with fields")
    tells = {field.name for field in method.output_type.fields} - WRITES_ALONE
    if not answered or (tells and not any(_answer_of(step) for step in answered)):
        found.append("an answer to compare with")
    if not tells and not any(_looks(step) for step in _after(answered)):
        found.append("a step after it that shows what it did")
    return found


def _answer_of(step: dict[str, Any]) -> Any:
    return step.get("answer") or step.get("answers") or step.get("last")


def _looks(step: dict[str, Any]) -> bool:
    """Whether the step reads something and compares it, or its absence."""
    reads = step["method"].partition(".")[2].startswith(("Get", "List"))
    return reads and bool(_answer_of(step) or step.get("refusal"))


def _after(answered: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The step after each of these."""
    return [STEPS[index + 1] for index, step in enumerate(STEPS[:-1]) if step in answered]


@each_of("name", METHODS)
def test_every_method_has_a_scenario(name: str) -> None:
    assert missing(METHODS[name], [step for step in STEPS if step["method"] == name]) == []


def test_the_walk_finds_what_is_missing() -> None:
    assert len(METHODS) > 70
    method = METHODS["AccountService.ListWorkspaces"]
    both = ["a request with fields", "an answer to compare with"]
    assert missing(method, []) == both
    assert missing(method, [{"request": {}, "answer": {}}]) == both
    assert missing(method, [{"request": {"parent": "x"}, "refusal": {"code": "NOT_FOUND"}}]) == both
    assert missing(METHODS["JourneyService.DeleteJourney"], [{"request": {"name": "x"}, "answer": {}}]) == [
        "a step after it that shows what it did"
    ]


# --- the run ---


@pytest.fixture(params=[{}, {"http_port": 0}], ids=["gRPC", "Connect with JSON"])
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    with scenario(tmp_path, **request.param) as made:
        yield made


def test_every_method_answers_as_its_scenario_says(run: Run) -> None:
    found = {f"step {number}, {step['method']}": run.perform(step) for number, step in enumerate(STEPS, 1)}
    assert [f"{step}: {line}" for step, lines in found.items() for line in lines] == []


def test_differences_are_found() -> None:
    found = {"name": "x", "users": "7", "steps": [{"a": 1}], "empty": ""}
    assert differences({"name": "x", "users": 7, "steps": [{"a": 1}]}, found, "answer") == []
    assert differences({"name": "y"}, found, "answer") == ["answer.name: 'x', expected 'y'"]
    assert differences({"users": 8}, found, "answer") == ["answer.users: '7', expected 8"]
    assert differences({"steps": []}, found, "answer") == ["answer.steps: 1 elements, expected 0: [{'a': 1}]"]
    assert differences({"steps": [{"b": 1}]}, found, "answer") == ["answer.steps[0].b: missing among ['a']"]
    assert differences({"empty": ANY, "none": ANY}, found, "answer") == [
        "answer.empty: nothing",
        "answer.none: missing among ['empty', 'name', 'steps', 'users']",
    ]
