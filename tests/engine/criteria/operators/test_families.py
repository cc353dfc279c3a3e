"""Each family of operators: its fixtures, and its completeness."""

from __future__ import annotations

import inspect
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import msgspec
import pytest

from engine.backends.clickhouse.query import value_tests
from engine.criteria import operators
from engine.criteria.faults import Context
from engine.criteria.model import UserAttribute
from engine.criteria.operators import FAMILIES, Exists, ResolvedTest, SemverOp, ValueTest, matcher_of
from engine.criteria.validation import validate
from engine.values import Value, kind_of
from milepost.criteria import Attribute, attribute
from milepost.v1 import criteria_pb2
from milepost.written_form import written_name
from service.convert.criteria import criteria_message, criterion_of
from tests.engine.criteria.test_docs import sections
from tests.oracle.generate import CriteriaDrawer
from tests.oracle.palette import Chooser, draw_palette
from tests.oracle.plans import resolved_test_passes
from tests.oracle.values import passes
from tests.yaml_files import read_yaml

ROOT = Path(__file__).resolve().parents[4]
FIXTURES = Path(__file__).parent / "fixtures"
NOW = 1_000
SEED = 7
PALETTES = 100
DRAWS = 20
NOTHING = Context(inputs=frozenset(), journey_inputs=frozenset())
RE2_ONLY = {"\\pL"}
"""Expressions that the oracle, which uses Python's `re`, cannot read."""


def name_of(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]


def fixture(family: ModuleType) -> dict[str, Any]:
    loaded: dict[str, Any] = read_yaml(FIXTURES / f"{name_of(family)}.yaml")
    return loaded


def structs_of(family: ModuleType) -> tuple[Any, ...]:
    return get_args(family.Tests) or (family.Tests,)


def fields_of(family: ModuleType) -> list[str]:
    return [field for struct in structs_of(family) for field in struct.fields()]


TAGS = {struct.__struct_config__.tag for struct in get_args(ValueTest)}
CASES = [(name_of(family), *case) for family in FAMILIES for case in fixture(family)["cases"]]
FAULTS = [tuple(fault) for family in FAMILIES for fault in fixture(family)["faults"]]
BUILDERS = [
    (field, *builder) for family in FAMILIES for field, builder in fixture(family)["builders"].items()
]


@pytest.mark.parametrize(("family", "written", "value", "expected"), CASES)
def test_a_value_passes_or_not(family: str, written: dict[str, Any], value: Any, expected: bool) -> None:
    of_criteria = written["test"] in TAGS
    asked: Value = tuple(value) if isinstance(value, list) else value
    test: ValueTest = msgspec.convert(written, ValueTest) if of_criteria else Exists()
    resolved = test.resolve(NOW) if of_criteria else msgspec.convert(written, ResolvedTest)
    matcher = matcher_of(resolved)
    assert matcher.passes(asked) is expected
    if expected:
        assert kind_of(asked) in matcher.kinds
    # The oracle, written apart from the engine, says the same.
    if written.get("pattern") not in RE2_ONLY:
        assert resolved_test_passes(resolved, asked) is expected
        assert not of_criteria or passes(test, asked, NOW) is expected


@pytest.mark.parametrize(("written", "field", "reason"), FAULTS)
def test_a_faulty_operand_is_refused(written: dict[str, Any], field: str, reason: str) -> None:
    test: ValueTest = msgspec.convert(written, ValueTest)
    [violation] = validate(UserAttribute(key="k", test=test), NOTHING)
    assert (violation.field, violation.description) == (f"criteria.user_attribute.test.{field}", reason)


@pytest.mark.parametrize(("field", "expression", "words"), BUILDERS)
def test_client_builds_it_and_it_round_trips(field: str, expression: str, words: str) -> None:
    names = {"attribute": attribute, "datetime": datetime, "timedelta": timedelta, "UTC": UTC}
    built = eval(expression, names)
    test = built.user_attribute.test
    assert written_name(test.DESCRIPTOR.fields_by_name[test.WhichOneof("test")]) == field
    criterion = criterion_of(built)
    assert isinstance(criterion, UserAttribute)
    assert validate(criterion, NOTHING) == ()
    assert criterion.test.describe() == words
    assert criteria_message(criterion) == built


@pytest.mark.parametrize("family", FAMILIES, ids=name_of)
def test_each_operator_is_complete(family: ModuleType) -> None:
    fields = fields_of(family)
    found = fixture(family)
    assert set(found["builders"]) == set(fields), "a builder of the client for each operator"
    docs = sections()["Tests on a value"]
    assert not set(fields) - set(docs), "a section of docs/criteria.md for each operator"
    asked = [(case[0].get("op") or case[0]["test"], case[2]) for case in found["cases"]]
    for struct in structs_of(family):
        for field in struct.fields():
            op = field if "op" in struct.__struct_fields__ else struct.__struct_config__.tag
            told = {passed for name, passed in asked if name == op or field == "semver"}
            assert told == {True, False}, f"cases that pass and that do not for {field}"
        # Every method of an operator is its own, not one that it forgot to replace.
        for method in ("check", "resolve", "describe"):
            assert callable(getattr(struct, method))


def test_families_cover_exactly_the_proto_fields() -> None:
    message = criteria_pb2.ValueTest.DESCRIPTOR
    fields = [field for family in FAMILIES for field in fields_of(family)]
    assert sorted(fields) == sorted(map(written_name, message.oneofs_by_name["test"].fields))
    compared = criteria_pb2.SemverTest.DESCRIPTOR.oneofs_by_name["comparison"].fields
    assert sorted(get_args(SemverOp)) == sorted(map(written_name, compared))


def test_every_family_file_has_a_fixture() -> None:
    directory = Path(inspect.getfile(operators)).parent
    files = {path.stem for path in directory.glob("*.py")} - {"__init__", "base"}
    assert files == {name_of(family) for family in FAMILIES} == {path.stem for path in FIXTURES.iterdir()}
    members = {struct for family in FAMILIES for struct in structs_of(family)}
    assert members == set(get_args(ValueTest))
    carried = {s for f in FAMILIES if hasattr(f, "Resolved") for s in get_args(f.Resolved) or (f.Resolved,)}
    assert carried == set(get_args(ResolvedTest))
    for struct in carried:
        assert callable(struct.matcher)
        assert callable(struct.describe)


def test_the_node_client_builds_every_operator() -> None:
    text = (ROOT / "clients/node/src/criteria.ts").read_text(encoding="utf-8")
    built = set(re.findall(r'\bcase: "(\w+)"', text))
    # The names of fields in code: those in JSON differ where the name was a keyword.
    words = [
        field.name.split("_") for field in criteria_pb2.ValueTest.DESCRIPTOR.oneofs_by_name["test"].fields
    ]
    assert {first + "".join(map(str.capitalize, rest)) for first, *rest in words} - built == set()


def test_clickhouse_has_a_case_for_every_operator_that_a_plan_carries() -> None:
    source = inspect.getsource(value_tests)
    carried = {struct.__name__ for struct in get_args(ResolvedTest)}
    assert {name for name in carried if f"case {name}()" not in source} == set()


def test_every_file_of_the_list_for_contributors_exists() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lists = page.partition("## Add an operator")[2].partition("## Add an output kind")[0]
    places = set(re.findall(r"`((?:\w+/)+[\w.]*)`", lists))
    assert len(places) > 15
    assert {place for place in places if not (ROOT / place).exists()} == set()


def test_the_oracle_draws_every_operator() -> None:
    choose = Chooser(random.Random(SEED).randrange)
    drawn = set()
    for _ in range(PALETTES):
        palette = draw_palette(choose, "accounts/a")
        drawer = CriteriaDrawer(choose, palette, palette.inputs, [])
        for values in (*palette.event_values.values(), *palette.user_values.values()):
            drawn |= {drawer.value_test(values).field.partition(".")[0] for _ in range(DRAWS)}
    fields = {field for family in FAMILIES for field in fields_of(family)}
    assert fields - drawn == set(), "a draw in tests/oracle/generate.py for each operator"


def test_the_client_has_no_test_that_the_service_lacks() -> None:
    # `version` leads to the comparisons of versions, the four operators to the ordering.
    own = {name for name in vars(Attribute.__mro__[1]) if not name.startswith("_")} - {"version"}
    expressions = " ".join(expression for _, expression, _ in BUILDERS)
    assert {name for name in own if f".{name}(" not in expressions} == set()
