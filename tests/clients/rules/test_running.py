"""Rule tests by the real engine: what is compared, how time passes, what is said when it is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milepost.rules import Coverage, Result, Runner, read
from milepost.rules.report import coverage_lines
from milepost.testing.in_process import in_process

JOURNEY = """as_of: 2026-11-01
journeys:
  - journey: j
    milestones:
      - id: keen
        criteria: {event: {name: buy, aggregate: AGGREGATE_SUM, of: price, test: {greater_or_equal: 100}}}
      - id: buyers
        criteria: {event: {name: buy, window: {last: 30d}}}
      - {id: rest, remaining_users: true}
"""


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with in_process() as connect:
        yield Runner(connect)


def run(runner: Runner, directory: Path, text: str) -> list[Result]:
    file = directory / "rules.yaml"
    file.write_text(text, encoding="utf-8")
    return list(runner.run(read(file)))


def said(result: Result, directory: Path) -> list[str]:
    """What is wrong and why, without the file's name."""
    lines = [line for each in result.failures for line in (f"{each.position}: {each.message}", *each.reasons)]
    return [line.replace(f"{directory}/rules.yaml:", "") for line in (*lines, *result.error)]


def test_data_come_as_time_passes(runner: Runner, tmp_path: Path) -> None:
    [result] = run(
        runner,
        tmp_path,
        JOURNEY
        + """
users:
  ann:
    events:
      - {name: buy, time: 0s, attributes: {price: 60}}
      - {name: buy, time: 10d, attributes: {price: 40}}
tests:
  - name: t
    expect:
      - {at: -1s, members: {keen: [], buyers: [], rest: []}}
      - {at: 9d, members: {buyers: [ann]}}
      - {at: 10d, members: {keen: [ann], buyers: []}, sizes: {keen: 1, rest: 0}, check: {ann: {keen: true}}}
""",
    )
    assert said(result, tmp_path) == []
    assert result.passed


def test_each_test_has_users_of_its_own(runner: Runner, tmp_path: Path) -> None:
    results = run(
        runner,
        tmp_path,
        JOURNEY
        + """
users: {ann: {events: [{name: buy, time: 0s}]}}
tests:
  - {name: with bob, users: {bob: {}}, expect: [{members: {buyers: [ann], rest: [bob]}}]}
  - {name: without, expect: [{sizes: {buyers: 1, rest: 0}}]}
  - {name: ann bought nothing, users: {ann: {}}, expect: [{members: {buyers: [], rest: [ann]}}]}
""",
    )
    assert [said(each, tmp_path) for each in results] == [[], [], []]


def test_what_is_wrong_is_explained_with_criterion_and_value(runner: Runner, tmp_path: Path) -> None:
    [result] = run(
        runner,
        tmp_path,
        JOURNEY
        + """
users:
  ann: {events: [{name: buy, time: 0s, attributes: {price: 99.5}}]}
  bob: {}
tests:
  - name: t
    expect: [{members: {keen: [ann], rest: []}, sizes: {buyers: 0}, check: {ann: {buyers: false}}}]
""",
    )
    price = '6:9: sum of "price" over event "buy" >= 100: false, seen: 99.5 (decides)'
    recently = '8:9: count of event "buy" in the last 30 days > 0: true, seen: 1 (decides)'
    at = "at 0s (2026-11-01T00:00:00Z)"
    assert said(result, tmp_path) == [
        f"16:83: {at} ann is in j/buyers, and should not be",
        "7:9: in buyers",
        f"  {recently}",
        f"16:25: {at} ann is not in j/keen, and should be",
        "5:9: not in keen",
        f"  {price}",
        f"16:38: {at} bob is in j/rest, and should not be",
        "9:9: in rest",
        "5:9: not in keen",
        '  6:9: sum of "price" over event "buy" >= 100: false, seen: 0.0 (decides)',
        "7:9: not in buyers",
        '  8:9: count of event "buy" in the last 30 days > 0: false, seen: 0 (decides)',
        f"16:57: {at} j/buyers has 1 user, expected 0",
        "its users: ann",
    ]


def test_who_took_a_user_is_explained(runner: Runner, tmp_path: Path) -> None:
    [result] = run(
        runner,
        tmp_path,
        JOURNEY
        + """
users: {ann: {events: [{name: buy, time: 0s, attributes: {price: 100}}]}}
tests: [{name: t, expect: [{members: {buyers: [ann]}}]}]
""",
    )
    assert said(result, tmp_path) == [
        "12:39: at 0s (2026-11-01T00:00:00Z) ann is not in j/buyers, and should be",
        "7:9: not in buyers: taken by keen",
        '  8:9: count of event "buy" in the last 30 days > 0: true, seen: 1',
        "5:9: in keen",
        '  6:9: sum of "price" over event "buy" >= 100: true, seen: 100.0 (decides)',
    ]


def test_names_of_an_account_are_taken_for_the_test_s_own(runner: Runner, tmp_path: Path) -> None:
    [result] = run(
        runner,
        tmp_path,
        """as_of: 2026-11-01
account: acme
inputs: [shop/web, shop/app]
audiences: {accounts/acme/audiences/x1: first/app}
journeys:
  - journey: first
    milestones:
      - id: app
        criteria: {event: {name: buy, inputs: [accounts/acme/workspaces/shop/inputs/app]}}
  - journey: second
    milestones: [{id: both, criteria: {audience: {name: accounts/acme/audiences/x1}}}]
users:
  ann: {input: shop/app, events: [{name: buy, time: 0s}]}
  bob: {input: shop/web, events: [{name: buy, time: 0s}]}
tests: [{name: t, expect: [{members: {app: [ann], both: [ann]}}]}]
""",
    )
    assert said(result, tmp_path) == []


def test_what_the_service_refuses_is_an_error_with_its_place(runner: Runner, tmp_path: Path) -> None:
    [result] = run(
        runner,
        tmp_path,
        """as_of: 2026-11-01
journeys: [{journey: j, milestones: [{id: a, criteria: {user_attribute: {key: "", test: {exists: {}}}}}]}]
tests: [{name: t, expect: [{sizes: {a: 0}}]}]
""",
    )
    assert result.failures == ()
    assert said(result, tmp_path) == [
        "2:74: journeys[0].milestones[0].criteria.user_attribute.key: must not be empty",
    ]
    [result] = run(
        runner,
        tmp_path,
        JOURNEY
        + """
users: {ann: {events: [{name: buy, time: 0s, attributes: {"": 1}}]}}
tests: [{name: t, expect: [{sizes: {rest: 0}}]}]
""",
    )
    [line] = said(result, tmp_path)
    assert line.startswith("11:24: users.ann.events[0]: ")


def test_coverage_names_what_was_never_true_or_never_false(tmp_path: Path) -> None:
    coverage = Coverage()
    with in_process() as connect:
        [result] = run(
            Runner(connect, coverage),
            tmp_path,
            JOURNEY
            + """
users: {ann: {events: [{name: buy, time: 0s, attributes: {price: 100}}]}}
tests: [{name: t, expect: [{members: {keen: [ann]}}]}]
""",
        )
    assert result.passed
    lines = [line.replace(f"{tmp_path}/rules.yaml:", "") for line in coverage_lines(coverage)]
    assert lines == [
        "coverage: 25.0%, 1 of 4 outcomes of 2 criteria",
        '  6:9: j/keen: sum of "price" over event "buy" >= 100: never false',
        "  8:9: j/buyers: never asked",
    ]
