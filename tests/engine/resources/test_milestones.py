"""The rules of splits: order, remaining users, nesting, deletion, cycles."""

from __future__ import annotations

import msgspec
import pytest

from engine.criteria.model import AllOf, AnyOf, Audience, Compare, Equals, Event, Text, UserAttribute
from engine.errors import AlreadyExists, EtagMismatch, FailedPrecondition, InvalidInput, NotFound
from engine.resources.records import Account, Journey, Milestone, MilestoneKind, etag_of
from tests.engine.site import ACCOUNT, APP, JOURNEY, WEB, Site, did


def order(site: Site) -> list[tuple[str, int]]:
    """Milestone ids and positions, as they are listed."""
    page = site.engine.milestones.list_milestones(JOURNEY)
    return [(milestone.name.rpartition("/")[2], milestone.position) for milestone in page.items]


def test_a_milestone_comes_with_an_audience(site: Site) -> None:
    milestone = site.add("buyers", did("buy"), display_name="Buyers")
    audience = site.engine.audiences.get(milestone.audience)
    assert audience.milestone == f"{JOURNEY}/milestones/buyers"
    assert site.engine.audiences.display_name(audience.name) == "Buyers"
    assert site.engine.audiences.of(milestone.name) == audience
    assert [a.name for a in site.engine.audiences.list(ACCOUNT, journey=JOURNEY).items] == [audience.name]


def test_new_siblings_go_before_remaining_users(site: Site) -> None:
    site.add("one", did("a"))
    site.add("rest", None)
    site.add("two", did("b"))
    site.add("three", did("c"))
    assert order(site) == [("one", 0), ("two", 1), ("three", 2), ("rest", 3)]


def test_remaining_users_without_a_name_are_called_remaining_users(site: Site) -> None:
    milestones = site.engine.milestones
    unnamed = Milestone(name="", audience="", criteria=did("a"))
    assert milestones.create_milestone(JOURNEY, "one", unnamed).record.display_name == ""
    remaining = Milestone(name="", audience="", kind=MilestoneKind.REMAINING_USERS)
    created = milestones.create_milestone(JOURNEY, "rest", remaining).record
    assert created.display_name == "Remaining users"
    named = msgspec.structs.replace(created, display_name="Others")
    assert milestones.update_milestone(named, ["display_name"]).record.display_name == "Others"
    cleared = msgspec.structs.replace(created, display_name="")
    assert milestones.update_milestone(cleared, ["display_name"]).record.display_name == "Remaining users"


def test_parents_are_listed_before_children_and_siblings_in_order(site: Site) -> None:
    first = site.add("z-first", did("a"))
    second = site.add("a-second", did("b"))
    site.add("child-of-second", did("c"), second.name)
    below = site.add("child-of-first", did("c"), first.name)
    site.add("grandchild", did("d"), below.name)
    site.add("rest-of-first", None, first.name)
    assert [name for name, _ in order(site)] == [
        "z-first",
        "child-of-first",
        "grandchild",
        "rest-of-first",
        "a-second",
        "child-of-second",
    ]
    listed: list[str] = []
    token = ""
    for _ in range(3):
        page = site.engine.milestones.list_milestones(JOURNEY, page_size=2, page_token=token)
        listed += [milestone.name.rpartition("/")[2] for milestone in page.items]
        token = page.next_page_token
    assert listed == [name for name, _ in order(site)]
    assert token == ""


def test_remaining_users_need_a_criteria_sibling_and_are_unique(site: Site) -> None:
    with pytest.raises(FailedPrecondition) as refused:
        site.add("rest", None)
    assert refused.value.reason == "REMAINING_USERS_NEED_CRITERIA"
    site.add("one", did("a"))
    rest = site.add("rest", None)
    with pytest.raises(FailedPrecondition) as refused:
        site.add("rest-again", None)
    assert refused.value.reason == "REMAINING_USERS_EXISTS"
    assert refused.value.metadata == {"milestone": rest.name}
    assert order(site) == [("one", 0), ("rest", 1)]


def test_remaining_users_can_have_children(site: Site) -> None:
    site.add("one", did("a"))
    rest = site.add("rest", None)
    child = site.add("below-rest", did("b"), rest.name)
    assert child.parent == rest.name


def test_criteria_belong_to_criteria_milestones_only(site: Site) -> None:
    bare = Milestone(name="", audience="")
    with pytest.raises(InvalidInput) as refused:
        site.engine.milestones.create_milestone(JOURNEY, "bare", bare)
    assert [v.field for v in refused.value.violations] == ["milestone.criteria"]
    site.add("one", did("a"))
    both = Milestone(name="", audience="", kind=MilestoneKind.REMAINING_USERS, criteria=did("a"))
    with pytest.raises(InvalidInput) as refused:
        site.engine.milestones.create_milestone(JOURNEY, "both", both)
    assert [v.field for v in refused.value.violations] == ["milestone.criteria"]


def test_foreign_or_missing_parent_is_refused(site: Site) -> None:
    site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    foreign = site.add("foreign", did("a"), journey=f"{ACCOUNT}/journeys/other")
    with pytest.raises(FailedPrecondition) as refused:
        site.add("child", did("b"), foreign.name)
    assert refused.value.reason == "PARENT_IN_OTHER_JOURNEY"
    with pytest.raises(InvalidInput) as unknown:
        site.add("child", did("b"), f"{JOURNEY}/milestones/none")
    assert [v.field for v in unknown.value.violations] == ["milestone.parent_milestone"]
    assert order(site) == []


def test_every_fault_of_the_criteria_is_reported_with_its_path(site: Site) -> None:
    criteria = AllOf(
        criteria=(
            UserAttribute(key="city", test=Text("matches", "(")),
            Event(name="buy", inputs=(f"{ACCOUNT}/workspaces/shop/inputs/none",)),
            Audience(name=f"{ACCOUNT}/audiences/none"),
        )
    )
    with pytest.raises(InvalidInput) as refused:
        site.add("bad", criteria)
    assert refused.value.reason == "INVALID_CRITERIA"
    assert [v.field for v in refused.value.violations] == [
        "milestone.criteria.all_of.criteria[0].user_attribute.test.matches",
        "milestone.criteria.all_of.criteria[1].event.inputs[0]",
        "milestone.criteria.all_of.criteria[2].audience.name",
    ]
    assert order(site) == []
    assert site.engine.audiences.list(ACCOUNT).items == ()


def test_unseen_names_are_accepted_with_warnings(site: Site) -> None:
    site.send([("u1", "buy")])
    criteria = AnyOf(criteria=(did("buy"), did("bye")))
    record = Milestone(name="", audience="", criteria=criteria)
    written = site.engine.milestones.create_milestone(JOURNEY, "typo", record, "once")
    assert [w.field for w in written.warnings] == ["milestone.criteria.any_of.criteria[1].event.name"]
    assert site.engine.milestones.create_milestone(JOURNEY, "typo", record, "once") == written


def test_a_milestone_is_moved_among_its_criteria_siblings(site: Site) -> None:
    for name in ("a", "b", "c"):
        site.add(name, did(name))
    site.add("rest", None)
    moved = site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/c", 0)
    assert moved.position == 0
    assert order(site) == [("c", 0), ("a", 1), ("b", 2), ("rest", 3)]
    site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/c", 99)
    assert order(site) == [("a", 0), ("b", 1), ("c", 2), ("rest", 3)]
    with pytest.raises(InvalidInput):
        site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/rest", 0)
    with pytest.raises(InvalidInput):
        site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/a", -1)
    with pytest.raises(EtagMismatch):
        site.engine.milestones.move_milestone(f"{JOURNEY}/milestones/a", 1, "stale")


def test_only_criteria_and_display_name_can_change(site: Site) -> None:
    milestone = site.add("one", did("a"))
    updated = site.engine.milestones.update_milestone(
        Milestone(name=milestone.name, audience="", criteria=did("b")), {"criteria"}, etag_of(milestone)
    )
    assert updated.record.criteria == did("b")
    assert updated.record.audience == milestone.audience
    for field in ("parent", "kind", "position"):
        with pytest.raises(InvalidInput) as refused:
            site.engine.milestones.update_milestone(milestone, {field})
        assert [v.field for v in refused.value.violations] == ["update_mask"]
    with pytest.raises(EtagMismatch):
        site.engine.milestones.update_milestone(milestone, {"criteria"}, etag_of(milestone))
    with pytest.raises(InvalidInput) as refused:
        site.engine.milestones.update_milestone(Milestone(name=milestone.name, audience=""), {"criteria"})
    assert [v.field for v in refused.value.violations] == ["milestone.criteria"]


def test_refused_deletion_names_the_obstacle(site: Site) -> None:
    one = site.add("one", did("a"))
    child = site.add("child", did("b"), one.name)
    other = site.add("other", Audience(name=child.audience))
    site.add("rest", None)
    with pytest.raises(FailedPrecondition) as refused:
        site.engine.milestones.delete_milestone(one.name)
    assert refused.value.reason == "MILESTONE_HAS_CHILDREN"
    assert refused.value.metadata == {"children": child.name}
    with pytest.raises(FailedPrecondition) as refused:
        site.engine.milestones.delete_milestone(child.name)
    assert refused.value.reason == "AUDIENCE_IN_USE"
    assert refused.value.metadata == {"milestones": other.name}
    site.engine.milestones.delete_milestone(other.name)
    site.engine.milestones.delete_milestone(child.name)
    with pytest.raises(FailedPrecondition) as refused:
        site.engine.milestones.delete_milestone(one.name)
    assert refused.value.reason == "REMAINING_USERS_NEED_CRITERIA"
    assert refused.value.metadata == {"milestone": f"{JOURNEY}/milestones/rest"}
    site.engine.milestones.delete_milestone(f"{JOURNEY}/milestones/rest")
    site.engine.milestones.delete_milestone(one.name)
    assert order(site) == []
    for milestone in (one, child, other):
        with pytest.raises(NotFound):
            site.engine.audiences.get(milestone.audience)


def test_siblings_close_the_gap_of_a_deleted_one(site: Site) -> None:
    for name in ("a", "b", "c"):
        site.add(name, did(name))
    site.engine.milestones.delete_milestone(f"{JOURNEY}/milestones/a")
    assert order(site) == [("b", 0), ("c", 1)]


def test_an_id_is_free_again_once_its_milestone_is_deleted(site: Site) -> None:
    first = site.add("one", did("a"))
    with pytest.raises(AlreadyExists):
        site.add("one", did("b"))
    site.engine.milestones.delete_milestone(first.name)
    assert site.add("one", did("b")).audience != first.audience


def test_audience_cannot_depend_on_itself(site: Site) -> None:
    one = site.add("one", did("a"))
    two = site.add("two", Audience(name=one.audience))
    child = site.add("child", did("b"), one.name)
    # Of an earlier sibling or of the own parent: fine. Of oneself, a later sibling or a child: a circle.
    site.add("below", Audience(name=one.audience), one.name)
    for name, path in (
        (one.audience, "milestone.criteria.audience.name"),
        (two.audience, "milestone.criteria.audience.name"),
        (child.audience, "milestone.criteria.audience.name"),
    ):
        with pytest.raises(InvalidInput) as refused:
            site.engine.milestones.update_milestone(
                Milestone(name=one.name, audience="", criteria=Audience(name=name)), {"criteria"}
            )
        assert refused.value.reason == "INVALID_CRITERIA"
        assert [v.field for v in refused.value.violations] == [path]
    assert site.engine.milestones.get_milestone(one.name).criteria == did("a")


def test_cycle_through_another_journey_is_detected(site: Site) -> None:
    other = f"{ACCOUNT}/journeys/other"
    site.engine.journeys.create_journey(ACCOUNT, "other", Journey(name=""))
    here = site.add("here", did("a"))
    there = site.add("there", Audience(name=here.audience), journey=other)
    with pytest.raises(InvalidInput) as refused:
        site.engine.milestones.update_milestone(
            Milestone(name=here.name, audience="", criteria=Audience(name=there.audience)), {"criteria"}
        )
    assert refused.value.reason == "INVALID_CRITERIA"


def test_new_sibling_cannot_name_the_remaining_users_it_draws_from(site: Site) -> None:
    site.add("one", did("a"))
    rest = site.add("rest", None)
    with pytest.raises(InvalidInput) as refused:
        site.add("two", Audience(name=rest.audience))
    assert [v.field for v in refused.value.violations] == ["milestone.criteria.audience.name"]


def test_move_that_closes_a_cycle_is_refused(site: Site) -> None:
    one = site.add("one", did("a"))
    two = site.add("two", Audience(name=one.audience))
    with pytest.raises(InvalidInput) as refused:
        site.engine.milestones.move_milestone(two.name, 0)
    assert [v.field for v in refused.value.violations] == ["position"]
    assert order(site) == [("one", 0), ("two", 1)]


def test_an_audience_of_another_account_is_unknown(site: Site) -> None:
    site.engine.accounts.create_account("rival", Account(name=""))
    site.engine.journeys.create_journey("accounts/rival", "j", Journey(name=""))
    theirs = site.add("theirs", did("a"), journey="accounts/rival/journeys/j")
    with pytest.raises(InvalidInput) as refused:
        site.add("mine", Audience(name=theirs.audience))
    assert [v.field for v in refused.value.violations] == ["milestone.criteria.audience.name"]


def test_criterion_on_an_input_counts_only_its_events(site: Site) -> None:
    site.send([("u1", "buy")], input=WEB)
    site.send([("u2", "buy")], input=APP)
    milestone = site.add("web-buyers", Event(name="buy", inputs=(WEB,)))
    assert site.members(milestone) == {"u1"}
    big = site.add("many", Event(name="buy", test=Compare("greater_than", 1.0)))
    assert site.members(big) == set()
    nobody = site.add("attribute", UserAttribute(key="city", test=Equals("Rome")))
    assert site.members(nobody) == set()
