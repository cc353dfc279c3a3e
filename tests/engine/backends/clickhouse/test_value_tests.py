"""A test in SQL passes exactly the values that its matcher passes.

The values are in one table, as facts and as attributes of events. A statement asks all tests of all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, get_args

import msgspec
import pytest

from engine.backends.base import EventRecord, UserRecord
from engine.backends.clickhouse.cluster import Cluster
from engine.backends.clickhouse.query.cells import FACT, Cell, event_attribute
from engine.backends.clickhouse.query.value_tests import NEAR_MARGIN_METERS, ValueTests, edge_key
from engine.backends.clickhouse.rows import batch_of
from engine.backends.clickhouse.writer import Writer
from engine.criteria.model import EventType, Near, Text
from engine.criteria.operators import Exists, ResolvedTest, ValueTest, matcher_of
from engine.criteria.operators.place import distance_meters, parse_place
from engine.values import Value
from tests.engine.criteria.operators.test_families import CASES, TAGS
from tests.oracle.generate import CriteriaDrawer
from tests.oracle.palette import NO_VERSIONS, NUMBERS, PLACES, STRINGS, VERSIONS, Chooser, draw_palette

ACCOUNT = "accounts/values"
INPUT = f"{ACCOUNT}/workspaces/w/inputs/i"
NOW = 1_000
KEY = "k"
TESTS_AT_ONCE = 40
PALETTES = 60

ODD_STRINGS = (
    *(
        "é",
        "è",
        "\U0001f642\U0001f642",
        "a\nb",
        "\n",
        "'",
        "\\",
        "\\0",
        "%s {x:String}",
        "x" * 4096,
        "--",
        "*/",
    ),
    *("ꭰ", "Ᏸ", "ﬀ", "ŉ", "İ", "ı", "ǅ", "\U00010570", "\ua7c2", "\u1c8a", "\u212a", "\u03c2"),
    *("90,0", "90.00000000000001,0", "+5 , -.5", "5.,.5", "0,180.00000000000003", "1e1,0", " 48.2 ,16.37 "),
)
PATTERNS = (
    *(
        "🙂?",
        "é?x?",
        "(?i)É",
        "[^a]",
        "a|é?",
        r"\Qa.b",
        r"\Qé?",
        ".",
        "(?s).b",
        "^b",
        "(?m)^b",
        r"\bgold\b",
        "",
    ),
    *("(?:gold)?fish", "x{0}", "é{0,1}", "[🙂é]?$", r"\x{1F642}?", "(?i)straße", r"\pL"),
)


@pytest.fixture(scope="module")
def values(cluster: Cluster) -> Sequence[Value]:
    """All values, in both tables: each is the fact of one user, and the attribute of one event."""
    listed: list[Value] = [*STRINGS, *ODD_STRINGS, *NUMBERS, *VERSIONS, *NO_VERSIONS, *PLACES, True, False]
    listed += [0, 1, NOW, NOW + 1, -1, -(1 << 50), (), ("gold", "a\nb"), ("", "é"), ("52.52,13.405", "x")]
    listed += [tuple(value) if isinstance(value, list) else value for _, _, value, _ in CASES]
    records = [
        record
        for number, value in enumerate(listed)
        for record in (
            UserRecord(f"u{number}", INPUT, NOW, {KEY: value}),
            EventRecord(f"u{number}", INPUT, "e", EventType.CUSTOM, NOW, {KEY: value}),
        )
    ]
    writer = Writer(cluster)
    writer.add(batch_of(ACCOUNT, records, revision=1, first_seq=1))
    writer.close()
    return listed


def passing(cluster: Cluster, tests: Sequence[ResolvedTest], table: str, cell: Cell) -> list[set[str]]:
    """By test, the users whose value passes in SQL."""
    found: list[set[str]] = []
    for start in range(0, len(tests), TESTS_AT_ONCE):
        some = tests[start : start + TESTS_AT_ONCE]
        written = ValueTests(cluster.folding())
        for test in some:
            written.passes(test, cell, table, "1")
        decided: dict[bytes, list[str]] = {}
        for edge in written.edges:
            rows = f"SELECT arrayJoin({edge.strings}) AS x FROM {table} WHERE {edge.condition}"
            close = [
                row[0] for row in _rows(cluster, f"SELECT DISTINCT x FROM ({rows}) WHERE {edge.is_close}")
            ]
            decided[edge_key(edge.test)] = [each for each in close if matcher_of(edge.test).passes(each)]
        written = ValueTests(cluster.folding(), decided)
        users = ", ".join(f"groupArrayIf(user, {written.passes(test, cell, table, '1')})" for test in some)
        (row,) = _rows(cluster, f"SELECT {users} FROM {table} WHERE account = '{ACCOUNT}'")
        found += map(set, row)
    return found


def _rows(cluster: Cluster, statement: str) -> list[Sequence[Any]]:
    return [row for rows in cluster.read(statement) for row in rows]


def check(cluster: Cluster, values: Sequence[Value], tests: Sequence[ResolvedTest], note: str = "") -> None:
    for table, cell in (("facts", FACT), ("events", event_attribute(KEY))):
        for test, found in zip(tests, passing(cluster, tests, table, cell), strict=True):
            matcher = matcher_of(test)
            expected = {f"u{number}" for number, value in enumerate(values) if matcher.passes(value)}
            wrong = [values[int(user[1:])] for user in found ^ expected]
            assert not wrong, f"{test} in {table}: {wrong} {note}"


def test_the_cases_of_every_operator(cluster: Cluster, values: Sequence[Value]) -> None:
    tests: list[ResolvedTest] = []
    for _, written, _, _ in CASES:
        of_criteria = written["test"] in TAGS
        test: ValueTest = msgspec.convert(written, ValueTest) if of_criteria else Exists()
        tests.append(test.resolve(NOW) if of_criteria else msgspec.convert(written, ResolvedTest))
    assert {type(test) for test in tests} == set(get_args(ResolvedTest))
    check(cluster, values, tests)


def test_drawn_tests(cluster: Cluster, values: Sequence[Value]) -> None:
    seed = random.randrange(2**32)
    check(cluster, values, list(_drawn(seed)), f"--seed {seed}")


def _drawn(seed: int) -> Iterator[ResolvedTest]:
    choose = Chooser(random.Random(seed).randrange)
    for _ in range(PALETTES):
        palette = draw_palette(choose, ACCOUNT)
        drawer = CriteriaDrawer(choose, palette, palette.inputs, [])
        for pool in palette.user_values.values():
            yield drawer.value_test(pool).resolve(palette.now)


@pytest.mark.parametrize("ignore_case", [False, True])
def test_expressions(cluster: Cluster, values: Sequence[Value], ignore_case: bool) -> None:
    """A pattern whose literals are optional is not looked for by a part of them."""
    check(cluster, values, [Text("matches", pattern, ignore_case) for pattern in PATTERNS])


@pytest.mark.parametrize("op", ["contains", "starts_with", "ends_with", "glob"])
def test_case_is_folded_as_in_python(cluster: Cluster, values: Sequence[Value], op: Any) -> None:
    strings = [*STRINGS, *(each for each in ODD_STRINGS if len(each) < 100)]
    check(cluster, values, [Text(op, each, ignore_case=True) for each in strings])


def test_every_character_folds_as_in_python(cluster: Cluster) -> None:
    folded = cluster.folding().of_string("x")
    statement = (
        "SELECT groupArray(n), groupArray(f) FROM (SELECT number AS n,"
        f" decodeXMLComponent(concat('&#', toString(number), ';')) AS x, {folded} AS f"
        " FROM numbers(1, 1114111)"
        " WHERE (number < 55296 OR number >= 57344) AND f != x)"
    )
    ((numbers, texts),) = _rows(cluster, statement)
    found = dict(zip(map(chr, numbers), texts, strict=True))
    every = (chr(number) for number in range(1, 0x110000) if not 0xD800 <= number < 0xE000)
    assert found == {each: each.casefold() for each in every if each.casefold() != each}


def test_places_at_the_very_edge_are_decided_by_the_matcher(
    cluster: Cluster, values: Sequence[Value]
) -> None:
    """The distance of each place is the radius, and the next smaller and larger double."""
    centre = (52.5, 13.4)
    places = [place for each in values if type(each) is str and (place := parse_place(each))]
    distances = [distance_meters(centre, place) for place in places]
    assert len(distances) > 5
    radii = [radius + shift for radius in distances for shift in (0, -1e-9, 1e-9, NEAR_MARGIN_METERS)]
    check(cluster, values, [Near(*centre, max(0.0, radius)) for radius in radii])
