"""The methods that size audiences and say who is in them, against a real service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from milepost import Client, errors, make_event
from milepost.criteria import event
from milepost.names import last_id
from milepost.outputs import WatchOutput
from milepost.v1.audience_pb2 import SIZE_KIND_REAL, SIZE_STATE_EXACT, MembershipChange
from milepost.v1.audience_service_pb2 import (
    SIZE_INTERVAL_HOUR,
    MembershipSnapshot,
    MilestoneDraft,
    ProgressMark,
    SnapshotBegin,
    SnapshotEnd,
)
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA, JourneyDocument, MilestoneDocument
from tests.harness import eventually

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
EARLIER = NOW - 9 * DAY
BOUGHT = event("buy", last=timedelta(days=7)).happened()
LOOKED = event("look").happened()


@pytest.fixture
def shop(client: Client) -> Client:
    """ann bought now, bob ten days ago; ann, cat and dan looked."""
    client.ensure_input("shop", "web")
    events = [make_event("ann", "buy", NOW), make_event("bob", "buy", NOW - 10 * DAY)]
    events += [make_event(user, "look", NOW) for user in ("ann", "cat", "dan")]
    client.ingest_events(events, input="shop/web")
    client.create_journey("j", display_name="Buyers")
    client.create_milestone("j", "bought", criteria=BOUGHT)
    client.create_milestone("j", "looked", criteria=LOOKED)
    client.create_milestone("j", "rest")
    return client


def test_audiences_are_listed_and_named_for_others(shop: Client) -> None:
    shop.create_journey("k")
    shop.create_milestone("k", "m", criteria=LOOKED)
    assert len(list(shop.list_audiences())) == 4
    assert {last_id(each.milestone) for each in shop.list_audiences(journey="j")} == {
        "bought",
        "looked",
        "rest",
    }
    before = shop.get_audience("j/bought")
    assert (before.external_name, before.size.size.users) == ("", 1)
    named = shop.update_audience("j/bought", external_name="Buyers EU", etag=before.etag)
    assert (named.name, named.external_name) == (before.name, "Buyers EU")
    with pytest.raises(errors.Aborted):
        shop.update_audience(before.name, external_name="x", etag=before.etag)
    assert shop.update_audience("j/bought", external_name="").external_name == ""


def test_sizes_are_those_of_the_instant_asked_for(shop: Client) -> None:
    for as_of, bought, looked in ((None, 1, 2), (EARLIER, 1, 3), (NOW - 2 * DAY, 0, 3)):
        sizes = [shop.estimate(f"j/{each}", exact=True, as_of=as_of).size for each in ("bought", "looked")]
        assert [(size.state, size.users) for size in sizes] == [
            (SIZE_STATE_EXACT, bought),
            (SIZE_STATE_EXACT, looked),
        ]
        counted = shop.count("j/bought", as_of=as_of)
        assert (counted.users, counted.population) == (bought, 4)
        funnel = shop.get_journey_funnel("j", as_of=as_of)
        assert [step.users for step in funnel.steps] == [bought, looked, 4 - bought - looked]
    drafted = MilestoneDraft(journey=shop.journey_name("j"), kind=MILESTONE_KIND_CRITERIA, criteria=LOOKED)
    # Behind the siblings, of whom one takes all who looked.
    assert shop.estimate(drafted).size.users == 0
    drafted.parent_milestone = shop.target_name("j/bought")
    assert shop.estimate(drafted).size.users == 1


def test_every_intersection_of_audiences_is_counted(shop: Client) -> None:
    shop.create_journey("k")
    shop.create_milestone("k", "looked", criteria=LOOKED)
    bought, looked = shop.audience_name("j/bought"), shop.audience_name("k/looked")
    for as_of, expected in ((None, [1, 3, 1]), (EARLIER, [1, 3, 0])):
        answer = shop.compare_audiences(["j/bought", looked], as_of=as_of)
        assert [(tuple(each.audiences), each.users) for each in answer.intersections] == [
            ((bought,), expected[0]),
            ((looked,), expected[1]),
            ((bought, looked), expected[2]),
        ]
    with pytest.raises(errors.InvalidArgument, match="2 to 5"):
        shop.compare_audiences(["j/bought"])


def test_a_journey_is_previewed_and_faults_and_warnings_name_fields_of_the_document(shop: Client) -> None:
    below = [MilestoneDocument(id="b", criteria=LOOKED), MilestoneDocument(id="r", remaining_users=True)]
    document = JourneyDocument(
        journey="new",
        inputs=["shop/web"],
        milestones=[
            MilestoneDocument(id="a", criteria=BOUGHT, children=below),
            MilestoneDocument(id="z", criteria=event("zap").happened()),
        ],
    )
    answer = shop.preview_journey(document, as_of=EARLIER)
    assert [
        (step.milestone, step.parent_milestone, step.display_name, step.users) for step in answer.steps
    ] == [
        ("a", "", "a", 1),
        ("b", "a", "b", 0),
        ("r", "a", "Remaining users", 1),
        ("z", "", "z", 0),
    ]
    assert [each.field for each in answer.warnings] == ["milestones[1].criteria.event.name"]
    assert [each.display_name for each in shop.list_journeys()] == ["Buyers"]
    document.milestones[0].children[0].criteria.event.inputs.append("nowhere")
    with pytest.raises(errors.InvalidArgument) as raised:
        shop.preview_journey(document)
    assert [each.field for each in raised.value.violations] == [
        "milestones[0].children[0].criteria.event.inputs[0]"
    ]


def test_users_are_checked_one_by_one_and_many_at_once(shop: Client) -> None:
    bought, looked = shop.target_name("j/bought"), shop.target_name("j/looked")
    assert [shop.check(user, "j/bought") for user in ("ann", "bob", "none")] == [True, False, False]
    assert [shop.check(user, bought, as_of=EARLIER) for user in ("ann", "bob")] == [False, True]
    assert shop.check_many(["ann", "cat"], ["j/bought", looked]) == {"ann": {bought}, "cat": {looked}}
    assert shop.check_many(["ann", "bob"], [bought], as_of=EARLIER) == {"ann": set(), "bob": {bought}}


def test_no_user_is_out_of_an_audience_that_does_not_exist(shop: Client) -> None:
    with pytest.raises(errors.NotFound) as one:
        shop.check("ann", "j/none")
    with pytest.raises(errors.NotFound) as many:
        shop.check_many(["ann"], ["j/bought", "j/none"])
    assert many.value.metadata == one.value.metadata == {"resource": shop.target_name("j/none")}


def test_members_and_the_audiences_of_a_user_are_listed(shop: Client) -> None:
    assert list(shop.list_members("j/bought")) == ["ann"]
    assert sorted(shop.list_members("j/looked", page_size=1)) == ["cat", "dan"]
    assert list(shop.list_members("j/bought", as_of=EARLIER)) == ["bob"]
    assert sorted(shop.export_members("j/looked")) == ["cat", "dan"]
    assert list(shop.export_members("j/bought", as_of=EARLIER)) == ["bob"]
    of_bob = [
        [last_id(each.milestone) for each in shop.list_user_audiences("bob", as_of=at)]
        for at in (None, EARLIER)
    ]
    assert of_bob == [["rest"], ["bought"]]
    assert list(shop.list_user_audiences("none")) == []


def test_membership_and_plans_are_explained(shop: Client) -> None:
    inside, outside = (shop.explain_membership("bob", "j/bought", as_of=at) for at in (EARLIER, None))
    assert [
        (each.member, each.in_journey, each.milestones[0].criteria.seen) for each in (inside, outside)
    ] == [
        (True, True, "1"),
        (False, True, "0"),
    ]
    taken = shop.explain_membership("ann", "j/looked").milestones[0]
    assert (taken.member, taken.taken_by) == (False, shop.target_name("j/bought"))
    plan = shop.explain_audience("j/bought", as_of=EARLIER)
    assert plan.steps[plan.root].users == 1
    drafted = MilestoneDraft(
        journey=shop.journey_name("j"),
        kind=MILESTONE_KIND_CRITERIA,
        criteria=LOOKED,
        replaces=shop.target_name("j/bought"),
    )
    plan = shop.explain_audience(drafted)
    assert plan.steps[plan.root].users == 3


def test_a_calculated_audience_is_watched_and_has_a_history(shop: Client) -> None:
    output = shop.ensure_output("consumers", WatchOutput())
    shop.ensure_connection("c", target="j/bought", output=output.name)
    shop.activate_connection("c")
    eventually(lambda: shop.get_audience("j/bought").size.kind == SIZE_KIND_REAL)
    watch = shop.watch("j/bought", progress_interval=timedelta(seconds=0.1))
    updates: Iterator[object] = iter(watch)
    begin, snapshot, end, mark = (next(updates) for _ in range(4))
    assert isinstance(begin, SnapshotBegin)
    assert isinstance(snapshot, MembershipSnapshot)
    assert list(snapshot.user_ids) == ["ann"]
    assert isinstance(end, SnapshotEnd)
    assert isinstance(mark, ProgressMark)
    assert (mark.cursor, mark.epoch) == (end.cursor, watch.epoch) == (watch.cursor, watch.epoch)
    watch.close()
    shop.ingest_events([make_event("cat", "buy", datetime.now(UTC))], input="shop/web")
    later = shop.watch("j/bought", cursor=mark.cursor, epoch=mark.epoch)
    change = next(each for each in later if isinstance(each, MembershipChange))
    assert (change.user_id, change.entered) == ("cat", True)
    later.close()
    together = shop.watch_together(["j/bought", "j/none"], progress_interval=timedelta(seconds=0.1))
    both = []
    for each in together:
        both.append((each.target, each.update.DESCRIPTOR.name))
        if together.position:
            break
    together.close()
    assert ("j/none", "WatchEnd") in both
    assert ("j/bought", "MembershipSnapshot") in both
    with shop.local(["j/bought"]) as local:
        assert [local.check(user, "j/bought") for user in ("ann", "bob", "cat")] == [True, False, True]
    [point] = shop.list_audience_sizes("j/bought", interval=SIZE_INTERVAL_HOUR)
    assert (point.users, point.added) == (2, 1)
    assert [each.users for each in shop.list_audience_sizes("j/bought")] == [2]
