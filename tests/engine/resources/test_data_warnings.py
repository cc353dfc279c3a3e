"""Warnings about data that criteria do not find: where, why and what to do, to the word."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.audiences.model import Draft, PreviewMilestone, SavedTarget
from engine.backends.base import EventRecord, Found, Lookup, UserRecord
from engine.criteria.model import (
    Aggregate,
    AllOf,
    Audience,
    Between,
    Compare,
    CompareOp,
    Consent,
    ConsentState,
    Criterion,
    Equals,
    Event,
    EventType,
    Exists,
    Identity,
    In,
    Near,
    Not,
    OlderThan,
    Semver,
    Sequence,
    Step,
    Text,
    UserAttribute,
    ValueTest,
    WhereAll,
    WhereAny,
    WhereAttribute,
    WhereNot,
    WithinLast,
)
from engine.errors import DataLoss
from engine.resources.data_warnings import LOOKUPS_MAX, PLACES_MAX, SUGGESTIONS_MAX
from engine.resources.documents import JourneyDocument, MilestoneDocument
from engine.resources.records import Account, Input, Journey, Milestone, Workspace
from engine.values import MICROS_PER_DAY, Value
from tests.engine.site import ACCOUNT, APP, JOURNEY, NOW, WEB, WORKSPACE, Site, did, event

CRM = f"{ACCOUNT}/workspaces/crm/inputs/feed"
WEB_ONLY = f"{ACCOUNT}/journeys/web"
DAY = MICROS_PER_DAY
ADVICE = "add such an input to the journey, or send the data through one that it has"
VERSION_RULE = "one to three numbers such as 10.1 or 1.2.3, then optionally -pre-release and +build"


@pytest.fixture
def shop(site: Site) -> Site:
    """Two workspaces; a journey with `web` alone beside the one with all inputs."""
    site.engine.accounts.create_workspace(ACCOUNT, "crm", Workspace(name=""))
    site.engine.accounts.create_input(f"{ACCOUNT}/workspaces/crm", "feed", Input(name=""))
    site.engine.journeys.create_journey(ACCOUNT, "web", Journey(name="", inputs=(WEB,)))
    return site


def warned(site: Site, criterion: Criterion, *, journey: str = WEB_ONLY) -> list[tuple[str, str, str]]:
    """Reason, path and text of each warning."""
    record = Milestone(name="", audience="", criteria=criterion)
    written = site.engine.milestones.create_milestone(journey, "", record)
    site.engine.milestones.delete_milestone(written.record.name)
    return [
        (each.reason, each.field.removeprefix("milestone.criteria."), each.description)
        for each in written.warnings
    ]


def places(site: Site, criterion: Criterion) -> list[tuple[str, str]]:
    return [(reason, path) for reason, path, _ in warned(site, criterion)]


def by_user(key: str, test: ValueTest) -> Criterion:
    return UserAttribute(key=key, test=test)


def by_event(key: str, test: ValueTest) -> Criterion:
    return Event(name="buy", where=WhereAttribute(key=key, test=test))


# --- data that are not there ------------------------------------------------------------------------------


def test_data_that_never_came(shop: Site) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", "buy", attributes={"price": 1.0})])
    criterion = AllOf(
        criteria=(
            Event(name="buy", aggregate=Aggregate.SUM, of="prcie"),
            Event(name="byu", aggregate=Aggregate.SUM, of="price"),
            Not(criterion=Event(name="buy", type=EventType.COMMERCE)),
            Event(type=EventType.SESSION),
            Event(where=WhereAttribute(key="size", test=Exists())),
            by_user("plna", Exists()),
            by_user("$first_seen", Exists()),
            Identity(type="mail", test=Exists()),
            Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
        )
    )
    path = "all_of.criteria"
    assert warned(shop, criterion) == [
        (
            "NEVER_SEEN",
            f"{path}[0].event.of",
            "no event named 'buy' with an attribute named 'prcie' has been seen so far; "
            "did you mean 'price'?",
        ),
        (
            "NEVER_SEEN",
            f"{path}[1].event.name",
            "no event named 'byu' has been seen so far; did you mean 'buy'?",
        ),
        (
            "NEVER_SEEN",
            f"{path}[2].not.event.name",
            "no event named 'buy' of type COMMERCE has been seen so far",
        ),
        ("NEVER_SEEN", f"{path}[3].event.type", "no event of type SESSION has been seen so far"),
        (
            "NEVER_SEEN",
            f"{path}[4].event.where.attribute.key",
            "no event with an attribute named 'size' has been seen so far",
        ),
        (
            "NEVER_SEEN",
            f"{path}[5].user_attribute.key",
            "no user attribute named 'plna' has been seen so far",
        ),
        ("NEVER_SEEN", f"{path}[7].identity.type", "no identity of type 'mail' has been seen so far"),
        ("NEVER_SEEN", f"{path}[8].consent", "no consent under 'gdpr' for 'ads' has been seen so far"),
    ]


@pytest.mark.parametrize(
    ("criterion", "near"),
    [
        (Event(name="BUY"), "buy"),
        (Event(name="buys"), "buy"),
        (Event(name="sell"), ""),
        (Event(name="x" * 100), ""),
        (Event(name="buy", where=WhereAttribute(key="Price", test=Exists())), "price"),
        (by_user("plann", Exists()), "plan"),
        (Identity(type="e-mail", test=Exists()), "email"),
        (Identity(type="plan", test=Exists()), ""),
        (Consent(regulation="gdpr", purpose="adds", state=ConsentState.GIVEN), ""),
    ],
)
def test_a_near_name_is_suggested(shop: Site, criterion: Criterion, near: str) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", "buy", attributes={"price": 1.0})])
    user = UserRecord(
        user_id="u1",
        input=WEB,
        time=NOW,
        attributes={"plan": "pro"},
        identities={"email": "a@example.com"},
        consents={("gdpr", "ads"): ConsentState.GIVEN},
    )
    shop.engine.ingest.users(ACCOUNT, [user])
    ((reason, _, text),) = warned(shop, criterion)
    assert reason == "NEVER_SEEN"
    assert text.partition("; ")[2] == (f"did you mean {near!r}?" if near else "")


def test_a_name_without_data_is_not_suggested(shop: Site) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", "buy"), event("u2", "sell")])
    assert "'buy'" in warned(shop, Event(name="byu"))[0][2]
    shop.engine.ingest.erase(ACCOUNT, ["u1"])
    assert warned(shop, Event(name="byu")) == [
        ("NEVER_SEEN", "event.name", "no event named 'byu' has been seen so far")
    ]


def test_few_names_are_compared_in_one_call(shop: Site) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", f"event-{index}") for index in range(10)])
    misspelt = tuple(Event(name=f"evnt-{index}") for index in range(10))
    texts = [text for _, _, text in warned(shop, AllOf(criteria=misspelt))]
    assert [f"did you mean 'event-{index}'?" in text for index, text in enumerate(texts)] == [
        index < SUGGESTIONS_MAX for index in range(10)
    ]


@pytest.fixture
def spread(shop: Site) -> Site:
    """Data through `web`, and other data through inputs that the journey does not have."""
    shop.send([("u1", "open")])
    rows = [
        EventRecord("u2", APP, "buy", EventType.CUSTOM, NOW, {"price": 1.0}),
        EventRecord("u2", CRM, "open", EventType.COMMERCE, NOW, {"price": 1.0}),
    ]
    shop.engine.ingest.events(ACCOUNT, rows)
    updates = [
        UserRecord("u2", APP, NOW, {"plan": "gold"}, {"email": "a"}, {("gdpr", "ads"): ConsentState.GIVEN}),
        UserRecord("u1", CRM, NOW, {"score": 1.0}),
    ]
    shop.engine.ingest.users(ACCOUNT, updates)
    return shop


def test_events_that_came_elsewhere(spread: Site) -> None:
    criterion = AllOf(
        criteria=(
            did("buy"),
            Event(name="open", type=EventType.COMMERCE),
            Event(name="open", where=WhereNot(condition=WhereAttribute(key="price", test=Exists()))),
        )
    )
    path = "all_of.criteria"
    elsewhere = [
        (
            "SEEN_ELSEWHERE",
            f"{path}[0].event.name",
            f"no event named 'buy' has come through the inputs of the journey so far, only through {APP}; "
            f"{ADVICE}",
        ),
        (
            "SEEN_ELSEWHERE",
            f"{path}[1].event.name",
            "no event named 'open' of type COMMERCE has come through the inputs of the journey so far, "
            f"only through {CRM}; {ADVICE}",
        ),
        (
            "SEEN_ELSEWHERE",
            f"{path}[2].event.where.not.attribute.key",
            "no event named 'open' with an attribute named 'price' has come through the inputs of the "
            f"journey so far, only through {CRM}; {ADVICE}",
        ),
    ]
    assert warned(spread, criterion) == elsewhere
    assert warned(spread, criterion, journey=f"{ACCOUNT}/journeys/main") == []
    # An event counts for the input that it came through, also when its user comes through web as well.
    spread.send([("u2", "open")])
    assert warned(spread, criterion) == elsewhere


def test_data_of_users_that_came_elsewhere(spread: Site) -> None:
    criterion = AllOf(
        criteria=(
            by_user("plan", Exists()),
            by_user("score", Exists()),
            Identity(type="email", test=Exists()),
            Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
        )
    )
    path = "all_of.criteria"
    assert warned(spread, criterion) == [
        (
            "SEEN_ELSEWHERE",
            f"{path}[0].user_attribute.key",
            "no user attribute named 'plan' has come through the inputs of the journey so far, "
            f"only through other inputs of {WORKSPACE}; {ADVICE}",
        ),
        (
            "SEEN_ELSEWHERE",
            f"{path}[1].user_attribute.key",
            "no user attribute named 'score' has come through the inputs of the journey so far, "
            f"only through other inputs of {ACCOUNT}/workspaces/crm; {ADVICE}",
        ),
        (
            "SEEN_ELSEWHERE",
            f"{path}[2].identity.type",
            "no identity of type 'email' has come through the inputs of the journey so far, "
            f"only through other inputs; {ADVICE}",
        ),
        (
            "SEEN_ELSEWHERE",
            f"{path}[3].consent",
            "no consent under 'gdpr' for 'ads' has come through the inputs of the journey so far, "
            f"only through other inputs; {ADVICE}",
        ),
    ]
    assert warned(spread, criterion, journey=f"{ACCOUNT}/journeys/main") == []
    # The user comes through web as well: what is known of it counts, wherever it came through.
    spread.send([("u2", "open")])
    assert [path for _, path, _ in warned(spread, criterion)] == ["all_of.criteria[1].user_attribute.key"]


def test_a_criterion_with_inputs_of_its_own(shop: Site) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", "buy", input=APP, attributes={"price": "1"})])
    step = Step(name="buy", inputs=(WEB,))
    [warning] = warned(shop, Sequence(steps=(Step(), step)), journey=f"{ACCOUNT}/journeys/main")
    assert warning == (
        "SEEN_ELSEWHERE",
        "sequence.steps[1].name",
        f"no event named 'buy' has come through the inputs of the criterion so far, only through {APP}; "
        "add such an input to the criterion, or send the data through one that it has",
    )


def test_an_audience_of_inputs_that_never_brought_its_users(shop: Site) -> None:
    shop.engine.journeys.create_journey(ACCOUNT, "app", Journey(name="", inputs=(APP,)))
    other = shop.add("all", AllOf(), journey=f"{ACCOUNT}/journeys/app").audience
    own = shop.add("own", AllOf(), journey=WEB_ONLY).audience
    shop.send([("u1", "open")])
    [warning] = warned(shop, AllOf(criteria=(Audience(name=own), Audience(name=other))))
    path = "all_of.criteria[1].audience.name"
    assert warning == ("NEVER_SEEN", path, f"no user of the journey of {other} has been seen so far")
    shop.send([("u2", "open")], input=APP)
    [warning] = warned(shop, AllOf(criteria=(Audience(name=own), Audience(name=other))))
    assert warning == (
        "SEEN_ELSEWHERE",
        path,
        f"no user of the journey of {other} has come through the inputs of the journey so far, "
        f"only through other inputs; {ADVICE}",
    )
    shop.send([("u1", "open")], input=APP)
    assert warned(shop, Audience(name=other)) == []


# --- data of another kind ---------------------------------------------------------------------------------


def has_been(site: Site, *values: Value) -> None:
    """Users and events have these values of `v`."""
    rows = [event(f"u{n}", "buy", attributes={"v": value}) for n, value in enumerate(values)]
    site.engine.ingest.events(ACCOUNT, rows)
    for n, value in enumerate(values):
        site.update(f"u{n}", {"v": value})


KIND_CASES: list[tuple[tuple[Value, ...], ValueTest, str]] = [
    (("21",), Compare("greater_than", 5.0), "finds no numbers so far: {are} strings; {numbers} strings"),
    (
        ("21", True),
        Equals(21.0),
        "finds no numbers so far: {are} strings and booleans; {numbers} strings and booleans",
    ),
    (("2024-10-01",), WithinLast(DAY), "finds no times so far: {are} strings; send times, or test strings"),
    ((1.7e9,), OlderThan(DAY), "finds no times so far: {are} numbers; send times, or test numbers"),
    ((NOW,), Between(1.0, 2.0), "finds no numbers so far: {are} times; send numbers, or test times"),
    ((21.0,), Text("contains", "2"), "finds no strings so far: {are} numbers; send strings, or test numbers"),
    ((1.0,), Semver("equals", "1"), "finds no strings so far: {are} numbers; send strings, or test numbers"),
    ((1.0,), Near(0, 0, 1), "finds no strings so far: {are} numbers; send strings, or test numbers"),
    (("true",), Equals(True), "finds no booleans so far: {are} strings; send booleans, or test strings"),
    ((1.0,), Equals(True), "finds no booleans so far: {are} numbers; send booleans, or test numbers"),
    (("a",), Equals(("a",)), "finds no lists so far: {are} strings; send lists, or test strings"),
    (
        (("5",),),
        Compare("less_than", 5.0),
        "finds no numbers so far: {are} lists; send numbers, or test lists",
    ),
    (
        ("a",),
        In((1.0, NOW)),
        "finds no numbers or times so far: {are} strings; send numbers or times, or test strings",
    ),
]


@pytest.mark.parametrize(("values", "test", "text"), KIND_CASES)
def test_a_test_on_a_kind_that_never_came(
    shop: Site, values: tuple[Value, ...], test: ValueTest, text: str
) -> None:
    has_been(shop, *values)
    for criterion, path, what in (
        (by_user("v", test), "user_attribute.test", "user attribute 'v'"),
        (by_event("v", test), "event.where.attribute.test", "'v' of event 'buy'"),
    ):
        are = f"the values of {what} in the inputs of the journey are"
        expected = text.format(are=are, numbers="send numbers, or test")
        assert warned(shop, criterion) == [("KIND_NEVER_SEEN", f"{path}.{test.field}", expected)]


@pytest.mark.parametrize(
    ("values", "test"),
    [
        (("21", 21.0), Compare("greater_than", 5.0)),
        (("x", NOW), WithinLast(DAY)),
        ((("a", "b"),), Text("contains", "c")),
        ((("a", "b"),), Equals("c")),
        (((),), Text("contains", "c")),
        (("a",), Exists()),
        (("a",), In(())),
        (("a",), In((1.0, "b"))),
        (("x", "10.1"), Semver("equals", "2")),
        ((("x", "10.1"),), Semver("equals", "2")),
        (("x", "1,2"), Near(0, 0, 1)),
    ],
)
def test_a_test_on_a_kind_that_came(shop: Site, values: tuple[Value, ...], test: ValueTest) -> None:
    has_been(shop, *values)
    assert warned(shop, by_user("v", test)) == warned(shop, by_event("v", test)) == []


@pytest.mark.parametrize("aggregate", [each for each in Aggregate if each.is_of_attribute])
def test_an_aggregate_of_what_never_is_a_number(shop: Site, aggregate: Aggregate) -> None:
    shop.engine.ingest.events(ACCOUNT, [event("u1", "buy", attributes={"price": "9.99", "size": 4.0})])
    of_price = Event(name="buy", aggregate=aggregate, of="price")
    expected = [
        (
            "KIND_NEVER_SEEN",
            "event.of",
            "finds no numbers so far: the values of 'price' of event 'buy' in the inputs of the journey are "
            "strings; send numbers",
        )
    ]
    assert warned(shop, of_price) == ([] if aggregate is Aggregate.DISTINCT else expected)
    assert warned(shop, Event(name="buy", aggregate=aggregate, of="size")) == []


@pytest.mark.parametrize("texts", [("v1.2", "1.2.3.4"), ("",), (("v1.2", "x"),)])
def test_versions_are_asked_of_strings_that_are_none(shop: Site, texts: tuple[Value, ...]) -> None:
    has_been(shop, *texts)
    for criterion, path, what in (
        (by_user("v", Semver("greater_than", "1")), "user_attribute.test", "user attribute 'v'"),
        (by_event("v", Semver("greater_than", "1")), "event.where.attribute.test", "'v' of event 'buy'"),
    ):
        assert warned(shop, criterion) == [
            (
                "KIND_NEVER_SEEN",
                f"{path}.semver.greater_than",
                f"finds no versions so far: none of the strings of {what} in the inputs of the journey is "
                f"one; send versions ({VERSION_RULE}), or test any string",
            )
        ]


def test_places_are_asked_of_strings_that_are_none(shop: Site) -> None:
    has_been(shop, "Vienna", "91,0")
    [(reason, path, text)] = warned(shop, by_user("v", Near(48.2, 16.37, 1_000)))
    assert (reason, path) == ("KIND_NEVER_SEEN", "user_attribute.test.near")
    assert text == (
        "finds no places so far: none of the strings of user attribute 'v' in the inputs of the journey is "
        'one; send places ("lat,long" in decimal degrees such as 48.2,16.37), or test any string'
    )


def test_strings_of_an_identity_are_no_versions(shop: Site) -> None:
    shop.engine.ingest.users(ACCOUNT, [UserRecord("u1", WEB, NOW, {}, {"app": "v1"})])
    [(reason, path, text)] = warned(shop, Identity(type="app", test=Semver("equals", "1")))
    assert (reason, path) == ("KIND_NEVER_SEEN", "identity.test.semver.equals")
    assert "none of the strings of identity 'app' in the inputs of the journey is one" in text


def test_only_some_of_very_many_strings_are_looked_at(shop: Site) -> None:
    records = [UserRecord(f"u{n}", WEB, NOW, {"v": f"v{n}"}) for n in range(1_500)]
    shop.engine.ingest.users(ACCOUNT, records)
    [(_, _, text)] = warned(shop, by_user("v", Semver("equals", "1")))
    assert (
        "none of the strings of user attribute 'v' in the inputs of the journey that were looked at is one;"
        in text
    )


def test_kinds_count_through_the_inputs_asked(shop: Site) -> None:
    shop.engine.ingest.events(
        ACCOUNT,
        [
            event("u1", "buy", attributes={"v": "5"}),
            event("u2", "buy", input=APP, attributes={"v": 5.0}),
            event("u2", "open", attributes={"v": 5.0}),
        ],
    )
    shop.engine.ingest.users(
        ACCOUNT, [UserRecord("u1", WEB, NOW, {"v": "5"}), UserRecord("u3", APP, NOW, {"v": 5.0})]
    )
    above = Compare("greater_than", 1.0)
    both = AllOf(criteria=(by_user("v", above), by_event("v", above)))
    assert places(shop, both) == [
        ("KIND_NEVER_SEEN", "all_of.criteria[0].user_attribute.test.greater_than"),
        ("KIND_NEVER_SEEN", "all_of.criteria[1].event.where.attribute.test.greater_than"),
    ]
    assert warned(shop, both, journey=f"{ACCOUNT}/journeys/main") == []
    narrowed = Event(name="buy", inputs=(WEB,), where=WhereAttribute(key="v", test=above))
    [(_, _, text)] = warned(shop, narrowed, journey=f"{ACCOUNT}/journeys/main")
    assert text.startswith(
        "finds no numbers so far: the values of 'v' of event 'buy' in the inputs of the criterion"
    )
    # Any event may have the number.
    assert warned(shop, Event(where=WhereAttribute(key="v", test=above))) == []


def test_paths_in_conditions_and_steps(shop: Site) -> None:
    has_been(shop, "5")
    wrong = WhereAttribute(key="v", test=Compare("less_or_equal", 1.0))
    where = WhereAll(conditions=(WhereAny(conditions=(WhereNot(condition=wrong),)),))
    sequence = Sequence(steps=(Step(name="buy"), Step(name="buy", where=where)))
    path = (
        "sequence.steps[1].where.all_of.conditions[0].any_of.conditions[0].not.attribute.test.less_or_equal"
    )
    assert places(shop, sequence) == [("KIND_NEVER_SEEN", path)]


def test_criteria_with_500_nodes_and_very_many_strings_are_looked_at_in_bounds(
    shop: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [f"k{n}" for n in range(30)]
    shop.update("u1", dict.fromkeys(keys, "x"))
    asked: list[str] = []
    find_text = shop.backend.find_text

    def counting(account: str, lookup: object, fits: object) -> object:
        asked.append(account)
        return find_text(account, lookup, fits)  # type: ignore[arg-type]

    monkeypatch.setattr(shop.backend, "find_text", counting)
    operators: tuple[CompareOp, ...] = ("greater_than", "less_than")
    tests = [by_user(key, Semver(op, "1")) for key in keys for op in operators]
    assert len(warned(shop, AllOf(criteria=tuple(tests)))) == 40
    assert len(asked) == 20


def test_each_thing_is_looked_up_once(shop: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Lookup] = []
    look_up = shop.backend.look_up

    def counting(account: str, lookups: Many[Lookup]) -> tuple[Found, ...]:
        asked.extend(lookups)
        return look_up(account, lookups)

    monkeypatch.setattr(shop.backend, "look_up", counting)
    # Each warns, and is looked for through the journey's input and through the three of the account.
    assert len(warned(shop, AllOf(criteria=(did("buy"),) * 50))) == 50
    assert len(asked) == 1 + 3
    asked.clear()
    names = [did(f"event {number}") for number in range(400)]
    assert len(warned(shop, AllOf(criteria=tuple(names)))) == LOOKUPS_MAX
    assert len(asked) == LOOKUPS_MAX * (1 + 3)


def test_in_an_account_with_many_inputs_the_place_is_not_named(shop: Site) -> None:
    for number in range(PLACES_MAX):
        shop.engine.accounts.create_input(f"{ACCOUNT}/workspaces/crm", f"i{number}", Input(name=""))
    shop.send([("ada", "buy")], input=APP)
    text = (
        "no event named 'buy' has come through the inputs of the journey so far, only through other inputs; "
    )
    assert warned(shop, did("buy")) == [("SEEN_ELSEWHERE", "event.name", text + ADVICE)]


def test_damaged_data_refuse_no_write(shop: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: object) -> tuple[Found, ...]:
        raise DataLoss("a stored value of the family EVENT_TABLE fails its checksum")

    monkeypatch.setattr(shop.backend, "look_up", damaged)
    told = (
        "NOT_LOOKED_AT",
        "milestone.criteria",
        "cannot be compared with the data: a stored value of the family EVENT_TABLE fails its checksum",
    )
    assert warned(shop, did("buy")) == [told]


CALLS: dict[str, Callable[[Site], object]] = {
    "create": lambda site: site.add("m", did("buy")),
    "update": lambda site: site.engine.milestones.update_milestone(
        Milestone(name=f"{JOURNEY}/milestones/old", audience="", criteria=did("buy")), {"criteria"}
    ),
    "apply": lambda site: site.engine.applying.apply(
        ACCOUNT,
        JourneyDocument(journey="new", milestones=(MilestoneDocument(id="m", criteria=did("buy")),)),
    ),
    "draft": lambda site: site.engine.sizes.estimate(Draft(journey=JOURNEY, criteria=did("buy"))),
    "saved": lambda site: site.engine.sizes.estimate(SavedTarget(f"{JOURNEY}/milestones/old")),
    "preview": lambda site: site.engine.sizes.preview(
        ACCOUNT, (), (PreviewMilestone(id="m", criteria=did("buy")),)
    ),
    "explanation": lambda site: site.engine.members.explain_audience(
        Draft(journey=JOURNEY, criteria=did("buy"))
    ),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_data_are_looked_at_without_a_lock(
    shop: Site, call: Callable[[Site], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks of other callers read the records, and their writes change them, in the meantime."""
    shop.add("old", did("look"))
    look_up = shop.backend.look_up
    meantime: list[str] = []

    def looking(account: str, lookups: Many[Lookup]) -> tuple[Found, ...]:
        with ThreadPoolExecutor(1) as other:
            renamed = Account(name=ACCOUNT, display_name=f"renamed {len(meantime)}")
            updated = other.submit(shop.engine.accounts.update_account, renamed, {"display_name"})
            meantime.append(updated.result(10).display_name)
        return look_up(account, lookups)

    monkeypatch.setattr(shop.backend, "look_up", looking)
    call(shop)
    assert meantime[0] == "renamed 0"
