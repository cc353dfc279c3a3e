"""The methods for journeys and milestones, against a real service."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from milepost import Client, errors, make_event
from milepost.criteria import any_of, event
from milepost.names import REMAINING_USERS, last_id
from milepost.outputs import FileOutput
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    JourneyDocument,
    MilestoneDocument,
)
from milepost.v1.journey_service_pb2 import APPLY_ACTION_CREATED

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def did(name: str) -> Criteria:
    return event(name).happened()


@pytest.fixture
def shop(client: Client) -> Client:
    """An account with two inputs, and the event `buy`."""
    for input_id in ("app", "web"):
        client.ensure_input("shop", input_id)
    client.ingest_events([make_event("ann", "buy", NOON)], input="shop/app")
    return client


def order(client: Client, journey: str = "j") -> list[str]:
    """The ids of a journey's milestones, as listed."""
    return [last_id(each.name) for each in client.list_milestones(journey)]


# --- journeys ---


def test_a_journey_is_created_read_changed_listed_and_deleted(shop: Client) -> None:
    made = shop.create_journey("j", display_name="Win back", inputs=["shop/app"])
    app, web = (shop.input_name(f"shop/{each}") for each in ("app", "web"))
    assert (made.name, made.display_name, list(made.inputs)) == (shop.journey_name("j"), "Win back", [app])
    with pytest.raises(errors.AlreadyExists):
        shop.create_journey("j")
    # An update changes what is given; no inputs are all of them.
    renamed = shop.update_journey("j", display_name="Won back")
    assert (renamed.display_name, list(renamed.inputs)) == ("Won back", [app])
    assert list(shop.update_journey("j", inputs=["shop/web", app]).inputs) == [web, app]
    opened = shop.update_journey("j", inputs=[])
    assert (opened.display_name, list(opened.inputs)) == ("Won back", [])
    assert shop.get_journey("j") == opened
    other = shop.create_journey()
    assert {each.name for each in shop.list_journeys()} == {made.name, other.name}
    assert [each.name for each in shop.list_journeys(query="won")] == [made.name]
    with pytest.raises(errors.Aborted):
        shop.delete_journey("j", etag=made.etag)
    shop.delete_journey("j", etag=opened.etag)
    assert [each.name for each in shop.list_journeys()] == [other.name]


def test_a_repeated_request_id_creates_one_journey(shop: Client) -> None:
    first = shop.create_journey(display_name="A", request_id="r")
    assert shop.create_journey(display_name="A", request_id="r") == first
    assert len(list(shop.list_journeys())) == 1


def test_a_journey_is_brought_into_the_form_asked_for(shop: Client) -> None:
    made = shop.ensure_journey("j", inputs=["shop/app"])
    assert (made.display_name, list(made.inputs)) == ("j", [shop.input_name("shop/app")])
    assert shop.ensure_journey("j", display_name="j", inputs=["shop/app"]) == made
    assert shop.ensure_journey("j") == made
    changed = shop.ensure_journey("j", display_name="J", inputs=["shop/web"])
    assert (changed.display_name, list(changed.inputs)) == ("J", [shop.input_name("shop/web")])


def test_a_copy_has_the_milestones_and_no_connections(shop: Client) -> None:
    shop.create_journey("j", display_name="Buyers")
    shop.create_milestone("j", "m", criteria=did("buy"))
    shop.create_milestone("j", "below", criteria=did("buy"), parent_milestone="j/m")
    copy = shop.clone_journey("j", "k")
    assert (copy.name, copy.display_name, copy.audience_count) == (
        shop.journey_name("k"),
        "Buyers (copy)",
        2,
    )
    assert [(last_id(each.name), last_id(each.parent_milestone)) for each in shop.list_milestones("k")] == [
        ("m", ""),
        ("below", "m"),
    ]
    assert shop.get_milestone("k/m").audience != shop.get_milestone("j/m").audience
    assert shop.clone_journey("j", display_name="Other").display_name == "Other"
    with pytest.raises(errors.NotFound):
        shop.clone_journey("none")


# --- documents and versions ---


def test_a_document_is_checked_applied_and_kept_as_a_version(shop: Client) -> None:
    document = JourneyDocument(
        journey="j", inputs=["shop/app"], milestones=[MilestoneDocument(id="m", criteria=did("buy"))]
    )
    checked = shop.apply_journey(document, validate_only=True)
    assert [(last_id(each.name), each.action) for each in checked.changes] == [
        ("j", APPLY_ACTION_CREATED),
        ("m", APPLY_ACTION_CREATED),
    ]
    assert list(shop.list_journeys()) == []
    first = shop.apply_journey(document).version
    assert order(shop) == ["m"]
    shop.update_milestone("j/m", display_name="M")
    with pytest.raises(errors.Aborted):
        shop.apply_journey(document, etag=first.etag)
    assert [(last_id(each.name), each.current) for each in shop.list_journey_versions("j")] == [
        ("2", True),
        ("1", False),
    ]
    names = [shop.get_journey_version("j", each).document.milestones[0].display_name for each in (1, 2)]
    assert names == ["m", "M"]


# --- milestones ---


def test_a_milestone_is_created_read_changed_and_deleted(shop: Client) -> None:
    shop.create_journey("j")
    answer = shop.create_milestone("j", "m", criteria=did("byu"), display_name="Bought")
    made = answer.milestone
    assert (made.name, made.display_name, made.kind) == (
        f"{shop.journey_name('j')}/milestones/m",
        "Bought",
        MILESTONE_KIND_CRITERIA,
    )
    assert [(each.field, each.reason) for each in answer.warnings] == [
        ("milestone.criteria.event.name", "NEVER_SEEN")
    ]
    with pytest.raises(errors.AlreadyExists):
        shop.create_milestone("j", "m", criteria=did("buy"))
    # An update changes what is given.
    mended = shop.update_milestone("j/m", criteria=did("buy"))
    assert (mended.milestone.display_name, mended.milestone.criteria) == ("Bought", did("buy"))
    assert list(mended.warnings) == []
    renamed = shop.update_milestone("j/m", display_name="Buyers").milestone
    assert (renamed.display_name, renamed.criteria) == ("Buyers", did("buy"))
    with pytest.raises(errors.Aborted):
        shop.update_milestone("j/m", display_name="x", etag=made.etag)
    assert shop.get_milestone("j/m") == renamed
    rest = shop.create_milestone("j", "rest").milestone
    assert (rest.kind, rest.display_name) == (MILESTONE_KIND_REMAINING_USERS, REMAINING_USERS)
    with pytest.raises(errors.FailedPrecondition, match="rest"):
        shop.delete_milestone("j/m", etag=renamed.etag)
    shop.delete_milestone("j/rest", etag=rest.etag)
    shop.delete_milestone("j/m")
    assert order(shop) == []


def test_milestones_move_among_their_siblings_and_stay_before_the_remaining_users(shop: Client) -> None:
    shop.create_journey("j")
    for milestone in ("a", "b", "c"):
        shop.create_milestone("j", milestone, criteria=did(milestone))
    shop.create_milestone("j", "rest")
    assert shop.move_milestone("j/c", 0).position == 0
    assert order(shop) == ["c", "a", "b", "rest"]
    moved = shop.move_milestone("j/c", 9)
    assert (moved.position, order(shop)) == (2, ["a", "b", "c", "rest"])
    with pytest.raises(errors.Aborted):
        shop.move_milestone("j/a", 1, etag=moved.etag)


def test_a_milestone_is_brought_into_the_form_asked_for(shop: Client) -> None:
    shop.ensure_journey("j")
    # The service keeps a count without its aggregate, which is the default.
    first = shop.ensure_milestone("j", "m", criteria=event("buy").count() > 0)
    assert first.display_name == "m"
    assert shop.ensure_milestone("j", "m", criteria=event("buy").count() > 0) == first
    assert [each.current for each in shop.list_journey_versions("j")] == [True, False]
    changed = shop.ensure_milestone("j", "m", criteria=did("look"), display_name="Looked")
    assert (changed.display_name, changed.criteria, changed.audience) == (
        "Looked",
        did("look"),
        first.audience,
    )
    rest = shop.ensure_milestone("j", "rest")
    assert (rest.display_name, rest.kind) == (REMAINING_USERS, MILESTONE_KIND_REMAINING_USERS)
    assert shop.ensure_milestone("j", "rest") == rest
    # Kind and parent cannot change.
    with pytest.raises(errors.InvalidArgument, match="'kind' cannot be changed"):
        shop.ensure_milestone("j", "m")
    with pytest.raises(errors.InvalidArgument, match="'parent_milestone' cannot be changed"):
        shop.ensure_milestone("j", "rest", parent_milestone="j/m")


# --- previews of edits ---


def test_edits_are_previewed(shop: Client) -> None:
    shop.ingest_events([make_event("bob", "look", NOON)], input="shop/app")
    shop.ensure_journey("j")
    shop.ensure_milestone("j", "bought", criteria=did("buy"))
    shop.ensure_milestone("j", "looked", criteria=did("look"))
    output = shop.ensure_output("files", FileOutput(path="files"))
    shop.ensure_connection("c", target="j/bought", output=output.name)
    shop.activate_connection("c")
    updated = shop.preview_update_milestone("j/bought", criteria=any_of(did("look"), did("buy")))
    (edited,) = updated.audiences
    assert (edited.users_before, edited.entering, edited.leaving, edited.users_after) == (1, 1, 0, 2)
    assert (edited.milestone, edited.deleted) == (shop.target_name("j/bought"), False)
    (moved,) = shop.preview_move_milestone("j/looked", 0).audiences
    assert (moved.entering, moved.leaving) == (0, 0)
    (deleted,) = shop.preview_delete_milestone("j/bought").audiences
    assert (deleted.leaving, deleted.users_after, deleted.deleted) == (1, 0, True)
    document = JourneyDocument(
        journey="j", milestones=[MilestoneDocument(id="bought", criteria=did("stare"))]
    )
    applied = shop.preview_apply_journey(document, as_of=NOON)
    (edited,) = applied.audiences
    assert (edited.users_before, edited.leaving, edited.users_after) == (1, 1, 0)
    # Warnings and faults have the paths of the edit itself.
    assert [warning.field for warning in applied.warnings] == ["document.milestones[0].criteria.event.name"]
    document.milestones[0].id = "?"
    with pytest.raises(errors.InvalidArgument) as refused:
        shop.preview_apply_journey(document)
    assert [each.field for each in refused.value.violations] == ["document.milestones[0].id"]
    with pytest.raises(errors.Aborted):
        shop.preview_delete_milestone("j/bought", etag="other")
    # Nothing was changed.
    assert order(shop) == ["bought", "looked"]
    assert shop.get_milestone("j/bought").criteria == did("buy")
