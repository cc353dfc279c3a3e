"""docs/criteria.md lists every operator of the language, each with one example that the service accepts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from engine.criteria.model import (
    Aggregate,
    CompareOp,
    Criterion,
    Event,
    TextOp,
    ValueTest,
    Where,
    Window,
)
from engine.criteria.validation import AudienceReference, Context, validate
from tests.criteria_trees import criterion_from_tree, criterion_to_tree

DOCS = Path(__file__).resolve().parents[3] / "docs" / "criteria.md"
OPERATOR = re.compile(r"^### `(?P<name>[^`]+)`$")

# One struct of the model stands for several operators, told apart by `op`.
OPS: dict[str, tuple[str, ...]] = {"compare": get_args(CompareOp), "text": get_args(TextOp)}


def sections() -> dict[str, dict[str, str]]:
    """Section → operator → its text."""
    found: dict[str, dict[str, str]] = {}
    section = operator = ""
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        heading = OPERATOR.match(line)
        if line.startswith("## "):
            section, operator = line.removeprefix("## "), ""
            found[section] = {}
        elif heading:
            operator = heading["name"]
            assert operator not in found[section], f"{operator} stands twice in {section}"
            found[section][operator] = ""
        elif operator:
            found[section][operator] += line + "\n"
    return found


def tags(union: Any) -> set[str]:
    """The operators of a union of structs."""
    structs = [get_origin(struct) or struct for struct in get_args(union)]
    named = [str(struct.__struct_config__.tag) for struct in structs]
    return {operator for tag in named for operator in OPS.get(tag, (tag,))}


def test_every_operator_has_a_section() -> None:
    found = {section: set(operators) for section, operators in sections().items()}
    assert found["Nodes"] == tags(Criterion)
    assert found["Tests on a value"] == tags(ValueTest)
    assert found["Windows"] == tags(Window)
    assert found["Conditions on an event"] == {f"where.{tag}" for tag in tags(Where)}
    assert found["Aggregates"] == {f"AGGREGATE_{aggregate.name}" for aggregate in Aggregate}


def examples() -> list[tuple[str, str]]:
    return [(operator, text) for operators in sections().values() for operator, text in operators.items()]


def keys(tree: Any) -> set[str]:
    """Every field name and enum in a JSON tree, those of `where` told apart."""
    if isinstance(tree, list):
        return set().union(*map(keys, tree))
    if isinstance(tree, dict):
        inside = {f"where.{key}" for key in tree.get("where", {})}
        return set(tree).union(inside, *map(keys, tree.values()))
    return {tree} if isinstance(tree, str) else set()


@pytest.mark.parametrize(("operator", "text"), examples())
def test_each_operator_has_one_example_that_shows_it_and_is_accepted(operator: str, text: str) -> None:
    blocks = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 1
    tree = json.loads(blocks[0])
    criterion = criterion_from_tree(tree)
    shown = keys(tree)
    if isinstance(criterion, Event):
        shown.add(f"AGGREGATE_{criterion.aggregate.name}")
    assert operator in shown
    context = Context(
        inputs=frozenset(), journey_inputs=frozenset(), audience=lambda _: AudienceReference.FOUND
    )
    assert validate(criterion, context) == ()
    assert criterion_from_tree(criterion_to_tree(criterion)) == criterion
