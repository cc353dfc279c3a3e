"""Journeys as documents: the YAML form, what applying one would change, and applying it to a real service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import Result

from engine.criteria.model import Criterion
from milepost import Client, journeys, make_event
from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import audience, event
from milepost.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from milepost.instants import text_of
from milepost.journeys import (
    DocumentError,
    JourneyDocument,
    Mark,
    MilestoneDocument,
    Positions,
    between,
    dumps,
    loads,
)
from milepost.normal_form import normal_form
from milepost.outputs import WatchOutput
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import JourneyVersion
from milepost.v1.journey_service_pb2 import MoveMilestoneRequest
from service.convert.criteria import criteria_message, criterion_of
from tests.cli_runner import CliRunner
from tests.service.convert.test_criteria import criteria
from tests.short_forms import examples

NAMES = ("buy", "visit", "call", "mail", "chat")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An account with one user per subset of `NAMES`: user 5 is 0b101, so `buy` and `call`."""
    with (
        ServiceProcess(tmp_path_factory.mktemp("store"), flags=("--log-level", "warning")) as service,
        Client(service.target, account="a") as made,
    ):
        made.ensure_account()
        for input_id in ("app", "mail"):
            made.ensure_input("shop", input_id)
        events = [
            make_event(f"u{user}", name, NOW)
            for user in range(2 ** len(NAMES))
            for bit, name in enumerate(("start", *NAMES))
            if bit == 0 or user >> (bit - 1) & 1
        ]
        made.ingest_events(events, input="accounts/a/workspaces/shop/inputs/app")
        yield made


def did(name: str) -> Criteria:
    return event(name).happened()


def document(journey_id: str, *milestones: MilestoneDocument) -> JourneyDocument:
    return JourneyDocument(journey_id, journey_id, (), milestones)


def milestone(milestone_id: str, name: str = "", *children: MilestoneDocument) -> MilestoneDocument:
    return MilestoneDocument(milestone_id, milestone_id, did(name) if name else None, children)


def bring_about(client: Client, wanted: JourneyDocument) -> None:
    journeys.apply(client, journeys.compare(client, wanted))
    assert journeys.read(client, wanted.id) == wanted
    assert journeys.compare(client, wanted).is_empty


# --- the YAML form ---

TEXT = """\
journey: winback
display_name: Win back
inputs: [shop/mail, shop/app]
milestones:
  - id: lapsed
    display_name: Lapsed
    criteria:
      label: no
      not: {event: {name: buy, aggregate: AGGREGATE_COUNT, window: {last: 7776000s}}}
    children:
      - id: since
        criteria:
          userAttribute: {key: on, test: {greater_than: {time_value: 2026-01-01T00:00:00Z}}}
      - id: rest
        remaining_users: true
"""


def test_yaml_is_read_like_json() -> None:
    read = loads(TEXT)
    assert (read.id, read.display_name, read.inputs) == ("winback", "Win back", ("shop/mail", "shop/app"))
    [lapsed] = read.milestones
    since, rest = lapsed.children
    assert [each.display_name for each in read.walk()] == ["Lapsed", "since", "Remaining users"]
    assert lapsed.criteria is not None
    assert since.criteria is not None
    assert lapsed.criteria.label == "no"
    assert lapsed.criteria.negation.event.window.last.seconds == 90 * 86_400
    assert since.criteria.user_attribute.key == "on"
    assert since.criteria.user_attribute.test.greater_than.time_value.ToJsonString() == "2026-01-01T00:00:00Z"
    assert rest.takes_remaining_users
    assert loads(dumps(read)) == read


def test_json_is_read_like_yaml() -> None:
    tree = {
        "journey": "j",
        "displayName": "J",
        "milestones": [{"id": "m", "criteria": {"event": {"name": "buy", "window": {"last": "2w"}}}}],
    }
    read = loads(json.dumps(tree, indent="\t"))
    assert loads(dumps(read)) == read
    [made] = read.milestones
    assert made.criteria == event("buy", last=timedelta(weeks=2)).happened()


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("journey: [", [("", "is not valid YAML: ")]),
        ("- 1", [("", "must be a mapping with journey"), ("journey", "must be 1-63 of")]),
        ("journey: Win", [("journey", "must be 1-63 of")]),
        ("journey: j\njourney: k", [("", "is not valid YAML: the key 'journey' is duplicated")]),
        ("{journey: j, name: x}", [("name", "unknown field; the fields are journey, ")]),
        ("{journey: j, display_name: 7}", [("display_name", "must be a string, not 7")]),
        (
            "{journey: j, inputs: [app, w/i, w/i]}",
            [("inputs[0]", "must be"), ("inputs[2]", "'w/i' is named")],
        ),
        ("{journey: j, milestones: 1}", [("milestones", "must be a list")]),
        (
            "{journey: j, milestones: [{id: m}, {id: m, criteria: {evnet: {}}, children: [{id: r}]}]}",
            [
                ("milestones[1].criteria.evnet", "unknown field, did you mean 'event'?"),
                ("milestones[0]", "needs exactly one of"),
                ("milestones[1].id", "'m' is used twice"),
                ("milestones[1].children[0]", "needs exactly one of"),
            ],
        ),
        # A value that could not be read is not missing as well.
        (
            "{journey: j, milestones: [{id: m, criteria: {all_of: {}}}, {id: r, remaining_users: yes}]}",
            [("milestones[1].remaining_users", "must be true or false, not 'yes'")],
        ),
        ("{journey: j, milestones: [{id: m, criteria: 5}]}", [("milestones[0].criteria", "must be")]),
        (
            "{journey: j, milestones: [{id: r, remaining_users: true}, {id: m, criteria: {all_of: {}}}]}",
            [("milestones[0]", "remaining users must come last")],
        ),
        (
            "{journey: j, milestones: [{id: r, remaining_users: true, criteria: {all_of: {}}}]}",
            [("milestones[0]", "needs exactly one of"), ("milestones[0]", "remaining users must come last")],
        ),
    ],
)
def test_every_fault_of_a_document_is_reported(text: str, faults: list[tuple[str, str]]) -> None:
    with pytest.raises(DocumentError) as raised:
        loads(text)
    found = raised.value.faults
    assert [path for path, _ in found] == [path for path, _ in faults]
    assert [problem.startswith(start) for (_, problem), (_, start) in zip(found, faults, strict=True)] == [
        True
    ] * len(faults)


SCALARS = st.sampled_from(
    [
        "no",
        "On",
        "~",
        "null",
        "1e3",
        ".5",
        "010",
        "0x1f",
        "1_000",
        "12:30",
        "2026-01-01",
        "=",
        "<<",
        "-",
        "a: b",
    ]
)


@given(SCALARS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_strings_stay_strings_in_yaml_1_2_and_1_1(text: str) -> None:
    written = dumps(JourneyDocument("j", text or "j"))
    assert loads(written).display_name == (text or "j")
    assert yaml.safe_load(written)["display_name"] == (text or "j")


@given(criteria())
def test_criteria_round_trip_through_yaml(criterion: Criterion) -> None:
    made = document("j", MilestoneDocument("m", "M", normal_form(criteria_message(criterion))))
    assert loads(dumps(made)) == made


@given(criteria())
def test_service_returns_the_normal_form(criterion: Criterion) -> None:
    sent = criteria_message(criterion)
    assert normal_form(sent) == criteria_message(criterion_of(sent)) == sent


@pytest.mark.parametrize(
    "text",
    [
        "event: {name: buy, aggregate: AGGREGATE_COUNT}",
        "event: {name: buy, window: {calendar: {unit: CALENDAR_UNIT_DAY}}}",
        "event: {name: buy, window: {between_ago: {from: 60.000000999s}}}",
        "event: {name: buy, window: {range: {start: 2026-01-01T00:00:00.000000999Z}}}",
        "user_attribute: {key: k, test: {ignore_case: true, equals: {string_value: A}}}",
        "not: {any_of: {criteria: [{event: {name: buy, aggregate: AGGREGATE_COUNT, test: {equals: 2}}}]}}",
    ],
)
def test_equivalent_spellings_have_one_normal_form(text: str) -> None:
    [read] = loads(f"{{journey: j, milestones: [{{id: m, criteria: {{{text}}}}}]}}").milestones
    assert read.criteria is not None
    assert criteria_message(criterion_of(read.criteria)) == read.criteria


# --- differences ---


def marks(before: JourneyDocument | None, after: JourneyDocument) -> list[tuple[str, str]]:
    return [(each.mark.value, each.id) for each in between(before, after).walk()]


def test_new_journey_is_created_with_all_milestones() -> None:
    after = document("j", milestone("a", "buy", milestone("b", "visit")), milestone("r"))
    difference = between(None, after)
    assert difference.mark is Mark.CREATED
    assert marks(None, after) == [("+", "a"), ("+", "b"), ("+", "r")]


def test_as_few_siblings_as_possible_move() -> None:
    before = document("j", *(milestone(name, name) for name in NAMES))
    after = document("j", *(milestone(name, name) for name in (*NAMES[1:], NAMES[0])))
    assert marks(before, after) == [(" ", name) for name in NAMES[1:]] + [("~", NAMES[0])]


def test_changed_parent_or_kind_replaces_the_subtree() -> None:
    below = milestone("below", "call")
    before = document("j", milestone("a", "buy"), milestone("b", "visit", below), milestone("c", "mail"))
    after = document("j", milestone("a", "buy", milestone("b", "visit", below)), milestone("c"))
    assert marks(before, after) == [
        (" ", "a"),
        ("+", "b"),
        ("+", "below"),
        ("-", "b"),
        ("-", "below"),
        ("-", "c"),
        ("+", "c"),
    ]


# --- applying ---


def test_applying_a_saved_journey_changes_nothing(client: Client) -> None:
    wanted = document("twice", milestone("a", "buy", milestone("b", "visit"), milestone("r")), milestone("s"))
    bring_about(client, wanted)
    listed = [(each.name, each.etag, each.audience) for each in client.list_milestones("twice")]
    bring_about(client, wanted)
    assert [(each.name, each.etag, each.audience) for each in client.list_milestones("twice")] == listed


def test_sizes_before_and_after(client: Client) -> None:
    bring_about(client, document("sizes", milestone("a", "buy", milestone("b", "visit")), milestone("r")))
    wanted = document("sizes", milestone("n", "call"), milestone("a", "buy"), milestone("r"))
    difference = journeys.compare(client, wanted)
    assert (difference.population_before, difference.population_after) == (32, 32)
    assert [
        (each.mark.value, each.id, each.users_before, each.users_after) for each in difference.walk()
    ] == [
        ("+", "n", None, 16),
        (" ", "a", 16, 8),
        ("-", "b", 8, None),
        (" ", "r", 16, 8),
    ]


def test_sizes_are_those_of_the_instant_asked_for(client: Client, tmp_path: Path) -> None:
    recent = MilestoneDocument("a", "a", event("buy", last=timedelta(days=1)).happened())
    bring_about(client, document("instant", recent))
    ever = document("instant", milestone("a", "buy"))
    for days, users in ((0, 16), (2, 0)):
        at = NOW + timedelta(days=days)
        [found] = journeys.compare(client, ever, as_of=at).milestones
        assert (found.users_before, found.users_after) == (users, 16)
        [found] = journeys.compare_versions(client, "instant", 1, as_of=at).milestones
        assert (found.users_before, found.users_after) == (users, users)
        shown = run(client, "show", "instant", "--as-of", f"{at:%Y-%m-%d %H:%M:%S.%f}Z").output
        assert next(line for line in shown.splitlines() if "`-- a" in line).split()[2] == str(users)
        assert f"as of {text_of(at)}\n" in shown
    file = tmp_path / "j.mmd"
    run(client, "plot", "instant", "--out", str(file), "--as-of", "2020-02-29")
    assert "accDescr: as of 2020-02-29T00:00:00Z; 0 of 100 activated" in file.read_text(encoding="utf-8")


def test_unchanged_milestone_keeps_its_audience(client: Client) -> None:
    bring_about(client, document("lasting", milestone("a", "buy"), milestone("b", "visit"), milestone("r")))
    before = {each.name: each.audience for each in client.list_milestones("lasting")}
    bring_about(client, document("lasting", milestone("b", "mail"), milestone("n", "call"), milestone("r")))
    after = {each.name: each.audience for each in client.list_milestones("lasting")}
    assert {name.rpartition("/")[2] for name in before.keys() & after.keys()} == {"b", "r"}
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_two_splits_can_exchange_their_only_criteria(client: Client) -> None:
    """Each needs the other's id, and neither may lose its criteria before its remaining users."""
    p, q = milestone("p", "buy"), milestone("q", "visit")
    x, y = milestone("x", "call"), milestone("y", "mail")

    def split(first: MilestoneDocument, second: MilestoneDocument) -> JourneyDocument:
        return document(
            "exchange",
            MilestoneDocument("p", "p", p.criteria, (first, milestone("r"))),
            MilestoneDocument("q", "q", q.criteria, (second, milestone("s"))),
        )

    bring_about(client, split(x, y))
    kept = {client.audience_name(f"exchange/{each}") for each in ("r", "s")}
    bring_about(client, split(y, x))
    assert {client.audience_name(f"exchange/{each}") for each in ("r", "s")} == kept


def test_criteria_may_name_an_added_or_removed_input(client: Client) -> None:
    def wanted(input_id: str) -> JourneyDocument:
        name = f"accounts/a/workspaces/shop/inputs/{input_id}"
        made = MilestoneDocument("m", "M", event("buy", inputs=[name]).happened())
        return JourneyDocument("inputs", "Inputs", (f"shop/{input_id}",), (made,))

    # Every event came through `app`.
    bring_about(client, wanted("app"))
    assert client.count("inputs/m").users == 16
    bring_about(client, wanted("mail"))
    assert client.count("inputs/m").users == 0
    bring_about(client, JourneyDocument("inputs", "Inputs", (), wanted("app").milestones))
    assert client.count("inputs/m").users == 16


def test_named_audiences_and_the_order_may_change_together(client: Client) -> None:
    """`b` names the audience of `a` and stands behind it; then the other way round."""
    a, b = milestone("a", "buy"), milestone("b", "visit")
    bring_about(client, document("named", a, b))
    [of_a, of_b] = [each.audience for each in client.list_milestones("named")]
    like_a = MilestoneDocument("b", "b", audience(of_a))
    like_b = MilestoneDocument("a", "a", audience(of_b))
    for first, second, audiences in (
        (a, like_a, [of_a, of_b]),
        (b, like_b, [of_b, of_a]),
        (a, like_a, [of_a, of_b]),
    ):
        bring_about(client, document("named", first, second))
        assert [each.audience for each in client.list_milestones("named")] == audiences


def test_document_that_names_a_deleted_audience_is_refused(client: Client) -> None:
    bring_about(client, document("refused", milestone("a", "buy"), milestone("b", "visit")))
    of_a = audience(client.audience_name("refused/a"))
    with pytest.raises(InvalidArgument) as raised:
        journeys.compare(client, document("refused", MilestoneDocument("b", "b", of_a)))
    [violation] = raised.value.violations
    assert violation.field == "milestones[0].criteria.audience.name"
    assert violation.description == f"audience {of_a.audience.name!r} is deleted by this document"


def test_audience_named_by_another_journey_is_not_deleted(client: Client) -> None:
    bring_about(client, document("source", milestone("a", "buy"), milestone("b", "visit")))
    of_a = audience(client.audience_name("source/a"))
    bring_about(client, document("other", MilestoneDocument("m", "m", of_a)))
    with pytest.raises(FailedPrecondition, match="accounts/a/journeys/other/milestones/m"):
        bring_about(client, document("source", milestone("b", "call")))
    assert journeys.read(client, "source") == document(
        "source", milestone("a", "buy"), milestone("b", "visit")
    )
    bring_about(client, document("other", milestone("m", "buy")))
    bring_about(client, document("source", milestone("b", "call")))


def test_refused_criteria_change_nothing(client: Client) -> None:
    bring_about(client, document("faulty", milestone("a", "buy")))
    bad = event("buy", inputs=["accounts/a/workspaces/shop/inputs/nowhere"]).happened()
    wanted = document("faulty", milestone("b", "visit"), MilestoneDocument("c", "c", bad))
    with pytest.raises(InvalidArgument) as raised:
        journeys.compare(client, wanted)
    path = "milestones[1].criteria.event.inputs[0]"
    assert [violation.field for violation in raised.value.violations] == [path]
    assert str(raised.value).count(path) == 1
    assert "document." not in str(raised.value)
    assert journeys.read(client, "faulty") == document("faulty", milestone("a", "buy"))


def test_one_fault_in_the_second_milestone_leaves_nothing_behind(client: Client) -> None:
    """A display name of 101 characters, as everything else, is found before anything changes."""
    long = MilestoneDocument("second", "x" * 101, did("visit"))
    with pytest.raises(InvalidArgument) as raised:
        journeys.compare(client, document("halved", milestone("first", "buy"), long))
    assert [(each.field, each.description) for each in raised.value.violations] == [
        ("milestones[1].display_name", "has 101 characters; at most 100 are allowed")
    ]
    with pytest.raises(NotFound):
        client.get_journey("halved")


def test_what_changed_since_it_was_compared_is_not_overwritten(client: Client) -> None:
    bring_about(client, document("raced", milestone("a", "buy")))
    difference = journeys.compare(client, document("raced", milestone("b", "visit")))
    bring_about(client, document("raced", milestone("a", "call")))
    with pytest.raises(Aborted):
        journeys.apply(client, difference)
    assert journeys.read(client, "raced") == document("raced", milestone("a", "call"))


def test_versions_are_read_compared_and_brought_back(client: Client) -> None:
    first = document("past", milestone("a", "buy"), milestone("r"))
    second = document("past", milestone("n", "call"), milestone("a", "buy"), milestone("r"))
    bring_about(client, first)
    bring_about(client, second)
    assert [
        (v.name.rpartition("/")[2], v.milestone_count, v.current) for v in versions_of(client, "past")
    ] == [
        ("2", 3, True),
        ("1", 2, False),
    ]
    assert journeys.read(client, "past", version=1) == first
    assert journeys.read(client, "past", version=2) == second
    difference = journeys.compare_versions(client, "past", 1)
    assert [(m.mark.value, m.id, m.users_before, m.users_after) for m in difference.walk()] == [
        ("+", "n", None, 16),
        (" ", "a", 16, 8),
        (" ", "r", 16, 8),
    ]
    assert journeys.compare_versions(client, "past", 2).is_empty
    bring_about(client, journeys.read(client, "past", version=1))
    assert journeys.compare_versions(client, "past", 1, 3).is_empty
    with pytest.raises(NotFound, match="versions/4"):
        journeys.read(client, "past", version=4)


def test_line_and_column_are_found_for_every_path() -> None:
    positions = Positions(TEXT)
    places = {
        "": (1, 1),
        "journey": (1, 1),
        "inputs[1]": (3, 21),
        "milestones[0].display_name": (6, 5),
        "milestones[0].criteria.not.event.window.last": (9, 69),
        "milestones[0].children[0].criteria.user_attribute.test": (13, 36),
        "milestones[0].children[1].display_name": (14, 9),
        "milestones[7]": (4, 1),
    }
    assert {path: positions.find(path) for path in places} == places
    assert Positions("journey: [").find("journey") is None


@st.composite
def trees(draw: st.DrawFn) -> JourneyDocument:
    """A journey of up to eight milestones, their ids from few, so that they last, move and are replaced."""
    free = draw(st.permutations([f"m{index}" for index in range(8)]))
    taken = iter(free[: draw(st.integers(0, 8))])

    def split(depth: int) -> tuple[MilestoneDocument, ...]:
        made: list[MilestoneDocument] = []
        for _ in range(draw(st.integers(1, 3)) if depth < 3 else 0):
            milestone_id = next(taken, None)
            if milestone_id is None:
                break
            remaining = bool(made) and draw(st.booleans())
            name = "" if remaining else draw(st.sampled_from(NAMES))
            made.append(milestone(milestone_id, name, *split(depth + 1)))
            if remaining:
                break
        return tuple(made)

    return JourneyDocument("random", draw(st.sampled_from(["A", "B"])), (), split(0))


def versions_of(client: Client, journey: str) -> list[JourneyVersion]:
    """The versions of a journey, latest first; none when it does not exist."""
    try:
        return list(client.list_journey_versions(journey))
    except NotFound:
        return []


@settings(max_examples=examples(15))
@given(st.lists(trees(), min_size=1, max_size=4))
def test_any_journey_can_be_turned_into_any_other(client: Client, wanted: list[JourneyDocument]) -> None:
    for each in wanted:
        before = max((int(v.name.rpartition("/")[2]) for v in versions_of(client, "random")), default=0)
        bring_about(client, each)
        after = [int(version.name.rpartition("/")[2]) for version in versions_of(client, "random")]
        assert after[0] in (max(before, 1), before + 1)


# --- the commands ---


def run(client: Client, *arguments: str, **options: Any) -> Result:
    address = ("--target", client.target, "--account", "a")
    return CliRunner().invoke(app, ["journey", *arguments, *address], **options)


COMMANDS = document("commands", milestone("a", "buy", milestone("b", "visit")), milestone("r"))
COMMANDS_CHANGED = """\
journey: commands
display_name: Commands
inputs: [shop/app]
milestones:
  - {id: c, criteria: {label: called, event: {name: call}}}
  - {id: a, display_name: Buyers, criteria: {event: {name: buy, window: {last: 86400s}}}}
  - {id: r, display_name: r, remaining_users: true}
"""


def test_diff_and_apply(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "winback.yaml"
    file.write_text(dumps(COMMANDS), encoding="utf-8")
    # 1. Nothing is there: diff shows it all and changes nothing, apply creates it.
    assert "to apply: 3 milestones created, 0 changed, 0 deleted" in run(client, "diff", str(file)).output
    assert run(client, "diff", str(file), "--exit-code").exit_code == 2
    assert "commands" not in {each.display_name for each in client.list_journeys()}
    assert run(client, "apply", str(file)).output == dedent(
        """\
        + commands (accounts/a/journeys/commands)
          a new journey

        milestone    id  before  after  change
          Start               -     32
        + |-- a      a        -     16
        + |   `-- b  b        -      8
        + `-- r      r        -     16

        applied: 3 milestones created, 0 changed, 0 deleted
        """
    )
    # 2. A second time is a no-op.
    result = run(client, "apply", str(file))
    assert result.output == "no changes: accounts/a/journeys/commands matches the document\n"
    assert run(client, "diff", str(file), "--exit-code").exit_code == 0
    # 3. A changed document: every kind of change, with sizes.
    assert run(client, "apply", "-", input=COMMANDS_CHANGED).output == dedent(
        """\
        ~ Commands (accounts/a/journeys/commands)
          renamed from 'commands'
          inputs: shop/app; before: all

        milestone     id  before  after  change
          Start               32     32
        + |-- c       c        -     16
        ~ |-- Buyers  a       16      8      -8  criteria, renamed from 'a'
        - |   `-- b   b        8      -
          `-- r       r       16      8      -8

        a: criteria
            event:
              name: buy
          +   window:
          +     last: 1d

        applied: 1 milestone created, 1 changed, 1 deleted
        """
    )


def test_a_file_that_drops_an_activated_milestone_says_so(client: Client, tmp_path: Path) -> None:
    bring_about(client, document("dropped", milestone("a", "buy", milestone("b", "visit")), milestone("c")))
    made = client.ensure_output("nowhere", WatchOutput())
    for connection, target in (("first", "dropped/b"), ("second", "dropped/b"), ("third", "dropped/c")):
        client.ensure_connection(connection, target=target, output=made.name)
        client.activate_connection(connection)
    client.ensure_connection("resting", target="dropped/a", output=made.name)
    file = tmp_path / "dropped.yaml"
    file.write_text(dumps(document("dropped", milestone("n", "call"), milestone("c"))), encoding="utf-8")

    shown = run(client, "diff", str(file)).output
    lines = [line for line in shown.splitlines() if line.startswith(("-", " ")) and "activated" in line]
    assert len(lines) == 1, shown
    assert lines[0].split()[:4] == ["-", "|", "`--", "b"]
    assert lines[0].endswith("activated: every member exits, deleted with connection first, second")
    listed = json.loads(run(client, "diff", str(file), "--json").output)["milestones"]
    assert [(each["id"], each["activeConnections"]) for each in listed] == [("a", []), ("n", []), ("c", [])]
    assert listed[0]["children"][0]["activeConnections"] == ["first", "second"]


def test_a_deletion_that_takes_connections_with_it_asks(client: Client, monkeypatch: Any) -> None:
    bring_about(client, document("asked", milestone("a", "buy", milestone("b", "visit")), milestone("c")))
    made = client.ensure_output("nowhere", WatchOutput())
    for connection in ("going", "staying"):
        client.ensure_connection(connection, target="asked/b", output=made.name)
    client.activate_connection("going")
    arguments = ["--target", client.target, "--account", "a"]

    def delete(line: str, answer: str = "") -> Result:
        return CliRunner().invoke(app, [*line.split(), *arguments], input=answer)

    def ids() -> set[str]:
        return {each.name.rpartition("/")[2] for each in client.list_milestones("asked")}

    # 1. Nobody can be asked here: nothing is deleted.
    refused = delete("milestone delete asked/b")
    assert refused.exit_code == 2
    assert refused.output == (
        "milepost: Delete asked/b with 2 connections: going (active), staying (inactive)? Every member exits:"
        " outputs of active connections are sent that. This cannot be undone. Nobody can be asked here: add"
        " --yes\n"
    )
    refused = delete("journey delete asked --with-milestones")
    assert refused.exit_code == 2
    assert "Delete asked and its milestones with 2 connections: going (active)" in refused.output
    assert ids() == {"a", "b", "c"}
    # 2. The answer decides.
    with monkeypatch.context() as patch:
        patch.setattr("milepost.cli.parameters.can_ask", lambda: True)
        assert delete("milestone delete asked/b", "n\n").exit_code == 1
        assert ids() == {"a", "b", "c"}
        assert delete("milestone delete asked/b", "y\n").exit_code == 0
    assert ids() == {"a", "c"}
    # 3. What has no connections goes without a question, and so does anything with --yes.
    assert delete("milestone delete asked/a").exit_code == 1  # It is the last before remaining users.
    client.ensure_connection("last", target="asked/c", output=made.name)
    assert delete("journey delete asked --with-milestones --yes").exit_code == 0
    assert "asked" not in {each.display_name for each in client.list_journeys()}


def test_versions_export_and_diff_by_number(client: Client, tmp_path: Path) -> None:
    for text in (dumps(COMMANDS), COMMANDS_CHANGED):
        renamed = text.replace("journey: commands", "journey: numbered")
        assert run(client, "apply", "-", input=renamed).exit_code == 0
    # 1. The version before is listed, exported and compared, by number.
    listed = run(client, "versions", "numbered").output.splitlines()
    assert [line.split()[0] for line in listed] == ["version", "2", "1"]
    assert listed[1].endswith("  current")
    assert loads(run(client, "export", "numbered", "--version", "1").output) == replace(
        COMMANDS, id="numbered"
    )
    compared = run(client, "diff", "numbered", "--version", "1", "--exit-code")
    assert (compared.exit_code, compared.output.splitlines()[-1]) == (
        2,
        "changed: 1 milestone created, 1 changed, 1 deleted",
    )
    same = run(client, "diff", "numbered", "--version", "1", "--to-version", "1", "--exit-code")
    assert (same.exit_code, same.output) == (
        0,
        "no changes: accounts/a/journeys/numbered matches version 1\n",
    )
    assert run(client, "diff", "numbered", "--to-version", "1").exit_code == 2
    # 2. What is exported is what was applied, to a file and to standard output.
    file = tmp_path / "numbered.yaml"
    assert run(client, "export", "numbered", str(file)).output == ""
    assert loads(file.read_text(encoding="utf-8")) == loads(renamed)
    assert run(client, "export", "numbered").output == file.read_text(encoding="utf-8")


def test_warnings_are_shown_beside_the_milestone(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "j.yaml"
    file.write_text(
        "{journey: typo, milestones: [{id: m, criteria: {event: {name: byu}}}]}", encoding="utf-8"
    )
    output = run(client, "diff", str(file)).output
    assert f"warning: {file}:1:57: milestones[0].criteria.event.name: " in output


def test_invalid_file_is_refused_with_every_fault(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "j.yaml"
    file.write_text("{journey: J, milestone: []}", encoding="utf-8")
    result = run(client, "apply", str(file))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"milepost: {file}:1:14: milestone: unknown field, did you mean 'milestones'?",
        f"milepost: {file}:1:2: journey: must be 1-63 of a-z0-9-, starting with a letter",
    ]
    missing = run(client, "diff", str(tmp_path / "none.yaml"))
    assert (missing.exit_code, "No such file" in missing.stderr) == (1, True)


def test_a_fault_that_the_service_finds_is_printed_once_with_its_line(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "j.yaml"
    text = dedent(
        """\
        journey: lined
        milestones:
          - id: m
            criteria: {event: {name: buy}}
            children:
              - id: below
                criteria:
                  not:
                    event: {name: buy, inputs: [nowhere]}
        """
    )
    file.write_text(text, encoding="utf-8")
    result = run(client, "apply", str(file))
    path = "milestones[0].children[0].criteria.not.event.inputs[0]"
    form = "accounts/{account}/workspaces/{workspace}/inputs/{input}"
    assert (result.exit_code, result.stderr) == (
        1,
        f"milepost: {file}:9:41: {path}: input 'nowhere' does not exist; names are full: {form}\n",
    )


def test_a_move_on_the_service_is_undone(client: Client) -> None:
    wanted = document("moves", *(milestone(name, name) for name in NAMES), milestone("r"))
    bring_about(client, wanted)
    client.journeys.MoveMilestone(MoveMilestoneRequest(name=client.target_name("moves/chat"), position=0))
    difference = journeys.compare(client, wanted)
    assert [each.id for each in difference.walk() if each.is_moved] == ["chat"]
    bring_about(client, wanted)
