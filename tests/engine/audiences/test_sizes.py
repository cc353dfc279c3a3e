"""Sizes of saved milestones, drafts, journeys and previews."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec
import pytest

from engine.audiences.model import (
    Draft,
    Exact,
    Intersection,
    MaxRelativeError,
    PreviewMilestone,
    SavedTarget,
    SizeKind,
    SizeState,
)
from engine.backends.base import UserRecord
from engine.criteria.model import (
    AllOf,
    AnyOf,
    Audience,
    Consent,
    ConsentState,
    Criterion,
    Exists,
    Identity,
    Not,
    UserAttribute,
)
from engine.criteria.validation import Context, validate
from engine.errors import (
    FailedPrecondition,
    InvalidInput,
    NotFound,
    RevisionNotReached,
    Violation,
    Warning,
)
from engine.resources.records import Account, Input, Journey, MilestoneKind, Workspace
from engine.values import MICROS_PER_DAY
from tests.engine.site import ACCOUNT, APP, JOURNEY, NOW, WEB, Site, did, event

DAY = MICROS_PER_DAY


@pytest.fixture
def shop(site: Site) -> Site:
    """Ten users: 0-7 looked, 0-3 bought (0 and 1 today, 2 and 3 forty days ago), 5 complained."""
    looks = [(f"u{n}", "look") for n in range(8)]
    site.send([*looks, ("u0", "buy"), ("u1", "buy"), ("u5", "complain")])
    site.send([("u2", "buy"), ("u3", "buy")], time=NOW - 40 * DAY)
    site.send([("u8", "leave"), ("u9", "leave")], input=APP)
    return site


def test_whole_and_labelled_sizes(shop: Site) -> None:
    first = shop.add("complaining", did("complain"))
    criteria = AllOf(
        criteria=(did("look", label="looked"), Not(criterion=did("buy", days=30), label="no purchase"))
    )
    second = shop.add("looking", criteria)
    estimate = shop.engine.sizes.estimate(SavedTarget(second.name))
    # u5 is taken by the first sibling; u2, u3, u4, u6 and u7 looked and did not buy of late.
    assert (estimate.size.state, estimate.size.users) == (SizeState.EXACT, 5)
    assert [(each.label, each.path, each.size.users) for each in estimate.labelled] == [
        ("looked", "criteria.all_of.criteria[0]", 7),
        ("no purchase", "criteria.all_of.criteria[1]", 7),
    ]
    assert (estimate.population, estimate.draw.users) == (10, 9)
    assert estimate.as_of == NOW
    assert estimate.revision == shop.backend.revision()
    assert shop.engine.sizes.estimate(SavedTarget(second.audience), precision=Exact()).size == estimate.size
    assert shop.engine.sizes.count(first.name).users == 1


def test_windows_refer_to_the_requested_instant(shop: Site) -> None:
    recent = shop.add("recent", did("buy", days=30))
    assert shop.engine.sizes.count(recent.name).users == 2
    assert shop.engine.sizes.count(recent.name, as_of=NOW - 20 * DAY).users == 2
    assert shop.engine.sizes.count(recent.name, as_of=NOW + 31 * DAY).users == 0
    assert shop.engine.sizes.estimate(SavedTarget(recent.name), as_of=NOW + 31 * DAY).size.users == 0


def test_draft_comes_after_its_siblings_or_replaces_one(shop: Site) -> None:
    one = shop.add("buyers", did("buy"))
    rest = shop.add("rest", None)
    draft = Draft(journey=JOURNEY, criteria=did("look", label="looked"))
    estimate = shop.engine.sizes.estimate(draft)
    assert (estimate.size.users, estimate.draw.users, estimate.labelled[0].size.users) == (4, 6, 4)
    other = Draft(journey=JOURNEY, criteria=did("complain"), replaces=one.name)
    assert shop.engine.sizes.estimate(other).size.users == 1
    below = Draft(journey=JOURNEY, parent=rest.name, criteria=AllOf())
    assert shop.engine.sizes.estimate(below).size.users == 6
    remaining = Draft(journey=JOURNEY, parent=one.name, kind=MilestoneKind.REMAINING_USERS)
    with pytest.raises(FailedPrecondition) as refused:
        shop.engine.sizes.estimate(remaining)
    assert refused.value.reason == "REMAINING_USERS_NEED_CRITERIA"
    # Nothing of it was saved.
    assert len(shop.engine.milestones.list_milestones(JOURNEY).items) == 2


@pytest.mark.parametrize(
    ("draft", "fields"),
    [
        (Draft(journey="nonsense"), ["draft.journey"]),
        (Draft(journey=JOURNEY), ["draft.criteria"]),
        (
            Draft(journey=JOURNEY, kind=MilestoneKind.REMAINING_USERS, criteria=did("a")),
            ["draft.criteria"],
        ),
        (Draft(journey=JOURNEY, criteria=did("a"), parent="x"), ["draft.parent_milestone"]),
        (
            Draft(journey=JOURNEY, criteria=did("a"), replaces=f"{ACCOUNT}/journeys/x/milestones/m"),
            ["draft.replaces"],
        ),
        (
            Draft(journey=JOURNEY, criteria=AnyOf(criteria=(Audience(name=f"{ACCOUNT}/audiences/x"),))),
            ["draft.criteria.any_of.criteria[0].audience.name"],
        ),
    ],
)
def test_faults_of_drafts(shop: Site, draft: Draft, fields: list[str]) -> None:
    shop.add("one", did("a"))
    with pytest.raises(InvalidInput) as refused:
        shop.engine.sizes.estimate(draft)
    assert [v.field for v in refused.value.violations] == fields


def test_warnings_come_with_saved_milestones_and_drafts(shop: Site) -> None:
    saved = shop.add("typo", did("bye"))
    estimate = shop.engine.sizes.estimate(SavedTarget(saved.name))
    assert [warning.field for warning in estimate.warnings] == ["criteria.event.name"]
    estimate = shop.engine.sizes.estimate(Draft(journey=JOURNEY, criteria=did("lok")))
    assert [warning.field for warning in estimate.warnings] == ["draft.criteria.event.name"]


def test_data_outside_the_journey_is_said_to_be_there(shop: Site) -> None:
    accounts = shop.engine.accounts
    accounts.create_workspace(ACCOUNT, "crm", Workspace(name=""))
    crm = accounts.create_input(f"{ACCOUNT}/workspaces/crm", "feed", Input(name="")).name
    shop.update("u1", {"plan": "gold"})
    record = UserRecord(
        "u1",
        crm,
        NOW,
        {"score": 0.9, "plan": "silver"},
        {"email": "u1@example.com"},
        {("gdpr", "ads"): ConsentState.GIVEN},
    )
    shop.engine.ingest.users(ACCOUNT, [record])
    shop.engine.journeys.create_journey(ACCOUNT, "web", Journey(name="", inputs=(WEB,)))
    criteria = AllOf(
        criteria=(
            UserAttribute(key="plan", test=Exists()),
            UserAttribute(key="score", test=Exists()),
            UserAttribute(key="scroe", test=Exists()),
            Identity(type="email", test=Exists()),
            Identity(type="e-mail", test=Exists()),
            Consent(regulation="gdpr", purpose="ads", state=ConsentState.GIVEN),
            Consent(regulation="gdpr", purpose="sms", state=ConsentState.GIVEN),
        )
    )
    path = "draft.criteria.all_of.criteria"
    never = [
        ("NEVER_SEEN", f"{path}[2].user_attribute.key"),
        ("NEVER_SEEN", f"{path}[4].identity.type"),
        ("NEVER_SEEN", f"{path}[6].consent"),
    ]
    everything = shop.engine.sizes.estimate(Draft(journey=JOURNEY, criteria=criteria))
    assert warned(everything.warnings) == never
    web_alone = shop.engine.sizes.estimate(Draft(journey=f"{ACCOUNT}/journeys/web", criteria=criteria))
    assert warned(web_alone.warnings) == [("SEEN_ELSEWHERE", f"{path}[1].user_attribute.key"), *never]
    assert f"only through other inputs of {ACCOUNT}/workspaces/crm;" in web_alone.warnings[0].description


def warned(warnings: Sequence[Warning]) -> list[tuple[str, str]]:
    return [(warning.reason, warning.field) for warning in warnings]


def test_an_estimate_behind_siblings_that_take_everyone_says_so(shop: Site) -> None:
    draft = Draft(journey=JOURNEY, criteria=did("look"))
    lookers = shop.add("lookers", did("look"))
    assert shop.engine.sizes.estimate(draft).warnings == ()
    everyone = shop.add("everyone", AllOf())
    estimate = shop.engine.sizes.estimate(draft)
    assert estimate.size.users == estimate.draw.users == 0
    assert [msgspec.structs.astuple(warning) for warning in estimate.warnings] == [
        (
            "draft.criteria",
            f"no users are left for this milestone: {lookers.name}, {everyone.name} together take everyone, "
            "since the first match takes a user; narrow them or put this milestone before them",
            "SIBLINGS_TAKE_EVERYONE",
        )
    ]
    # The same for a saved milestone, below a parent, and where data alone make it so.
    saved = shop.add("late", did("buy"))
    expected = [("SIBLINGS_TAKE_EVERYONE", "criteria")]
    assert warned(shop.engine.sizes.estimate(SavedTarget(saved.name)).warnings) == expected
    shop.add("looked-again", did("look"), lookers.name)
    below = Draft(journey=JOURNEY, parent=lookers.name, criteria=did("buy"))
    [warning] = shop.engine.sizes.estimate(below).warnings
    assert f"{JOURNEY}/milestones/looked-again takes everyone" in warning.description
    # A parent without users has none to take, and remaining users may well be no one.
    empty = shop.add("empty", did("buy"), everyone.name)
    shop.add("buyers", did("buy"), empty.name)
    none_above = Draft(journey=JOURNEY, parent=empty.name, criteria=did("look"))
    assert shop.engine.sizes.estimate(none_above).warnings == ()
    rest = Draft(journey=JOURNEY, kind=MilestoneKind.REMAINING_USERS)
    assert shop.engine.sizes.estimate(rest).warnings == ()


def test_a_preview_says_which_milestones_get_no_one(shop: Site) -> None:
    milestones = (
        PreviewMilestone(id="all", criteria=AllOf()),
        PreviewMilestone(id="late", criteria=did("look")),
        PreviewMilestone(id="below", parent="late", criteria=did("look")),
        PreviewMilestone(id="below-too", parent="late", criteria=did("buy")),
    )
    warnings = shop.engine.sizes.preview(ACCOUNT, (WEB,), milestones).warnings
    assert warned(warnings) == [("SIBLINGS_TAKE_EVERYONE", "milestones[1].criteria")]


def test_a_draft_is_validated_once(shop: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def counting(criterion: Criterion, context: Context) -> tuple[Violation, ...]:
        checked.append(context.root)
        return validate(criterion, context)

    monkeypatch.setattr("engine.resources.criteria.validate", counting)
    shop.engine.sizes.estimate(Draft(journey=JOURNEY, criteria=did("look")))
    assert checked == ["draft.criteria"]


def test_missing_targets_are_not_found(shop: Site) -> None:
    with pytest.raises(NotFound) as missing:
        shop.engine.sizes.count(f"{ACCOUNT}/audiences/none")
    assert missing.value.metadata == {"resource": f"{ACCOUNT}/audiences/none"}
    with pytest.raises(InvalidInput) as refused:
        shop.engine.sizes.count(JOURNEY)
    assert [v.field for v in refused.value.violations] == ["name"]
    with pytest.raises(NotFound):
        shop.engine.sizes.estimate(Draft(journey=f"{ACCOUNT}/journeys/none", criteria=did("a")))


def test_unreached_revision_is_refused(shop: Site) -> None:
    milestone = shop.add("one", did("a"))
    with pytest.raises(RevisionNotReached):
        shop.engine.sizes.count(
            milestone.name, at_least=shop.backend.revision() + 1, deadline=time.monotonic() + 0.01
        )


def test_every_intersection(shop: Site) -> None:
    lookers = shop.add("lookers", did("look"))
    buyers = shop.add("buyers", did("buy"), lookers.name)
    other = f"{ACCOUNT}/journeys/other"
    shop.engine.journeys.create_journey(ACCOUNT, "other", Journey(name="", inputs=(WEB,)))
    recent = shop.add("recent", did("buy", days=30), journey=other)
    names = (lookers.audience, buyers.audience, recent.audience)
    comparison = shop.engine.sizes.compare([lookers.name, buyers.audience, recent.audience])
    assert comparison.intersections == (
        Intersection((names[0],), 8),
        Intersection((names[1],), 4),
        Intersection((names[2],), 2),
        Intersection((names[0], names[1]), 4),
        Intersection((names[0], names[2]), 2),
        Intersection((names[1], names[2]), 2),
        Intersection(names, 2),
    )


def test_invalid_comparisons_are_refused(shop: Site) -> None:
    one, two = shop.add("one", did("a")), shop.add("two", did("b"))
    shop.engine.accounts.create_account("rival", Account(name=""))
    shop.engine.journeys.create_journey("accounts/rival", "j", Journey(name=""))
    theirs = shop.add("theirs", did("a"), journey="accounts/rival/journeys/j")
    for names in (
        [one.audience],
        [one.audience] * 2,
        [one.audience, one.name],
        [one.audience, theirs.audience],
        [two.audience] * 6,
    ):
        with pytest.raises(InvalidInput):
            shop.engine.sizes.compare(names)


def test_a_funnel_has_shares_of_parents_and_of_splits(shop: Site) -> None:
    lookers = shop.add("lookers", did("look"), display_name="Looked")
    buyers = shop.add("buyers", did("buy"), lookers.name)
    shop.add("others", None, lookers.name)
    shop.add("rest", None)
    shop.connect(buyers)
    funnel = shop.engine.sizes.funnel(JOURNEY)
    assert funnel.population == 10
    assert [
        (s.milestone.rpartition("/")[2], s.users, s.parent_share, s.split_share, s.activated)
        for s in funnel.steps
    ] == [
        ("lookers", 8, 0.8, 0.8, False),
        ("buyers", 4, 0.5, 0.5, True),
        ("others", 4, 0.5, 0.5, False),
        ("rest", 2, 0.2, 0.2, False),
    ]
    assert funnel.steps[0].display_name == "Looked"
    assert funnel.steps[1].parent == lookers.name
    assert funnel.steps[1].audience == buyers.audience


def test_preview_returns_the_funnel_of_an_unsaved_journey(shop: Site) -> None:
    milestones = (
        PreviewMilestone(id="lookers", criteria=did("look")),
        PreviewMilestone(id="buyers", parent="lookers", criteria=did("buyy")),
        PreviewMilestone(id="others", parent="lookers", kind=MilestoneKind.REMAINING_USERS),
        PreviewMilestone(id="rest", kind=MilestoneKind.REMAINING_USERS),
    )
    funnel = shop.engine.sizes.preview(ACCOUNT, (WEB,), milestones)
    assert [(s.milestone, s.users, s.parent_share) for s in funnel.steps] == [
        ("lookers", 8, 1.0),
        ("buyers", 0, 0.0),
        ("others", 8, 1.0),
        ("rest", 0, 0.0),
    ]
    assert (funnel.population, funnel.journey) == (8, None)
    assert [warning.field for warning in funnel.warnings] == ["milestones[1].criteria.event.name"]
    assert shop.engine.milestones.list_milestones(JOURNEY).items == ()


@pytest.mark.parametrize(
    ("milestones", "fields"),
    [
        ((PreviewMilestone(id="", criteria=did("a")),), ["milestones[0].id"]),
        ((PreviewMilestone(id="a", criteria=did("a")),) * 2, ["milestones[1].id"]),
        ((PreviewMilestone(id="a", parent="b", criteria=did("a")),), ["milestones[0].parent"]),
        ((PreviewMilestone(id="a"),), ["milestones[0].criteria"]),
        (
            (PreviewMilestone(id="a", criteria=Audience(name=f"{ACCOUNT}/audiences/x")),),
            ["milestones[0].criteria.audience.name"],
        ),
    ],
)
def test_faults_of_previews(shop: Site, milestones: tuple[PreviewMilestone, ...], fields: list[str]) -> None:
    with pytest.raises(InvalidInput) as refused:
        shop.engine.sizes.preview(ACCOUNT, (), milestones)
    assert [v.field for v in refused.value.violations] == fields
    with pytest.raises(InvalidInput) as refused:
        shop.engine.sizes.preview(ACCOUNT, (f"{ACCOUNT}/workspaces/shop/inputs/x",), ())
    assert [v.field for v in refused.value.violations] == ["inputs[0]"]


def test_an_audience_shows_one_size_at_a_time(shop: Site) -> None:
    lookers = shop.add("lookers", did("look"))
    buyers = shop.add("buyers", did("buy"), lookers.name)
    # 1. No connection needs the real membership: an estimate.
    shown = shop.engine.sizes.shown(buyers.audience)
    assert (shown.kind, shown.size.users, shown.population) == (SizeKind.ESTIMATE, 4, 10)
    # 2. A connection does: no estimate any more, for the audience and its ancestors.
    connection = shop.connect(buyers)
    for milestone in (buyers, lookers):
        shown = shop.engine.sizes.shown(milestone.audience)
        assert (shown.kind, shown.size.state) == (SizeKind.CALCULATING, SizeState.PENDING)
        assert 0.0 <= shown.progress < 1.0
    # 3. The real membership is there.
    shop.engine.live.refresh_all()
    shown = shop.engine.sizes.shown(buyers.audience)
    assert (shown.kind, shown.size.users, shown.added_last_day) == (SizeKind.REAL, 4, 0)
    assert shop.engine.sizes.shown(lookers.audience).size.users == 8
    # 4. Its changes of the last day are shown with it.
    shop.send([("u7", "buy")])
    shop.engine.live.refresh_all()
    shown = shop.engine.sizes.shown(buyers.audience)
    assert (shown.size.users, shown.added_last_day, shown.dropped_last_day) == (5, 1, 0)
    # 5. Switched off, it shows estimates again.
    shop.engine.connections.deactivate(connection.name)
    shop.engine.live.refresh_all()
    assert shop.engine.sizes.shown(lookers.audience).kind is SizeKind.ESTIMATE


def test_small_stores_are_counted_exactly(shop: Site) -> None:
    milestone = shop.add("buyers", did("buy"))
    estimate = shop.engine.sizes.estimate(SavedTarget(milestone.name), precision=MaxRelativeError(0.5))
    assert estimate.size.state is SizeState.EXACT


def test_users_of_an_input_that_no_journey_reads_do_not_count(site: Site) -> None:
    site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(APP,)), {"inputs"})
    site.engine.ingest.events(ACCOUNT, [event("u1", "look", input=WEB), event("u2", "look", input=APP)])
    everyone = site.add("everyone", Not(criterion=did("nothing")))
    count = site.engine.sizes.count(everyone.name)
    assert (count.users, count.population) == (1, 1)
