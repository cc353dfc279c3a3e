"""Files of rule tests: each fault is named with file, line, column and path, all of them at once."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from milepost.rules import InvalidRuleTests, read
from milepost.rules.times import time_of
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.values import from_value, to_datetime

AS_OF = datetime(2026, 11, 1, tzinfo=UTC)
TIME = (
    "expected a duration from as_of, like -3d or 30d, or a time like 2026-11-01 or 2026-11-01T10:00:00+01:00"
)

JOURNEY = """
journeys:
  - journey: j
    inputs: [shop/web]
    milestones:
      - {id: buyers, criteria: {event: {name: buy}}}
      - {id: rest, remaining_users: true}
"""


def written(directory: Path, text: str) -> Path:
    file = directory / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def faults_of(directory: Path, text: str) -> list[str]:
    """The faults, without the name of the file."""
    file = written(directory, text)
    with pytest.raises(InvalidRuleTests) as caught:
        read(file)
    return [fault.removeprefix(f"{file}:") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", AS_OF),
        ("-3d", datetime(2026, 10, 29, tzinfo=UTC)),
        ("30d", datetime(2026, 12, 1, tzinfo=UTC)),
        ("+1d12h", datetime(2026, 11, 2, 12, tzinfo=UTC)),
        ("-0.5s", datetime(2026, 10, 31, 23, 59, 59, 500_000, tzinfo=UTC)),
        ("2026-10-01", datetime(2026, 10, 1, tzinfo=UTC)),
        ("2026-10-01T10:00+01:00", datetime(2026, 10, 1, 9, tzinfo=UTC)),
    ],
)
def test_a_time_is_relative_or_an_instant(text: str, expected: datetime) -> None:
    assert time_of(text, AS_OF) == expected


@pytest.mark.parametrize("text", ["", "3", "-", "3 days", "--3d", 3, None, "-300000w"])
def test_what_is_no_time_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"expected a duration from as_of|is beyond the years"):
        time_of(text, AS_OF)


def test_data_are_messages_in_order_of_time(tmp_path: Path) -> None:
    tests = read(
        written(
            tmp_path,
            f"""as_of: 2026-11-01
{JOURNEY}
users:
  ann@x.org:
    attributes: {{plan: gold, age: 30, paid: true, tags: [a, b], since: {{time_value: -1d}}, gone: null}}
    events:
      - {{name: buy, time: 2d, attributes: {{price: 9.5}}, type: EVENT_TYPE_COMMERCE, event_id: e}}
      - {{name: view, time: -2d}}
    updates: [{{time: 1d, unset_attributes: [plan], identities: {{email: a}}}}]
  bob: {{}}
tests:
  - name: t
    expect: [{{at: 1d, sizes: {{buyers: 0}}}}, {{check: {{bob: {{j/rest: true}}}}}}]
""",
        )
    )
    [scenario] = tests.scenarios
    assert [(each.time - AS_OF).days for each in scenario.changes] == [-2, 0, 0, 1, 2]
    view, first, bob, later, buy = [each.message for each in scenario.changes]
    assert isinstance(first, UserUpdate)
    values = {key: from_value(value) for key, value in first.attributes.items()}
    since = datetime(2026, 10, 31, tzinfo=UTC)
    assert values == {
        "plan": "gold",
        "age": 30.0,
        "paid": True,
        "tags": ["a", "b"],
        "since": since,
        "gone": None,
    }
    assert isinstance(bob, UserUpdate)
    assert (bob.user_id, bob.input, to_datetime(bob.time)) == ("bob", "shop/web", AS_OF)
    assert isinstance(later, UserUpdate)
    assert (list(later.unset_attributes), dict(later.identities)) == (["plan"], {"email": "a"})
    assert isinstance(buy, Event)
    assert (buy.user_id, buy.name, buy.event_id, buy.event_type) == ("ann@x.org", "buy", "e", 3)
    assert isinstance(view, Event)
    assert [(each.written, each.at) for each in scenario.expectations] == [
        ("0s", AS_OF),
        ("1d", datetime(2026, 11, 2, tzinfo=UTC)),
    ]
    assert [check.milestone for check in scenario.expectations[0].checks] == ["j/rest"]


def test_every_fault_is_named_with_its_place(tmp_path: Path) -> None:
    text = f"""as_of: soon
time_zones: UTC
{JOURNEY}
users:
  ann@x.org:
    events:
      - {{name: buy}}
      - {{nam: buy, time: 3}}
    attribute: {{}}
    input: shop/app
tests:
  - name: t
    users: {{bob: {{consents: [{{state: YES}}]}}}}
    expect:
      - members: {{buyer: [bob], rest: [cid]}}
      - {{at: then, sizes: {{rest: -1}}, check: {{bob: {{rest: 1}}}}}}
      - {{at: 1d}}
  - name: t
"""
    assert faults_of(tmp_path, text) == [
        "2:1: time_zones: unknown field, did you mean 'time_zone'?",
        "1:1: as_of: expected a time like 2026-11-01, 2026-11-01T10:00 (both UTC) or"
        " 2026-11-01T10:00:00+01:00, not 'soon'",
        "16:5: users[\"ann@x.org\"].attribute: unknown field, did you mean 'attributes'?",
        "17:5: users[\"ann@x.org\"].input: must be one of shop/web, not 'shop/app'",
        '14:9: users["ann@x.org"].events[0].time: is required',
        "15:10: users[\"ann@x.org\"].events[1].nam: unknown field, did you mean 'name'?",
        '15:9: users["ann@x.org"].events[1].name: is required',
        f'15:20: users["ann@x.org"].events[1].time: {TIME}, not 3',
        "20:31: tests[0].users.bob.consents[0].state: must be one of CONSENT_STATE_GIVEN,"
        " CONSENT_STATE_DENIED, not 'YES'",
        "22:19: tests[0].expect[0].members.buyer: no journey of the file has a milestone 'buyer',"
        " did you mean 'buyers'?",
        "22:40: tests[0].expect[0].members.rest[0]: the test has no user 'cid'; the users are ann@x.org, bob",
        f"23:10: tests[0].expect[1].at: {TIME}, not 'then'",
        "23:53: tests[0].expect[1].check.bob.rest: must be true or false, not 1",
        "23:28: tests[0].expect[1].sizes.rest: must be a number of users, not -1",
        "24:9: tests[0].expect[2]: expects nothing: give `members`, `sizes` or `check`",
        "25:5: tests[1].name: 't' is used twice",
        "25:5: tests[1].expect: needs at least one instant with what is expected",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("as_of: [", "1:9: is not valid YAML: expected the node content, but found '<stream end>'"),
        (
            "[]",
            "1:1: must be a mapping with as_of, time_zone, account, inputs, journeys, audiences, users,"
            " tests",
        ),
        (
            f"as_of: 2026-11-01\n{JOURNEY}tests: [{{name: t, expect: [{{members: {{buyer: []}}}}]}}]",
            "9:39: tests[0].expect[0].members.buyer: no journey of the file has a milestone 'buyer',"
            " did you mean 'buyers'?",
        ),
        (
            f"as_of: 2026-11-01\n{JOURNEY}"
            "tests: [{name: t, users: {bob: }, expect: [{members: {rest: [bo]}}]}]",
            "9:62: tests[0].expect[0].members.rest[0]: the test has no user 'bo', did you mean 'bob'?",
        ),
        (
            f"as_of: 2026-11-01\n{JOURNEY}tests: [{{name: t, expect: [{{at: 1d}}]}}]",
            "9:28: tests[0].expect[0]: expects nothing: give `members`, `sizes` or `check`",
        ),
        (
            "as_of: 2026-11-01\njourneys: [{file: missing.yaml}]\n"
            "tests: [{name: t, expect: [{sizes: {a: 1}}]}]",
            "2:13: journeys[0].file: {directory}/missing.yaml: No such file or directory",
        ),
        *(
            (
                f"as_of: 2026-11-01\n{JOURNEY}tests: [{{name: t, expect: [{{{field}: {{}}}}]}}]",
                f"9:29: tests[0].expect[0].{field}: expects nothing: name what to expect, or leave it out",
            )
            for field in ("check", "members", "sizes")
        ),
        *(
            (
                f"as_of: 2026-11-01\n{JOURNEY}"
                f"tests: [{{name: t, users: {{bob: }}, expect: [{{check: {{bob: {nothing}}}}}]}}]",
                "9:53: tests[0].expect[0].check.bob: expects nothing: name a milestone, with true or false",
            )
            for nothing in ("{}", "null")
        ),
        (
            f"as_of: 2026-11-01\n{JOURNEY}users: {{? [a] : {{}}}}\ntests: []",
            "9:11: is not valid YAML: a key must be text, not a list or a mapping",
        ),
        *(
            (
                f"as_of: 2026-11-01\n{JOURNEY}{line}",
                f"9:{column}: is not valid YAML: half of a character (a surrogate) is no text",
            )
            for line, column in (
                ('users: {"\\ud800": {}}', 9),
                ('tests: [{name: "\\ud800"}]', 16),
                ('time_zone: "\\udfff"', 12),
            )
        ),
        (
            'as_of: 2026-11-01\njourneys: [{file: "a\\0b"}]\ntests: []',
            "2:13: journeys[0].file: '{directory}/a\\x00b': is not the name of a file: embedded null byte",
        ),
        (
            "as_of: 2026-11-01\njourneys: [{journey: j, milestones: [{id: A}]}]\ntests: []",
            "2:39: journeys[0].milestones[0].id: must be 1-63 of a-z0-9-, starting with a letter",
        ),
    ],
)
def test_a_fault_has_a_place_and_a_way_on(tmp_path: Path, text: str, expected: str) -> None:
    assert expected.replace("{directory}", str(tmp_path)) in faults_of(tmp_path, text)


def test_faults_of_a_journey_are_in_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "j.yaml").write_text("journey: j\nmilestones: [{id: a, criteria: {event: {nam: x}}}]\n")
    file = written(tmp_path, "as_of: 2026-11-01\njourneys: [{file: j.yaml}]\ntests: []")
    with pytest.raises(InvalidRuleTests) as caught:
        read(file)
    [fault] = caught.value.faults
    place = f"{tmp_path / 'j.yaml'}:2:41: milestones[0].criteria.event.nam"
    assert fault == f"{place}: unknown field, did you mean 'name'?"
