"""What the journeys of docs/journeys.md promise, point by point, through real gRPC.

The shop: users u1 to u12 look at something; the even ones buy, those divisible by three subscribe. Everything
comes through the app, and what u1 to u4 do through the web of another workspace as well.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from engine.backends.local.backend import LocalBackend
from engine.errors import DataLoss
from milepost import Client, make_event, names
from milepost.cli.tree import draw_plain, read_picture, size_note, size_text
from milepost.criteria import all_of, any_of, audience, event, labelled, not_
from milepost.errors import FailedPrecondition, ResourceExhausted
from milepost.outputs import FileOutput
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import UpdateAccountRequest
from milepost.v1.audience_pb2 import (
    SIZE_KIND_CALCULATING,
    SIZE_KIND_ESTIMATE,
    SIZE_KIND_REAL,
    SIZE_STATE_ESTIMATED,
    SIZE_STATE_EXACT,
    SIZE_STATE_FAILED,
    SIZE_STATE_PENDING,
    SIZE_STATE_TOO_SMALL,
    AudienceSize,
)
from milepost.v1.audience_service_pb2 import GetJourneyFunnelRequest, MilestoneDraft
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA, Journey, Milestone
from milepost.v1.journey_service_pb2 import (
    DeleteJourneyRequest,
    DeleteMilestoneRequest,
    UpdateJourneyRequest,
    UpdateMilestoneRequest,
)
from tests.harness import Serving, eventually, serving

USERS = range(1, 13)
NOW = datetime.now(UTC)

BOUGHT = event("buy").happened()
SUBSCRIBED = event("subscribe").happened()
LOOKED = event("look").happened()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Serving]:
    with serving(tmp_path) as made:
        yield made


@pytest.fixture
def client(service: Serving) -> Iterator[Client]:
    with Client(service.address, account="a") as made:
        made.ensure_account()
        app, web = (made.ensure_input(*each).name for each in (("shop", "app"), ("site", "web")))
        done = [(number, "look") for number in USERS]
        done += [(number, "buy") for number in USERS if number % 2 == 0]
        done += [(number, "subscribe") for number in USERS if number % 3 == 0]
        send(made, app, done)
        send(made, web, [(number, name) for number, name in done if number <= 4])
        yield made


def send(client: Client, input_name: str, done: Iterable[tuple[int, str]]) -> None:
    client.ingest_events([make_event(f"u{number}", name, NOW) for number, name in done], input=input_name)


def input_name(workspace: str, input_id: str) -> str:
    return names.input_("a", workspace, input_id)


def members(client: Client, target: str) -> list[int]:
    return sorted(int(user.removeprefix("u")) for user in client.list_members(target))


def sizes(client: Client, journey: str) -> dict[str, int]:
    funnel = client.audiences.GetJourneyFunnel(GetJourneyFunnelRequest(name=client.journey_name(journey)))
    return {names.last_id(step.milestone): step.users for step in funnel.steps}


def connect(client: Client, connection: str, target: str) -> str:
    """Connects the audience to a file and activates it; the connection's name."""
    output = client.ensure_output("files", FileOutput(path="files"))
    made = client.ensure_connection(connection, target=target, output=output.name)
    return client.activate_connection(made.name).name


def shown(client: Client, target: str) -> AudienceSize:
    return client.get_audience(target).size


# --- inputs, milestones, splits ---


def test_start_combines_inputs_of_several_workspaces(client: Client) -> None:
    web, app = input_name("site", "web"), input_name("shop", "app")
    for journey, inputs, start in (("both", [app, web], 12), ("web", [web], 4), ("all", [], 12)):
        client.ensure_journey(journey, inputs=inputs)
        draft = MilestoneDraft(
            journey=client.journey_name(journey), kind=MILESTONE_KIND_CRITERIA, criteria=BOUGHT
        )
        assert client.estimate(draft).population == start
    # What is chosen can be changed, and criteria see only what came through it.
    client.ensure_milestone("web", "buyers", criteria=BOUGHT)
    assert members(client, "web/buyers") == [2, 4]
    send(client, web, [(20, "buy")])
    assert members(client, "web/buyers") == [2, 4, 20]
    client.journeys.UpdateJourney(
        UpdateJourneyRequest(
            journey=Journey(name=client.journey_name("web"), inputs=[app]),
            update_mask=FieldMask(paths=["inputs"]),
        )
    )
    assert members(client, "web/buyers") == [2, 4, 6, 8, 10, 12]


def test_a_milestone_narrows_its_parent_and_has_an_audience(client: Client) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)
    below = client.ensure_milestone("j", "both", criteria=SUBSCRIBED, parent_milestone="j/buyers")
    assert members(client, "j/buyers") == [2, 4, 6, 8, 10, 12]
    assert members(client, "j/both") == [6, 12]
    found = client.get_audience(below.audience)
    assert (found.display_name, found.milestone, found.activated) == ("both", below.name, False)
    # Its criteria can be changed at any time.
    client.journeys.UpdateMilestone(
        UpdateMilestoneRequest(
            milestone=Milestone(name=client.target_name("j/buyers"), criteria=LOOKED),
            update_mask=FieldMask(paths=["criteria"]),
        )
    )
    assert members(client, "j/both") == [3, 6, 9, 12]


def test_splits_are_exclusive_and_can_nest(client: Client) -> None:
    client.ensure_journey("j")
    for milestone_id, criteria, parent in (
        ("subscribers", SUBSCRIBED, ""),
        ("buyers", BOUGHT, ""),
        ("lookers", LOOKED, ""),
        ("loyal", BOUGHT, "j/subscribers"),
        ("readers", LOOKED, "j/subscribers"),
        ("both", LOOKED, "j/buyers"),
    ):
        client.ensure_milestone("j", milestone_id, criteria=criteria, parent_milestone=parent)
    # Left to right, the first match wins; a split below draws from its parent alone.
    assert {each: members(client, f"j/{each}") for each in sizes(client, "j")} == {
        "subscribers": [3, 6, 9, 12],
        "loyal": [6, 12],
        "readers": [3, 9],
        "buyers": [2, 4, 8, 10],
        "both": [2, 4, 8, 10],
        "lookers": [1, 5, 7, 11],
    }


def test_remaining_users_have_children_and_outputs(client: Client, service: Serving) -> None:
    client.ensure_journey("j")
    with pytest.raises(FailedPrecondition) as raised:
        client.ensure_milestone("j", "others")
    assert raised.value.reason == "REMAINING_USERS_NEED_CRITERIA"
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)
    client.ensure_milestone("j", "others")
    client.ensure_milestone("j", "readers", criteria=SUBSCRIBED, parent_milestone="j/others")
    client.ensure_milestone("j", "last", parent_milestone="j/others")
    # A sibling that comes later goes before them.
    client.ensure_milestone("j", "first", criteria=event("look").count() >= 2)
    listed = [names.last_id(each.name) for each in client.list_milestones("j")]
    assert listed == ["buyers", "first", "others", "readers", "last"]
    assert {each: members(client, f"j/{each}") for each in ("first", "others", "readers", "last")} == {
        "first": [1, 3],
        "others": [5, 7, 9, 11],
        "readers": [9],
        "last": [5, 7, 11],
    }
    connect(client, "to-last", "j/last")
    eventually(lambda: len(service.delivered("files", "to-last")) == 3)
    sent = [line["data"]["user_id"] for line in service.delivered("files", "to-last")]
    assert sorted(sent) == ["u11", "u5", "u7"]


# --- sizes ---


def test_draft_is_sized_immediately_and_not_saved(client: Client) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)

    def size(criteria: Criteria, parent: str = "") -> tuple[int, int]:
        draft = MilestoneDraft(
            journey=client.journey_name("j"),
            parent_milestone=parent and client.target_name(parent),
            kind=MILESTONE_KIND_CRITERIA,
            criteria=criteria,
        )
        answer = client.estimate(draft)
        assert answer.size.state == SIZE_STATE_EXACT
        return answer.size.users, answer.draw.users

    # Behind its sibling it draws from those that are left; below the sibling from the sibling's.
    assert size(SUBSCRIBED) == (2, 6)
    assert size(SUBSCRIBED, "j/buyers") == (2, 6)
    assert size(LOOKED) == (6, 6)
    assert sizes(client, "j") == {"buyers": 6}


def test_each_labelled_criterion_has_its_own_size(client: Client) -> None:
    client.ensure_journey("j")
    both = all_of(labelled("Bought", BOUGHT), labelled("Subscribed", SUBSCRIBED), LOOKED)
    client.ensure_milestone("j", "both", criteria=both)
    answer = client.estimate("j/both")
    assert answer.size.users == 2
    assert [(each.label, each.path, each.size.users) for each in answer.labelled] == [
        ("Bought", "criteria.all_of.criteria[0]", 6),
        ("Subscribed", "criteria.all_of.criteria[1]", 4),
    ]


CROWD = 24_000
COMMON_EVERY, RARE_EVERY = 4, 1_200


def test_sampled_size_has_bounds_and_a_small_one_is_a_tilde(client: Client) -> None:
    """More users than are always counted, and a time budget that only the smallest sample fits into."""
    client.ensure_input("shop", "crowd")
    crowd = input_name("shop", "crowd")
    done = [(number, "visit") for number in range(CROWD)]
    done += [(number, "common") for number in range(0, CROWD, COMMON_EVERY)]
    done += [(number, "rare") for number in range(0, CROWD, RARE_EVERY)]
    send(client, crowd, done)
    for journey in ("common", "rare"):
        client.ensure_journey(journey, inputs=[crowd])
        client.ensure_milestone(journey, "m", criteria=event(journey).happened())
    hurried = timedelta(microseconds=1)

    common = client.estimate("common/m", time_budget=hurried).size
    assert common.state == SIZE_STATE_ESTIMATED
    # The smallest sample of a store with sixteen groups is one of them.
    assert 0.05 < common.sampled_fraction < 0.075
    # Which users are read is drawn with the store, so only five standard deviations are out of reach.
    assert common.lower < common.users < common.upper
    assert abs(common.users - CROWD // COMMON_EVERY) < 1_400
    assert size_text(AudienceSize(size=common), plain=True) == f"~{common.users:,}"
    assert size_note(AudienceSize(size=common)) == f"between {common.lower:,} and {common.upper:,}"

    rare = client.estimate("rare/m", time_budget=hurried).size
    assert rare.state == SIZE_STATE_TOO_SMALL
    assert rare.lower <= rare.users < rare.upper
    assert size_text(AudienceSize(size=rare), plain=True) == "~"
    assert size_note(AudienceSize(size=rare)) == f"at most {rare.upper:,}"
    client.ensure_journey("any", inputs=[crowd])
    # The order in which filters are written changes nothing, not even of a sampled size.
    parts = [labelled(kind, event(kind).happened()) for kind in ("common", "rare", "visit")]
    parts.append(labelled("no rare", not_(event("rare").happened())))
    for combine in (all_of, any_of):
        orders = [combine(*order) for order in itertools.permutations(parts)]
        drafts = [
            MilestoneDraft(journey=client.journey_name("any"), kind=MILESTONE_KIND_CRITERIA, criteria=order)
            for order in orders
        ]
        answers = [client.estimate(draft, time_budget=hurried) for draft in drafts]
        assert len({repr(answer.size) for answer in answers}) == 1
        labels = [{each.label: repr(each.size) for each in answer.labelled} for answer in answers]
        assert labels == [labels[0]] * len(orders)
        assert labels[0]["common"] == repr(common)
    # With time enough it is counted.
    assert client.estimate("rare/m", exact=True).size.users == CROWD // RARE_EVERY


def test_failed_size_is_a_warning_sign_with_the_reason(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)

    def corrupt(*_: Any, **__: Any) -> None:
        raise DataLoss("a stored value is corrupt")

    with monkeypatch.context() as broken:
        broken.setattr(LocalBackend, "_evaluate", corrupt)
        connect(client, "c", "j/buyers")
        eventually(lambda: shown(client, "j/buyers").size.state == SIZE_STATE_FAILED)
        size = shown(client, "j/buyers")
    assert size.size.failure == "a stored value is corrupt"
    assert (size_text(size, plain=False), size_note(size)) == ("⚠", "a stored value is corrupt")


# --- activation ---


@pytest.fixture
def hold_rounds(service: Serving, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Blocks the calculation of memberships; calling it unblocks."""
    free = threading.Event()
    refresh = service.application.engine.live.refresh_timely

    def held(**options: float) -> object:
        free.wait()
        return refresh(**options)

    monkeypatch.setattr(service.application.engine.live, "refresh_timely", held)
    yield free.set
    free.set()


def test_calculating_replaces_the_estimate_until_the_size_is_real(
    client: Client, hold_rounds: Callable[[], None]
) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)
    assert (shown(client, "j/buyers").kind, shown(client, "j/buyers").size.users) == (SIZE_KIND_ESTIMATE, 6)
    connect(client, "c", "j/buyers")
    waiting = shown(client, "j/buyers")
    assert (waiting.kind, waiting.size.state) == (SIZE_KIND_CALCULATING, SIZE_STATE_PENDING)
    assert size_text(waiting, plain=True) == "calculating 0%"
    hold_rounds()
    eventually(lambda: shown(client, "j/buyers").kind == SIZE_KIND_REAL)
    real = shown(client, "j/buyers")
    assert (real.size.state, real.size.users) == (SIZE_STATE_EXACT, 6)
    # From now on it follows what comes in.
    send(client, input_name("shop", "app"), [(1, "buy")])
    eventually(lambda: shown(client, "j/buyers").size.users == 7)
    assert (shown(client, "j/buyers").added_last_day, shown(client, "j/buyers").dropped_last_day) == (1, 0)


def test_only_ancestors_are_calculated_too(client: Client) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "lookers", criteria=LOOKED)
    client.ensure_milestone("j", "buyers", criteria=BOUGHT, parent_milestone="j/lookers")
    client.ensure_milestone("j", "both", criteria=SUBSCRIBED, parent_milestone="j/buyers")
    client.ensure_milestone("j", "beside", parent_milestone="j/lookers")
    connection = connect(client, "c", "j/buyers")

    def kinds() -> list[int]:
        return [shown(client, f"j/{each}").kind for each in ("lookers", "buyers", "both", "beside")]

    calculated = [SIZE_KIND_REAL, SIZE_KIND_REAL, SIZE_KIND_ESTIMATE, SIZE_KIND_ESTIMATE]
    eventually(lambda: kinds() == calculated)
    # One credit for the audience, none for its ancestor.
    assert client.get_account().active_audience_count == 1
    assert client.get_audience("j/lookers").activated is False
    client.deactivate_connection(connection)
    eventually(lambda: kinds() == [SIZE_KIND_ESTIMATE] * 4)


def test_credits_are_used_per_audience_and_returned(client: Client) -> None:
    account = Account(name=client.account_name, active_audience_limit=2)
    client.accounts.UpdateAccount(
        UpdateAccountRequest(account=account, update_mask=FieldMask(paths=["active_audience_limit"]))
    )
    client.ensure_journey("j")
    for milestone_id, criteria in (("buyers", BOUGHT), ("subscribers", SUBSCRIBED), ("lookers", LOOKED)):
        client.ensure_milestone("j", milestone_id, criteria=criteria)
    first = connect(client, "first", "j/buyers")
    # A second connection of the same audience takes no credit.
    also = connect(client, "also", "j/buyers")
    connect(client, "second", "j/subscribers")
    with pytest.raises(ResourceExhausted) as raised:
        connect(client, "third", "j/lookers")
    assert raised.value.reason == "NO_AUDIENCE_CREDIT"
    assert client.get_account().active_audience_count == 2
    assert draw_plain(read_picture(client, "j")).endswith("2 of 2 activated audiences")
    client.deactivate_connection(first)
    assert client.get_account().active_audience_count == 2
    client.deactivate_connection(also)
    assert client.get_account().active_audience_count == 1
    connect(client, "third", "j/lookers")


# --- the list, deletions ---


def test_the_list_of_journeys_has_counts_outputs_and_an_order(client: Client) -> None:
    for journey, milestones in (("spring", 1), ("autumn", 3)):
        client.ensure_journey(journey, display_name=f"{journey.title()} sale")
        for place in range(milestones):
            client.ensure_milestone(journey, f"m{place}", criteria=LOOKED)
    client.ensure_journey("empty")
    connect(client, "c", "autumn/m0")
    listed = {names.last_id(each.name): each for each in client.list_journeys()}
    assert {
        journey: (
            each.display_name,
            each.audience_count,
            each.active_audience_count,
            [names.last_id(output) for output in each.connected_outputs],
        )
        for journey, each in listed.items()
    } == {
        "spring": ("Spring sale", 1, 0, []),
        "autumn": ("Autumn sale", 3, 1, ["files"]),
        "empty": ("empty", 0, 0, []),
    }
    assert listed["autumn"].update_time.ToNanoseconds() > listed["spring"].update_time.ToNanoseconds()
    found = client.list_journeys(query="SALE", order_by="display_name desc")
    assert [names.last_id(each.name) for each in found] == ["spring", "autumn"]
    latest = client.list_journeys(order_by="update_time desc")
    assert [names.last_id(each.name) for each in latest] == ["empty", "autumn", "spring"]


def test_resources_in_use_are_not_deleted(client: Client, service: Serving) -> None:
    client.ensure_journey("j")
    client.ensure_milestone("j", "buyers", criteria=BOUGHT)
    client.ensure_milestone("j", "both", criteria=SUBSCRIBED, parent_milestone="j/buyers")
    client.ensure_milestone("j", "others")
    client.ensure_journey("k")
    of_others = audience(client.audience_name("j/others"))
    client.ensure_milestone("k", "m", criteria=of_others)

    def delete(milestone: str) -> None:
        client.journeys.DeleteMilestone(DeleteMilestoneRequest(name=client.target_name(milestone)))

    def reason(milestone: str) -> tuple[str, str]:
        with pytest.raises(FailedPrecondition) as raised:
            delete(milestone)
        return raised.value.reason, next(iter(raised.value.metadata.values()))

    # What stands in the way is named.
    assert reason("j/buyers") == ("MILESTONE_HAS_CHILDREN", client.target_name("j/both"))
    assert reason("j/others") == ("AUDIENCE_IN_USE", client.target_name("k/m"))
    delete("j/both")
    assert reason("j/buyers") == ("REMAINING_USERS_NEED_CRITERIA", client.target_name("j/others"))
    with pytest.raises(FailedPrecondition) as raised:
        client.journeys.DeleteJourney(DeleteJourneyRequest(name=client.journey_name("j")))
    assert raised.value.reason == "JOURNEY_NOT_EMPTY"
    # In the right order everything goes, an activated audience after its members' exits.
    connect(client, "c", "k/m")
    eventually(lambda: len(service.delivered("files", "c")) == 6)
    delete("k/m")
    delete("j/others")
    delete("j/buyers")
    for journey in ("j", "k"):
        client.journeys.DeleteJourney(DeleteJourneyRequest(name=client.journey_name(journey)))
    assert list(client.list_journeys()) == []
    eventually(lambda: len(service.delivered("files", "c")) == 12)
    sent = [line["type"] for line in service.delivered("files", "c")]
    assert sent == ["milepost.membership.entered"] * 6 + ["milepost.membership.exited"] * 6
    assert client.get_account().active_audience_count == 0
