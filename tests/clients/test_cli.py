"""The commands, against a server whose answers are given here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import CliRunner, Result

from milepost.cli.app import app
from milepost.criteria import event
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import GetAccountResponse
from milepost.v1.audience_pb2 import (
    SIZE_STATE_ESTIMATED,
    SIZE_STATE_EXACT,
    Audience,
    AudienceSize,
    Evaluation,
    LabelledSize,
    Size,
)
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER,
    MEMBERSHIP_STATUS_NOT_MEMBER,
    BatchCheckMembershipResponse,
    EstimateAudienceResponse,
    GetAudienceResponse,
    ListMembersResponse,
    UserMemberships,
)
from milepost.v1.journey_pb2 import MILESTONE_KIND_REMAINING_USERS, Journey, Milestone, Warning
from milepost.v1.journey_service_pb2 import (
    GetJourneyResponse,
    GetMilestoneResponse,
    ListJourneysResponse,
    ListMilestonesResponse,
)
from tests.clients.fake import Fake, Refusal, serving

JOURNEY = "accounts/demo/journeys/j"
SIZES = {"a1": 60, "a2": 40}


def exact(users: int) -> Size:
    return Size(state=SIZE_STATE_EXACT, users=users, lower=users, upper=users, sampled_fraction=1.0)


def get_audience(request: Any) -> GetAudienceResponse:
    users = SIZES[request.name.rpartition("/")[2]]
    return GetAudienceResponse(audience=Audience(size=AudienceSize(size=exact(users), population=100)))


def get_milestone(request: Any) -> GetMilestoneResponse:
    return GetMilestoneResponse(milestone=Milestone(name=request.name, audience="accounts/demo/audiences/a1"))


def list_journeys(request: Any) -> ListJourneysResponse:
    journey = Journey(
        name=JOURNEY,
        display_name="Win back",
        audience_count=2,
        active_audience_count=1,
        connected_outputs=["accounts/demo/outputs/files"],
        update_time=Timestamp(seconds=1_772_366_400),
    )
    return ListJourneysResponse(journeys=[journey])


def refuse(refusal: Refusal) -> NoReturn:
    raise refusal


MILESTONES = [
    Milestone(name=f"{JOURNEY}/milestones/m1", display_name="Bought", audience="accounts/demo/audiences/a1"),
    Milestone(
        name=f"{JOURNEY}/milestones/m2",
        display_name="Others",
        kind=MILESTONE_KIND_REMAINING_USERS,
        audience="accounts/demo/audiences/a2",
    ),
]
ESTIMATE = EstimateAudienceResponse(
    size=Size(state=SIZE_STATE_ESTIMATED, users=60, lower=55, upper=66, sampled_fraction=0.25),
    labelled=[LabelledSize(label="Bought", size=exact(70))],
    draw=exact(80),
    population=100,
    evaluation=Evaluation(elapsed=Duration(nanos=1_500_000)),
    warnings=[Warning(field="criteria.event.name", description="never seen")],
)
ANSWERS: dict[str, Any] = {
    "GetJourney": lambda _: GetJourneyResponse(journey=Journey(name=JOURNEY, display_name="Win back")),
    "ListMilestones": lambda _: ListMilestonesResponse(milestones=MILESTONES),
    "GetAudience": get_audience,
    "GetMilestone": get_milestone,
    "GetAccount": lambda _: GetAccountResponse(
        account=Account(active_audience_count=1, active_audience_limit=100)
    ),
    "ListJourneys": list_journeys,
    "EstimateAudience": lambda _: ESTIMATE,
    "ListMembers": lambda _: ListMembersResponse(user_ids=["ann", "bob", "eve"]),
    "BatchCheckMembership": lambda request: BatchCheckMembershipResponse(
        users=[
            UserMemberships(
                user_id=user,
                statuses=[MEMBERSHIP_STATUS_MEMBER if user == "ann" else MEMBERSHIP_STATUS_NOT_MEMBER],
            )
            for user in request.user_ids
        ]
    ),
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    service = Fake(ANSWERS)
    with serving(service) as target:
        monkeypatch.setenv("MILEPOST_TARGET", target)
        yield service


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.usefixtures("fake")
def test_journey_show_draws_the_tree() -> None:
    result = run("journey", "show", "j")
    assert result.exit_code == 0
    assert result.output == dedent(
        """\
        Win back (accounts/demo/journeys/j)
        inputs: all inputs

        milestone   users  of parent
        Start         100             ########################
        |-- Bought     60      60.0%  ###############
        `-- Others     40      40.0%  ##########

        1 of 100 activated audiences
        """
    )


def test_a_journey_without_milestones_is_its_start(fake: Fake) -> None:
    fake.answers["ListMilestones"] = lambda _: ListMilestonesResponse()
    assert "Start        100" in run("journey", "show", "j").output
    [request] = fake.of("EstimateAudience")
    assert request.draft.journey == JOURNEY


@pytest.mark.usefixtures("fake")
def test_journey_list_shows_counts_and_credits() -> None:
    assert run("journey", "list").output == dedent(
        """\
        journey  name      audiences  active  outputs  updated
        j        Win back          2       1  files    2026-03-01 12:00

        1 of 100 activated audiences
        """
    )


def test_estimate_shows_bounds_labels_and_warnings(fake: Fake) -> None:
    assert run("estimate", "j/m1", "--time-budget-ms", "20").output == dedent(
        """\
                         users
        size               ~60  between 55 and 66
          Bought            70
        draws from          80
        journey's start    100

        25% of the users looked at, 1.5 ms
        warning: criteria.event.name: never seen
        """
    )
    [request] = fake.of("EstimateAudience")
    assert request.name == f"{JOURNEY}/milestones/m1"
    assert request.time_budget == Duration(nanos=20_000_000)


@pytest.mark.parametrize(("place", "parent"), [("j", ""), ("j/m1", f"{JOURNEY}/milestones/m1")])
def test_estimate_takes_criteria_that_are_not_saved(
    fake: Fake, tmp_path: Path, place: str, parent: str
) -> None:
    file = tmp_path / "criteria.json"
    criteria = event("buy").count() >= 2
    file.write_text(json_format.MessageToJson(criteria), encoding="utf-8")
    assert run("estimate", place, "--criteria", str(file)).exit_code == 0
    [request] = fake.of("EstimateAudience")
    assert request.draft.criteria == criteria
    assert (request.draft.journey, request.draft.parent_milestone) == (JOURNEY, parent)


def test_criteria_that_cannot_be_read_are_refused_before_asking(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "criteria.json"
    file.write_text('{"evnet": {}}', encoding="utf-8")
    result = run("estimate", "j", "--criteria", str(file))
    assert result.exit_code == 1
    assert 'no field named "evnet"' in result.stderr
    assert fake.of("EstimateAudience") == []


@pytest.mark.usefixtures("fake")
def test_check_answers_for_each_user() -> None:
    assert run("check", "j/m1", "ann", "bob").output == "ann  member\nbob  not a member\n"


@pytest.mark.usefixtures("fake")
def test_members_are_printed_one_a_line_up_to_the_limit() -> None:
    assert run("members", "j/m1").output == "ann\nbob\neve\n"
    assert run("members", "j/m1", "--limit", "2").output == "ann\nbob\n"


def test_a_refusal_is_told_in_words(fake: Fake) -> None:
    refusal = Refusal(
        grpc.StatusCode.NOT_FOUND, "accounts/demo/journeys/x does not exist", reason="RESOURCE_NOT_FOUND"
    )
    fake.answers["GetJourney"] = lambda _: refuse(refusal)
    result = run("journey", "show", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "milepost: RESOURCE_NOT_FOUND: accounts/demo/journeys/x does not exist\n"


def test_without_a_service_the_command_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILEPOST_TARGET", "127.0.0.1:1")
    result = run("journey", "list")
    assert result.exit_code == 1
    assert "`milepost serve` starts one" in result.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_without_the_server_package_the_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run(command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "milepost: the service is not installed here: pip install milepost-server\n"
