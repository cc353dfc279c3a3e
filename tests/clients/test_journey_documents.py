"""Journeys as documents: the YAML form, what applying one would change, and applying it to a real service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from engine.criteria.model import Criterion
from milepost import Client, journeys, make_event
from milepost.cli.app import app
from milepost.cli.service_process import ServiceProcess
from milepost.criteria import audience, event
from milepost.errors import FailedPrecondition, InvalidArgument, MilepostError, NotFound
from milepost.journeys import (
    DocumentError,
    JourneyDocument,
    Mark,
    MilestoneDocument,
    between,
    dumps,
    loads,
)
from milepost.journeys.normal import normal_form
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_service_pb2 import MoveMilestoneRequest
from milepost.v1.journey_service_pb2_grpc import JourneyServiceStub
from service.convert.criteria import criteria_message, criterion_of
from tests.service.convert.test_criteria import criteria

NAMES = ("buy", "visit", "call", "mail", "chat")
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """An account whose users did each subset of `NAMES` once: user 5 is 0b101, so `buy` and `call`."""
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


def test_a_text_is_read_as_json_would_be() -> None:
    read = loads(TEXT)
    assert (read.id, read.display_name, read.inputs) == ("winback", "Win back", ("shop/app", "shop/mail"))
    [lapsed] = read.milestones
    since, rest = lapsed.children
    assert [each.display_name for each in read.walk()] == ["Lapsed", "since", "rest"]
    assert lapsed.criteria is not None
    assert since.criteria is not None
    assert lapsed.criteria.label == "no"
    assert getattr(lapsed.criteria, "not").event.window.last.seconds == 90 * 86_400
    assert since.criteria.user_attribute.key == "on"
    assert since.criteria.user_attribute.test.greater_than.time_value.ToJsonString() == "2026-01-01T00:00:00Z"
    assert rest.takes_remaining_users
    assert loads(dumps(read)) == read


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("journey: [", [("", "is not valid YAML: ")]),
        ("- 1", [("", "must be a mapping with journey"), ("journey", "must be 1-63 of")]),
        ("journey: Win", [("journey", "must be 1-63 of")]),
        ("journey: j\njourney: k", [("", "is not valid YAML: the key 'journey' is there twice")]),
        ("{journey: j, name: x}", [("", "has no field 'name'")]),
        ("{journey: j, display_name: 7}", [("display_name", "must be a string")]),
        (
            "{journey: j, inputs: [app, w/i, w/i]}",
            [("inputs[0]", "must be"), ("inputs[2]", "'w/i' is named")],
        ),
        ("{journey: j, milestones: 1}", [("milestones", "must be a list")]),
        (
            "{journey: j, milestones: [{id: m}, {id: m, criteria: {evnet: {}}, children: [{id: r}]}]}",
            [
                ("milestones[0]", "needs exactly one of"),
                ("milestones[1].id", "'m' is there twice"),
                ("milestones[1].criteria", 'Message type "milepost.v1.Criteria" has no field named "evnet"'),
                ("milestones[1].children[0]", "needs exactly one of"),
            ],
        ),
        (
            "{journey: j, milestones: [{id: r, remaining_users: true}, {id: m, criteria: {all_of: {}}}]}",
            [("milestones[0]", "remaining users come last")],
        ),
        (
            "{journey: j, milestones: [{id: r, remaining_users: true, criteria: {all_of: {}}}]}",
            [("milestones[0]", "needs exactly one of"), ("milestones[0]", "remaining users come last")],
        ),
    ],
)
def test_every_fault_of_a_text_is_named(text: str, faults: list[tuple[str, str]]) -> None:
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
def test_a_string_stays_a_string_here_and_for_readers_of_yaml_1_1(text: str) -> None:
    written = dumps(JourneyDocument("j", text or "j"))
    assert loads(written).display_name == (text or "j")
    assert yaml.safe_load(written)["display_name"] == (text or "j")


@given(criteria())
def test_criteria_survive_the_text(criterion: Criterion) -> None:
    made = document("j", MilestoneDocument("m", "M", normal_form(criteria_message(criterion))))
    assert loads(dumps(made)) == made


@given(criteria())
def test_the_service_gives_back_the_normal_form(criterion: Criterion) -> None:
    sent = criteria_message(criterion)
    assert normal_form(sent) == criteria_message(criterion_of(sent)) == sent


@pytest.mark.parametrize(
    "text",
    [
        "event: {name: buy, aggregate: AGGREGATE_COUNT}",
        "event: {name: buy, window: {calendar: {unit: CALENDAR_UNIT_DAY}}}",
        "event: {name: buy, window: {between_ago: {from: 60.000000999s}}}",
        "event: {name: buy, window: {range: {start: 2026-01-01T00:00:00.000000999Z}}}",
        "user_attribute: {key: k, test: {ignore_case: true, exists: {}}}",
        "user_attribute: {key: k, test: {ignore_case: true, equals: {string_value: A}}}",
        "not: {any_of: {criteria: [{event: {name: buy, aggregate: AGGREGATE_COUNT, test: {equals: 2}}}]}}",
    ],
)
def test_what_is_written_another_way_is_normal_too(text: str) -> None:
    [read] = loads(f"{{journey: j, milestones: [{{id: m, criteria: {{{text}}}}}]}}").milestones
    assert read.criteria is not None
    assert criteria_message(criterion_of(read.criteria)) == read.criteria


# --- differences ---


def marks(before: JourneyDocument | None, after: JourneyDocument) -> list[tuple[str, str]]:
    return [(each.mark.value, each.id) for each in between(before, after).walk()]


def test_a_new_journey_is_created_with_all_it_has() -> None:
    after = document("j", milestone("a", "buy", milestone("b", "visit")), milestone("r"))
    difference = between(None, after)
    assert difference.mark is Mark.CREATED
    assert marks(None, after) == [("+", "a"), ("+", "b"), ("+", "r")]


def test_the_least_number_of_siblings_moves() -> None:
    before = document("j", *(milestone(name, name) for name in NAMES))
    after = document("j", *(milestone(name, name) for name in (*NAMES[1:], NAMES[0])))
    assert marks(before, after) == [(" ", name) for name in NAMES[1:]] + [("~", NAMES[0])]


def test_another_parent_or_kind_is_another_milestone_with_all_below_it() -> None:
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


def test_applying_what_is_there_changes_nothing(client: Client) -> None:
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


def test_what_lasts_keeps_its_audience(client: Client) -> None:
    bring_about(client, document("lasting", milestone("a", "buy"), milestone("b", "visit"), milestone("r")))
    before = {each.name: each.audience for each in client.list_milestones("lasting")}
    bring_about(client, document("lasting", milestone("b", "mail"), milestone("n", "call"), milestone("r")))
    after = {each.name: each.audience for each in client.list_milestones("lasting")}
    assert {name.rpartition("/")[2] for name in before.keys() & after.keys()} == {"b", "r"}
    assert all(before[name] == after[name] for name in before.keys() & after.keys())


def test_two_splits_that_exchange_their_only_criteria(client: Client) -> None:
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


def test_criteria_may_go_on_naming_an_input_that_comes_or_goes(client: Client) -> None:
    def wanted(input_id: str) -> JourneyDocument:
        name = f"accounts/a/workspaces/shop/inputs/{input_id}"
        made = MilestoneDocument("m", "M", event("buy", inputs=[name]).happened())
        return JourneyDocument("inputs", "Inputs", (f"shop/{input_id}",), (made,))

    bring_about(client, wanted("app"))
    bring_about(client, wanted("mail"))
    bring_about(client, JourneyDocument("inputs", "Inputs", (), wanted("app").milestones))


def test_an_order_that_named_audiences_forbid_for_now_is_found(client: Client) -> None:
    """`b` names the audience of `a` and stands behind it; then the other way round."""
    bring_about(client, document("named", milestone("a", "buy"), milestone("b", "visit")))
    of_a, of_b = (audience(client.audience_name(f"named/{each}")) for each in ("a", "b"))
    a, b = milestone("a", "buy"), milestone("b", "visit")
    bring_about(client, document("named", a, MilestoneDocument("b", "b", of_a)))
    bring_about(client, document("named", b, MilestoneDocument("a", "a", of_b)))
    bring_about(client, document("named", a, MilestoneDocument("b", "b", of_a)))


def test_a_document_that_names_the_audience_of_what_goes_is_refused_at_once(client: Client) -> None:
    bring_about(client, document("refused", milestone("a", "buy"), milestone("b", "visit")))
    of_a = audience(client.audience_name("refused/a"))
    with pytest.raises(DocumentError) as raised:
        journeys.compare(client, document("refused", MilestoneDocument("b", "b", of_a)))
    assert raised.value.faults == (("b.criteria", "names the audience of 'a', which would be deleted"),)


def test_an_audience_that_another_journey_names_is_not_deleted(client: Client) -> None:
    bring_about(client, document("source", milestone("a", "buy"), milestone("b", "visit")))
    of_a = audience(client.audience_name("source/a"))
    bring_about(client, document("other", MilestoneDocument("m", "m", of_a)))
    with pytest.raises(FailedPrecondition, match="accounts/a/journeys/other/milestones/m"):
        bring_about(client, document("source", milestone("b", "call")))
    # What could be done is done, and applying goes on once the way is free.
    bring_about(client, document("other", milestone("m", "buy")))
    bring_about(client, document("source", milestone("b", "call")))


def test_criteria_that_the_service_refuses_change_nothing(client: Client) -> None:
    bring_about(client, document("faulty", milestone("a", "buy")))
    bad = event("buy", inputs=["accounts/a/workspaces/shop/inputs/nowhere"]).happened()
    wanted = document("faulty", milestone("b", "visit"), MilestoneDocument("c", "c", bad))
    with pytest.raises(InvalidArgument) as raised:
        journeys.compare(client, wanted)
    assert [violation.field for violation in raised.value.violations] == ["c.criteria.event.inputs[0]"]
    assert journeys.read(client, "faulty") == document("faulty", milestone("a", "buy"))


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


class Refusals:
    """A stub whose refused calls are kept."""

    def __init__(self, stub: Any) -> None:
        self._stub = stub
        self.kept: list[MilepostError] = []

    def __getattr__(self, method: str) -> Any:
        def call(request: Any) -> Any:
            try:
                return getattr(self._stub, method)(request)
            except MilepostError as error:
                self.kept.append(error)
                raise

        return call


@settings(max_examples=25)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_any_journey_becomes_any_other_by_legal_steps(client: Client, wanted: list[JourneyDocument]) -> None:
    with Client(client.target, account="a") as watched:
        refusals = Refusals(watched.journeys)
        watched.journeys = cast(JourneyServiceStub, refusals)
        for each in wanted:
            bring_about(watched, each)
        assert [error for error in refusals.kept if not isinstance(error, NotFound)] == []


# --- the commands ---


def run(client: Client, *arguments: str, **options: Any) -> Result:
    address = ("--target", client.target, "--account", "a")
    return CliRunner().invoke(app, ["journey", *arguments, *address], **options)


def test_diff_apply_and_export(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "winback.yaml"
    first = document("commands", milestone("a", "buy", milestone("b", "visit")), milestone("r"))
    file.write_text(dumps(first), encoding="utf-8")
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
    assert result.output == "no changes: accounts/a/journeys/commands is as the document says\n"
    assert run(client, "diff", str(file), "--exit-code").exit_code == 0
    # 3. A changed document: every kind of change, with sizes.
    text = dedent(
        """\
        journey: commands
        display_name: Commands
        inputs: [shop/app]
        milestones:
          - {id: c, criteria: {label: called, event: {name: call}}}
          - {id: a, display_name: Buyers, criteria: {event: {name: buy, window: {last: 86400s}}}}
          - {id: r, remaining_users: true}
        """
    )
    assert run(client, "apply", "-", input=text).output == dedent(
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
          +     last: 86400s

        applied: 1 milestone created, 1 changed, 1 deleted
        """
    )
    # 4. What is exported is what was applied, to a file and to standard output.
    assert run(client, "export", "commands", str(file)).output == ""
    assert loads(file.read_text(encoding="utf-8")) == loads(text)
    assert run(client, "export", "commands").output == file.read_text(encoding="utf-8")


def test_warnings_are_shown_beside_the_milestone(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "j.yaml"
    file.write_text(
        "{journey: typo, milestones: [{id: m, criteria: {event: {name: byu}}}]}", encoding="utf-8"
    )
    output = run(client, "diff", str(file)).output
    assert "warning: m.criteria.event.name: " in output


def test_a_file_that_is_no_document_is_refused_with_every_fault(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "j.yaml"
    file.write_text("{journey: J, milestone: []}", encoding="utf-8")
    result = run(client, "apply", str(file))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        f"milepost: {file}: has no field 'milestone'; there are journey, display_name, inputs, milestones",
        f"milepost: {file}: journey: must be 1-63 of a-z0-9-, starting with a letter",
    ]
    missing = run(client, "diff", str(tmp_path / "none.yaml"))
    assert (missing.exit_code, "No such file" in missing.stderr) == (1, True)


def test_a_move_on_the_service_is_undone(client: Client) -> None:
    wanted = document("moves", *(milestone(name, name) for name in NAMES), milestone("r"))
    bring_about(client, wanted)
    client.journeys.MoveMilestone(MoveMilestoneRequest(name=client.target_name("moves/chat"), position=0))
    difference = journeys.compare(client, wanted)
    assert [each.id for each in difference.walk() if each.is_moved] == ["chat"]
    bring_about(client, wanted)
