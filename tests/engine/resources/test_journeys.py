"""Journeys: inputs, lists, summaries, clones, deletion."""

from __future__ import annotations

import pytest

from engine.criteria.model import AllOf, Audience, Event, Not
from engine.errors import EtagMismatch, FailedPrecondition, InvalidInput, NotFound
from engine.resources.journeys import JourneySummary
from engine.resources.records import Input, Journey, Milestone, etag_of
from tests.engine.site import ACCOUNT, APP, JOURNEY, NOW, OUTPUT, WEB, WORKSPACE, Site, did


def ids(site: Site, query: str = "", order_by: str = "") -> list[str]:
    page = site.engine.journeys.list_journeys(ACCOUNT, query=query, order_by=order_by)
    return [journey.name.rpartition("/")[2] for journey in page.items]


def test_unknown_and_repeated_inputs_are_refused(site: Site) -> None:
    record = Journey(name="", inputs=(WEB, f"{WORKSPACE}/inputs/none", WEB))
    with pytest.raises(InvalidInput) as refused:
        site.engine.journeys.create_journey(ACCOUNT, "bad", record)
    assert [v.field for v in refused.value.violations] == ["journey.inputs[1]", "journey.inputs[2]"]
    with pytest.raises(NotFound):
        site.engine.journeys.get_journey(f"{ACCOUNT}/journeys/bad")


def test_no_inputs_mean_all_present_and_future(site: Site) -> None:
    site.send([("u1", "a")], input=WEB)
    milestone = site.add("everyone", AllOf())
    assert site.members(milestone) == {"u1"}
    site.engine.accounts.create_input(WORKSPACE, "new", Input(name=""))
    site.send([("u2", "a")], input=f"{WORKSPACE}/inputs/new")
    assert site.members(milestone) == {"u1", "u2"}
    site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(WEB,)), {"inputs"})
    assert site.members(milestone) == {"u1"}


def test_inputs_named_in_criteria_cannot_be_removed(site: Site) -> None:
    milestone = site.add("app-users", Not(criterion=Event(name="open", inputs=(APP,))))
    with pytest.raises(InvalidInput) as refused:
        site.engine.journeys.update_journey(Journey(name=JOURNEY, inputs=(WEB,)), {"inputs"})
    (violation,) = refused.value.violations
    assert violation.field == "journey.inputs"
    assert milestone.name in violation.description
    assert site.engine.journeys.get_journey(JOURNEY).inputs == ()


def test_search_and_order_of_the_list(site: Site) -> None:
    for number, (journey_id, display_name) in enumerate(
        [("b", "Churn RISK"), ("a", "Consent"), ("c", "churn, again")], start=1
    ):
        site.clock.now = NOW + number
        record = Journey(name="", display_name=display_name)
        site.engine.journeys.create_journey(ACCOUNT, journey_id, record)
    site.clock.now = NOW + 10
    site.engine.journeys.update_journey(
        Journey(name=f"{ACCOUNT}/journeys/a", display_name="Consent"), {"display_name"}
    )
    assert ids(site) == ["a", "b", "c", "main"]
    assert ids(site, order_by="name desc") == ["main", "c", "b", "a"]
    assert ids(site, order_by="display_name") == ["b", "a", "main", "c"]
    assert ids(site, order_by="create_time") == ["main", "b", "a", "c"]
    assert ids(site, order_by="update_time desc") == ["a", "c", "b", "main"]
    assert ids(site, query="churn") == ["b", "c"]
    with pytest.raises(InvalidInput) as refused:
        ids(site, order_by="size")
    assert [v.field for v in refused.value.violations] == ["order_by"]


def test_pages_in_any_order_miss_nothing(site: Site) -> None:
    for journey_id in ("a", "b", "c"):
        site.engine.journeys.create_journey(ACCOUNT, journey_id, Journey(name="", display_name="Same"))
    walked: list[str] = []
    token = ""
    for _ in range(2):
        page = site.engine.journeys.list_journeys(
            ACCOUNT, page_size=2, page_token=token, order_by="display_name desc"
        )
        walked += [journey.name.rpartition("/")[2] for journey in page.items]
        token = page.next_page_token
    assert walked == ["c", "b", "a", "main"]
    assert token == ""


def test_the_summary_counts_audiences_and_connections(site: Site) -> None:
    one = site.add("one", did("a"))
    site.add("two", did("b"))
    site.connect(one)
    site.clock.now += 7
    site.add("three", did("c"))
    assert site.engine.journeys.summary(JOURNEY) == JourneySummary(
        audience_count=3, active_audience_count=1, connected_outputs=(OUTPUT,), update_time=NOW + 7
    )


def test_milestones_do_not_change_the_etag_of_their_journey(site: Site) -> None:
    etag = etag_of(site.engine.journeys.get_journey(JOURNEY))
    site.add("one", did("a"))
    renamed = Journey(name=JOURNEY, display_name="Renamed")
    after = site.engine.journeys.update_journey(renamed, {"display_name"}, etag)
    assert etag_of(after) != etag
    with pytest.raises(EtagMismatch):
        site.engine.journeys.delete_journey(JOURNEY, etag)


def test_only_an_empty_journey_is_deleted(site: Site) -> None:
    one = site.add("one", did("a"))
    with pytest.raises(FailedPrecondition) as refused:
        site.engine.journeys.delete_journey(JOURNEY)
    assert refused.value.reason == "JOURNEY_NOT_EMPTY"
    site.engine.milestones.delete_milestone(one.name)
    site.engine.journeys.delete_journey(JOURNEY)
    assert ids(site) == []
    with pytest.raises(NotFound):
        site.engine.journeys.get_journey(JOURNEY)


def test_clone_has_its_own_milestones_and_audiences(site: Site) -> None:
    site.send([("u1", "a"), ("u1", "b"), ("u2", "a")])
    one = site.add("one", did("a"))
    two = site.add("two", AllOf(criteria=(Audience(name=one.audience), did("b"))), one.name)
    site.add("rest", None, one.name)
    site.connect(two)
    copy = site.engine.journeys.clone_journey(JOURNEY, "copy", "", "clone-1")
    assert copy.display_name == "Main (copy)"
    assert site.engine.journeys.clone_journey(JOURNEY, "copy", "", "clone-1") == copy
    milestones = site.engine.milestones.list_milestones(copy.name).items
    assert [(m.name.rpartition("/")[2], m.parent.rpartition("/")[2], m.position) for m in milestones] == [
        ("one", "", 0),
        ("two", "one", 0),
        ("rest", "one", 1),
    ]
    # What named an audience of the original names the copy's, so that neither hangs on the other.
    assert milestones[1].criteria == AllOf(criteria=(Audience(name=milestones[0].audience), did("b")))
    assert site.engine.journeys.summary(copy.name).connected_outputs == ()
    site.engine.milestones.update_milestone(
        Milestone(name=one.name, audience="", criteria=did("nothing")), {"criteria"}
    )
    assert [site.members(m) for m in milestones] == [{"u1", "u2"}, {"u1"}, {"u2"}]
    assert site.members(two) == set()
