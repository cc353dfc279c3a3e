"""The tests of the example journeys find every fault in `mutations.yaml`, and what they print names it."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milepost.documents.text import dump, load
from milepost.rules import Runner, read
from milepost.rules.report import FileResult, lines_of
from milepost.testing.in_process import in_process
from tests.yaml_files import read_yaml

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
MUTATIONS: list[dict[str, Any]] = read_yaml(Path(__file__).with_name("mutations.yaml"))
EQUIVALENT = "equivalent"
"""`named` of a change that means the same: it must not be found."""
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def parent_of(tree: Any, path: str) -> tuple[Any, Any]:
    """The mapping or list that holds what is at a path, and its key or index there."""
    steps = [name or int(index) for name, index in _STEP.findall(path)]
    for step in steps[:-1]:
        tree = tree[step]
    return tree, steps[-1]


def mutated(tree: Any, mutation: dict[str, Any]) -> Any:
    """The tree with the fault in it."""
    tree = copy.deepcopy(tree)
    [(kind, path)] = [(kind, mutation[kind]) for kind in CHANGES if kind in mutation]
    holder, at = parent_of(tree, path)
    if kind == "set":
        holder[at] = mutation["to"]
    elif kind == "rename":
        value = holder.pop(at)
        holder[mutation["to"]] = value
    elif kind == "unwrap":
        [holder[at]] = [value for key, value in holder[at].items() if key != "label"]
    elif kind == "remove":
        del holder[at]
    else:
        items = holder[at]
        items[0], items[1] = items[1], items[0]
    return tree


CHANGES = ("set", "rename", "unwrap", "remove", "swap")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with in_process() as connect:
        yield Runner(connect)


@pytest.mark.parametrize(
    "mutation", MUTATIONS, ids=[f"{each['example']}: {each['fault']}" for each in MUTATIONS]
)
def test_each_fault_in_an_example_is_found_and_named(
    mutation: dict[str, Any], runner: Runner, tmp_path: Path
) -> None:
    name = mutation["example"]
    tree = load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    (tmp_path / f"{name}.yaml").write_text(dump(mutated(tree, mutation)), encoding="utf-8")
    file = tmp_path / f"{name}.test.yaml"
    file.write_text((EXAMPLES / file.name).read_text(encoding="utf-8"), encoding="utf-8")
    tests = read(file)
    found = FileResult(str(file), tests, tuple(runner.run(tests)))
    printed = "\n".join(lines_of(found))
    assert found.errors == 0, printed
    if mutation["named"] == EQUIVALENT:
        assert found.failed == 0, printed
    else:
        assert found.failed > 0, f"{mutation['fault']} is not found"
        assert mutation["named"] in printed


def test_every_example_has_tests_that_pass_and_ten_faults_or_more_in_all(runner: Runner) -> None:
    examples = sorted(path.stem for path in EXAMPLES.glob("*.yaml") if not path.stem.endswith(".test"))
    assert sorted({each["example"] for each in MUTATIONS}) == examples
    for example in examples:
        tests = read(EXAMPLES / f"{example}.test.yaml")
        assert [result.scenario.name for result in runner.run(tests) if not result.passed] == []
    assert len([each for each in MUTATIONS if each["named"] != EQUIVALENT]) == 35
