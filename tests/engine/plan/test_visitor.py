"""Every visitor handles every kind of node or step."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

import engine.audiences.explain
import engine.backends.local.query.executor
import engine.criteria.describe
import engine.criteria.validation
import engine.plan.compile
import engine.plan.expiry
import engine.plan.explain
import engine.plan.reads  # noqa: F401  (visitors are found among the modules imported here)
from engine.criteria import model as criteria_model
from engine.criteria.model import Criterion, Where, Window
from engine.criteria.visitor import CriterionVisitor, children_of, with_children
from engine.plan.model import Combination, Predicate, Source, Step, operands_of
from engine.plan.visitor import StepVisitor

ENGINE = Path(inspect.getfile(criteria_model)).parents[1]


def below(visitor: type) -> Iterator[type]:
    subclasses: list[type] = visitor.__subclasses__()
    for subclass in subclasses:
        yield subclass
        yield from below(subclass)


VISITORS = [(visitor, sub) for visitor in (CriterionVisitor, StepVisitor) for sub in below(visitor)]


def blank(struct: type[msgspec.Struct]) -> Any:
    """An instance without regard to the types of its fields: enough to be dispatched on."""
    return struct(**{field.name: () for field in msgspec.structs.fields(struct)})


@pytest.mark.parametrize(("visitor", "union"), [(CriterionVisitor, Criterion), (StepVisitor, Step)])
def test_each_member_of_the_union_has_its_own_method(visitor: Any, union: Any) -> None:
    methods = sorted(visitor.__abstractmethods__)
    names = {name: (lambda *_, name=name: name) for name in methods}
    recorder = type("Recorder", (visitor,), names)()
    extra = (None,) if visitor is CriterionVisitor else ()
    called = [recorder.visit(blank(member), *extra) for member in get_args(union)]
    assert sorted(called) == methods


@pytest.mark.parametrize("visitor", [sub for _, sub in VISITORS], ids=lambda sub: sub.__qualname__)
def test_each_visitor_has_a_method_for_every_member(visitor: Any) -> None:
    assert not visitor.__abstractmethods__


def test_incomplete_visitor_cannot_be_instantiated() -> None:
    class Forgetful(StepVisitor[None]):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Forgetful()  # type: ignore[abstract]


def test_the_visitors_of_the_engine_are_among_those_tested() -> None:
    found = {sub.__qualname__ for _, sub in VISITORS}
    expected = {
        "_Validation",
        "CriterionCompiler",
        "CostModel",
        "_Expiry",
        "_Reads",
        "_Resolver",
        "_Description",
    }
    assert expected <= found


def test_children_and_operands_name_every_field_that_refers_to_another_node() -> None:
    child: Criterion = criteria_model.AllOf(label="child")
    for member in get_args(Criterion):
        hints: dict[str, str] = member.__annotations__
        holders = [name for name, hint in hints.items() if re.search(r"\bCriterion\b", hint)]
        node = blank(member)
        for name in holders:
            value = (child,) if "tuple" in hints[name] else child
            node = msgspec.structs.replace(node, **{name: value})
        assert children_of(node) == (child,) * len(holders)
        renamed = with_children(node, lambda c: msgspec.structs.replace(c, label="new"))
        assert [c.label for c in children_of(renamed)] == ["new"] * len(holders)
    assert set(get_args(Step)) == {*get_args(Source), *get_args(Combination)}
    for step in get_args(Step):
        refers = {"operands", "minuend", "subtrahend"} & {f.name for f in msgspec.structs.fields(step)}
        assert bool(refers) == (step in get_args(Combination))
        if step in get_args(Predicate):
            assert operands_of(blank(step)) == ()


# --- no `match` over nodes has a wildcard that would swallow a new one --------------------------------------

MEMBERS = {
    (get_origin(member) or member).__name__
    for union in (Criterion, Step, Where, Window)
    for member in get_args(union)
}
WILDCARD_IS_RIGHT = {
    # What does not know a step leaves it as it is, and claims no relation of it to others.
    "audiences/sampling.py",
    "plan/passes/absorb.py",
    "plan/passes/fold_constants.py",
    "plan/passes/merge_complements.py",
    "plan/passes/order_operands.py",
    "plan/passes/relations.py",
    "plan/passes/rewrite.py",
    "plan/passes/share.py",
    "plan/passes/simplify_rows.py",
}
CHECKED = {"assert_never", "_no_operands", "_source"}
"""Functions that take exactly the members left over, so that the type checker refuses a new one."""


def wildcards(source: str) -> Iterator[int]:
    """Lines of a `case _` that a new node would reach unseen."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Match):
            continue
        classes = {
            getattr(pattern.cls, "id", "")
            for case in node.cases
            for pattern in ast.walk(case.pattern)
            if isinstance(pattern, ast.MatchClass)
        }
        for case in node.cases:
            if not classes & MEMBERS or not isinstance(case.pattern, ast.MatchAs) or case.pattern.pattern:
                continue
            calls = [each for each in ast.walk(case.body[0]) if isinstance(each, ast.Call)]
            called = {getattr(call.func, "id", getattr(call.func, "attr", "")) for call in calls}
            if not called & CHECKED:
                yield case.pattern.lineno


def test_no_match_over_nodes_has_a_wildcard() -> None:
    found = {
        path.relative_to(ENGINE).as_posix(): lines
        for path in sorted(ENGINE.rglob("*.py"))
        if (lines := list(wildcards(path.read_text())))
    }
    assert {path: lines for path, lines in found.items() if path not in WILDCARD_IS_RIGHT} == {}


def test_wildcard_over_nodes_is_detected() -> None:
    source = "match step:\n    case Universe():\n        pass\n    case _:\n        pass\n"
    assert list(wildcards(source)) == [4]
    assert list(wildcards(source.replace("Universe", "Other"))) == []
    assert list(wildcards(source.replace("_:\n        pass", "_:\n        assert_never(step)"))) == []
