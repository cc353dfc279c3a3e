"""Audiences over as many levels as allowed, with criteria as deep as allowed, are answered by every method.
One level more is refused by every method that takes criteria.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from engine.limits import AUDIENCE_LEVELS_MAX
from service.convert.criteria import criteria_message
from tests.engine.deep_audiences import BUY, SEEN, are_buyers, deepest
from tests.harness import ACCOUNT, INPUT, Refusal, Serving, eventually, refusal_of, serving
from tests.spec.scenario import METHODS

BUYERS, OTHERS = ["b0", "b1"], ["o0", "o1", "o2"]
MEMBERS, OUTSIDERS = (BUYERS, OTHERS) if are_buyers(AUDIENCE_LEVELS_MAX) else (OTHERS, BUYERS)
TOP = f"{ACCOUNT}/journeys/level{AUDIENCE_LEVELS_MAX}"
MILESTONE = f"{TOP}/milestones/m"
MEMBER, REAL = 1, 3
"""Of `MembershipStatus` and `SizeKind`."""
Json = dict[str, Any]


def callable_of(service: Serving, name: str) -> tuple[Any, Any]:
    """A method, and the class of its requests."""
    method = next(each for full, each in METHODS.items() if full.endswith(f".{name}"))
    make: Any = service.channel.unary_stream if method.server_streaming else service.channel.unary_unary
    call = make(
        f"/{method.containing_service.full_name}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    return call, message_factory.GetMessageClass(method.input_type)


def ask(service: Serving, name: str, /, **fields: Any) -> Any:
    call, request = callable_of(service, name)
    return call(ParseDict(fields, request()), timeout=60)


def refused(service: Serving, name: str, /, **fields: Any) -> Refusal:
    call, request = callable_of(service, name)
    return refusal_of(call, ParseDict(fields, request()))


def send(service: Serving, user: str, *names: str) -> None:
    now = Timestamp()
    now.GetCurrentTime()
    events = [{"userId": user, "name": name, "time": now.ToJsonString()} for name in names]
    ask(service, "IngestEvents", parent=ACCOUNT, input=INPUT, events=events)


def deep(audience: str | None) -> Json:
    return MessageToDict(criteria_message(deepest(audience)))


def milestone(criteria: Json) -> Json:
    return {"displayName": "m", "kind": "MILESTONE_KIND_CRITERIA", "criteria": criteria}


def create(service: Serving, journey: str, criteria: Json) -> str:
    """A journey with one milestone. Returns its audience."""
    ask(service, "CreateJourney", parent=ACCOUNT, journeyId=journey, journey={"displayName": journey})
    parent = f"{ACCOUNT}/journeys/{journey}"
    made = ask(service, "CreateMilestone", parent=parent, milestoneId="m", milestone=milestone(criteria))
    return str(made.milestone.audience)


@pytest.fixture(scope="module", params=[0, 1], ids=["alone", "with a reader"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    store = tmp_path_factory.mktemp("levels") / "store"
    with serving(store, access_log="none", readers=request.param) as running:
        running.create_inputs()
        for user in (*BUYERS, *OTHERS):
            send(running, user, SEEN, *([BUY] if user in BUYERS else []))
        audience = None
        for level in range(AUDIENCE_LEVELS_MAX + 1):
            audience = create(running, f"level{level}", deep(audience))
        yield running


@pytest.fixture(scope="module")
def audience(service: Serving) -> str:
    return str(ask(service, "GetMilestone", name=MILESTONE).milestone.audience)


def look(service: Serving, audience: str) -> None:
    """Asks every method that evaluates the audience."""
    users, members = [*MEMBERS, *OUTSIDERS, "unknown"], len(MEMBERS)
    below = ask(service, "GetMilestone", name=f"{ACCOUNT}/journeys/level0/milestones/m").milestone
    assert ask(service, "CountAudience", name=audience).users == members
    assert ask(service, "EstimateAudience", name=MILESTONE).size.users == members
    draft = {"journey": TOP, "replaces": MILESTONE, "criteria": deep(below.audience)}
    assert ask(service, "EstimateAudience", draft=draft).size.users in (len(BUYERS), len(OTHERS))
    for user in users:
        for _ in range(2):
            checked = ask(service, "CheckMembership", audience=audience, userId=user)
            assert checked.member == (user in MEMBERS)
        explained = ask(service, "ExplainMembership", name=MILESTONE, userId=user)
        assert explained.member == (user in MEMBERS)
    # Of many users, by a plan that is optimised.
    for asked in (users, [*users, *(f"x{number}" for number in range(100))]):
        batch = ask(service, "BatchCheckMembership", parent=ACCOUNT, userIds=asked, audiences=[audience])
        statuses = {each.user_id: each.statuses[0] for each in batch.users}
        assert [user for user in asked if statuses[user] == MEMBER] == MEMBERS
    listed = ask(service, "ListUserAudiences", parent=ACCOUNT, userId=MEMBERS[0]).audiences
    assert audience in [each.name for each in listed]
    assert sorted(ask(service, "ListMembers", parent=audience).user_ids) == MEMBERS
    exported = [user for page in ask(service, "ExportMembers", name=audience) for user in page.user_ids]
    assert sorted(exported) == MEMBERS
    assert ask(service, "ExplainAudience", name=MILESTONE).steps
    assert ask(service, "GetJourneyFunnel", name=TOP).steps[0].users == members
    assert ask(service, "CompareAudiences", audiences=[audience, below.audience]).intersections


def test_every_method_answers_before_and_after_activation(service: Serving, audience: str) -> None:
    """1. Not activated. 2. Activated, while data come, until the next of time's moves is known."""
    look(service, audience)
    ask(service, "CreateOutput", parent=ACCOUNT, outputId="w", output={"watch": {}})
    connection = {"audience": audience, "output": f"{ACCOUNT}/outputs/w"}
    ask(service, "CreateConnection", parent=ACCOUNT, connectionId="c", connection=connection)
    ask(service, "ActivateConnection", name=f"{ACCOUNT}/connections/c")

    def size() -> tuple[int, int, str]:
        found = ask(service, "GetAudience", name=audience).audience.size
        return found.kind, found.size.users, found.size.failure

    calculated = eventually(lambda: size() if size()[0] == REAL else None)
    assert calculated == (REAL, len(MEMBERS), "")
    look(service, audience)
    # The other way: who buys changes sides.
    send(service, "o0", BUY)
    changed = len(BUYERS) + 1 if MEMBERS is BUYERS else len(OTHERS) - 1
    eventually(lambda: size()[1] == changed)
    assert sorted(ask(service, "ListMembers", parent=audience).user_ids) != MEMBERS
    edit = {
        "name": f"{ACCOUNT}/journeys/level0",
        "updateMilestone": {
            "milestone": {
                "name": f"{ACCOUNT}/journeys/level0/milestones/m",
                "criteria": {"event": {"name": SEEN}},
            },
            "updateMask": "criteria",
        },
    }
    (edited,) = ask(service, "PreviewEdit", **edit).audiences
    assert edited.users_before == changed
    assert not service.application.engine.live.failure(audience)


def test_a_level_more_is_refused_by_every_method(service: Serving, audience: str) -> None:
    create(service, "plain", {"event": {"name": SEEN}})
    plain = f"{ACCOUNT}/journeys/plain"
    over = {"not": {"audience": {"name": audience}}}
    written = {"name": f"{plain}/milestones/m", "criteria": over}
    update = {"milestone": written, "updateMask": "criteria"}
    document = {"journey": "plain", "milestones": [{"id": "m", "criteria": over}]}
    drawn = {"id": "m", "kind": "MILESTONE_KIND_CRITERIA", "criteria": over}
    calls: list[tuple[str, str, Json]] = [
        ("CreateMilestone", "milestone.criteria", {"parent": plain, "milestone": milestone(over)}),
        ("UpdateMilestone", "milestone.criteria", update),
        (
            "ApplyJourney",
            "document.milestones[0].criteria",
            {"parent": ACCOUNT, "document": document},
        ),
        ("EstimateAudience", "draft.criteria", {"draft": {"journey": plain, "criteria": over}}),
        ("ExplainAudience", "draft.criteria", {"draft": {"journey": plain, "criteria": over}}),
        ("PreviewJourney", "milestones[0].criteria", {"parent": ACCOUNT, "milestones": [drawn]}),
        ("PreviewEdit", "update_milestone.milestone.criteria", {"name": plain, "updateMilestone": update}),
    ]
    for name, field, fields in calls:
        refusal = refused(service, name, **fields)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_CRITERIA"), name
        ((path, why),) = refusal.violations.items()
        assert path.startswith(field), name
        assert path.endswith(".audience.name"), name
        assert why.startswith(f"audience '{audience}' names audiences over 16 levels itself"), name
    lowest = {"name": f"{ACCOUNT}/journeys/level0/milestones/m"}
    plain_audience = ask(service, "GetMilestone", name=written["name"]).milestone.audience
    raised = refused(
        service,
        "UpdateMilestone",
        milestone={**lowest, "criteria": deep(plain_audience)},
        updateMask="criteria",
    )
    assert raised.violations["milestone.criteria"].startswith(f"{MILESTONE} would name audiences over more")
