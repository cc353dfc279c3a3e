"""The commands, against a fake server."""

from __future__ import annotations

import importlib.util
import os
import socket
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from textwrap import dedent
from typing import Any, NoReturn

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from typer.testing import Result

from milepost import Client
from milepost.cli.app import app
from milepost.cli.ways_on import way_on
from milepost.criteria import event
from milepost.errors import SizeFailed, Unavailable
from milepost.v1.account_pb2 import Account
from milepost.v1.account_service_pb2 import GetAccountResponse, ListAccountsResponse
from milepost.v1.audience_pb2 import (
    SIZE_STATE_ESTIMATED,
    SIZE_STATE_EXACT,
    SIZE_STATE_FAILED,
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
    ExportMembersResponse,
    FunnelStep,
    GetAudienceResponse,
    GetJourneyFunnelResponse,
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
from tests.cli_runner import CliRunner
from tests.clients.fake import Fake, Refusal, methods, serving

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
    "ExportMembers": lambda _: [ExportMembersResponse(user_ids=each) for each in (["ann", "bob"], ["eve"])],
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
    assert run("estimate", "j/m1", "--time-budget", "20ms").output == dedent(
        """\
                         users
        size               ~60  between 55 and 66
          Bought            70
        draws from          80
        journey's start    100

        25% of the users sampled, 1.5 ms
        warning: criteria.event.name: never seen
        """
    )
    [request] = fake.of("EstimateAudience")
    assert request.name == f"{JOURNEY}/milestones/m1"
    assert request.time_budget == Duration(nanos=20_000_000)


def test_an_estimate_that_counted_everyone_says_so(fake: Fake) -> None:
    fake.answers["EstimateAudience"] = lambda _: EstimateAudienceResponse(size=exact(60), draw=exact(80))
    assert "\neveryone counted, 0.0 ms\n" in run("estimate", "j/m1").output


FAILED = Size(state=SIZE_STATE_FAILED, failure="a stored value is corrupt")


@pytest.mark.parametrize("field", ["size", "labelled", "draw"])
def test_a_size_that_failed_is_an_error_and_not_0(fake: Fake, field: str) -> None:
    answer = EstimateAudienceResponse()
    answer.CopyFrom(ESTIMATE)
    (answer.labelled[0].size if field == "labelled" else getattr(answer, field)).CopyFrom(FAILED)
    fake.answers["EstimateAudience"] = lambda _: answer
    result = run("estimate", "j/m1")
    assert result.exit_code == 1
    assert result.stderr == "milepost: DATA_LOSS: a size could not be computed: a stored value is corrupt\n"
    # The other sizes are shown.
    assert ("~60" in result.output, "       70" in result.output) == (field != "size", field != "labelled")
    with Client(os.environ["MILEPOST_TARGET"], account="demo") as client, pytest.raises(SizeFailed) as raised:
        client.estimate("j/m1")
    assert raised.value.answer == answer


@pytest.mark.parametrize("command", ["show", "plot"])
def test_a_picture_with_a_size_that_failed_ends_with_1(fake: Fake, tmp_path: Path, command: str) -> None:
    failed = AudienceSize(size=FAILED, population=100)
    fake.answers["GetAudience"] = lambda request: (
        GetAudienceResponse(audience=Audience(size=failed))
        if request.name.endswith("a1")
        else get_audience(request)
    )
    picture = tmp_path / "j.svg"
    result = run("journey", command, "j", *(["--out", str(picture)] if command == "plot" else []))
    assert result.exit_code == 1
    assert result.stderr == "milepost: 1 size could not be computed: Bought\n"
    shown = picture.read_text(encoding="utf-8") if command == "plot" else result.stdout
    assert ("a stored value is corrupt" in shown, ">40<" in shown or " 40 " in shown) == (True, True)


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


def test_malformed_criteria_are_refused_before_the_call(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "criteria.json"
    file.write_text('{"evnet": {}}', encoding="utf-8")
    result = run("estimate", "j", "--criteria", str(file))
    assert result.exit_code == 1
    assert result.stderr == f"milepost: {file}:1:2: evnet: unknown field, did you mean 'event'?\n"
    assert fake.of("EstimateAudience") == []


@pytest.mark.usefixtures("fake")
def test_check_answers_for_each_user() -> None:
    assert run("check", "j/m1", "ann", "bob").output == "ann  member\nbob  not a member\n"


@pytest.mark.usefixtures("fake")
def test_members_are_printed_one_per_line_up_to_the_limit() -> None:
    assert run("members", "j/m1").output == "ann\nbob\neve\n"
    assert run("members", "j/m1", "--limit", "2").output == "ann\nbob\n"


def test_only_a_service_that_does_not_answer_may_have_to_be_started() -> None:
    started = "is the service running? `milepost serve` starts one"
    code = grpc.StatusCode.UNAVAILABLE
    assert way_on(Unavailable(code, "failed to connect to all addresses")) == started
    assert way_on(Unavailable(code, "the service is stopping", reason="STORE_UNAVAILABLE")) == ""


@pytest.mark.parametrize("written", ["[::1]", "%5B::1%5D"])
def test_the_refusal_of_one_address_of_localhost_does_not_hide_who_listens_on_the_other(written: str) -> None:
    """gRPC says only why the last address failed."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        last = f"ipv6:{written}:{port}: Failed to connect to remote host: Connection refused"
        error = Unavailable(
            grpc.StatusCode.UNAVAILABLE, f"failed to connect to all addresses; last error: {last}"
        )
        said = way_on(error)
    assert said.startswith(f"something listens on 127.0.0.1:{port}, but does not answer with gRPC as asked")
    assert said.endswith(f"--target 127.0.0.1:{port} tells more")
    assert way_on(error) == "is the service running? `milepost serve` starts one"


def test_what_has_no_display_name_is_shown_by_its_id(fake: Fake) -> None:
    nameless = Milestone(name=f"{JOURNEY}/milestones/m1", audience="accounts/demo/audiences/a1")
    fake.answers["ListMilestones"] = lambda _: ListMilestonesResponse(milestones=[nameless])
    fake.answers["GetJourney"] = lambda _: GetJourneyResponse(journey=Journey(name=JOURNEY))
    step = FunnelStep(milestone=nameless.name, users=60)
    funnel = GetJourneyFunnelResponse(journey=Journey(name=JOURNEY), steps=[step], population=100)
    fake.answers["GetJourneyFunnel"] = lambda _: funnel
    commands = ["milestone list j", "journey show j", "journey funnel j", "journey show j --as-of 2026-01-01"]
    for command in commands:
        shown = run(*command.split())
        assert shown.exit_code == 0, shown.output
        assert "`-- m1 " in shown.stdout, command
        if " show " in command:
            assert shown.stdout.startswith(f"j ({JOURNEY})\n")


def test_error_is_printed_as_text(fake: Fake) -> None:
    refusal = Refusal(
        grpc.StatusCode.NOT_FOUND, "accounts/demo/journeys/x does not exist", reason="RESOURCE_NOT_FOUND"
    )
    fake.answers["GetJourney"] = lambda _: refuse(refusal)
    result = run("journey", "show", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "milepost: RESOURCE_NOT_FOUND: accounts/demo/journeys/x does not exist\n"


@pytest.mark.parametrize("before", [["--account", "acme"], ["--account=acme"], ["journey", "--json"]])
def test_an_option_before_its_command_is_told_where_it_belongs(fake: Fake, before: list[str]) -> None:
    result = run(*before, "list")
    assert (result.exit_code, fake.requests) == (2, [])
    option = next(each for each in before if each.startswith("--")).partition("=")[0]
    assert f"no option {option} here: a command's options come after it" in " ".join(
        result.output.replace("│", " ").split()
    )


COMMANDS: list[list[str]] = [
    ["journey", "list"],
    ["journey", "show", "j"],
    ["journey", "export", "j"],
    ["estimate", "j/m1"],
    ["check", "j/m1", "ann"],
    ["members", "j/m1"],
    ["catalog", "events"],
    ["audience", "history", "j/m1"],
    ["import", "events.csv", "--input", "w/i"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_wrong_account_is_named_by_its_option_with_the_way_on(fake: Fake, command: list[str]) -> None:
    result = run(*command, "--account", "A1")
    assert (result.exit_code, fake.requests) == (2, [])
    rule = "must be 1-63 of a-z0-9-, starting with a letter"
    assert result.stderr == f"milepost: the account's id {rule}, not 'A1'\n"
    missing = Refusal(grpc.StatusCode.NOT_FOUND, "accounts/dmo does not exist", reason="RESOURCE_NOT_FOUND")
    fake.answers = {method.name: lambda _: refuse(missing) for method in methods()}
    fake.answers["ListAccounts"] = lambda _: ListAccountsResponse(accounts=[Account(name="accounts/demo")])
    result = run(*command, "--account", "dmo")
    assert result.exit_code == 1
    assert result.stderr.startswith(
        "milepost: account 'dmo' (--account) does not exist, did you mean 'demo'? The accounts: 'demo'."
    )
    way_on = "--create makes it" if command[0] == "import" else "`milepost account create dmo` creates it"
    assert result.stderr.endswith(f" {way_on}\n")
    assert result.stderr.count("\n") == 1
    if command[0] == "import":
        return
    # The service does not tell a key of another account that there is one.
    with_key = run(*command, "--account", "dmo", "--api-key", "secret")
    assert with_key.stderr.endswith(
        f" {way_on}, with an operator's key; a key of an account sees only its own: name that by --account\n"
    )


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("key create app", "--scope: give at least one of ingest, read, manage, admin, or --operator"),
        (
            "output create hooks --kind webhook --url https://example.com",
            "--secret: an output of kind webhook needs one that you and the receiver know: --secret"
            ' "whsec_$(openssl rand -base64 32)" makes one',
        ),
        ("output create hooks --kind webhook", "an output of kind webhook needs --url"),
    ],
)
def test_an_option_that_is_missing_is_named_before_a_call(fake: Fake, command: str, said: str) -> None:
    result = run(*command.split())
    assert (result.exit_code, fake.requests) == (2, [])
    assert said in " ".join(result.output.replace("│", " ").split())


def test_version_is_that_of_the_installed_client(fake: Fake) -> None:
    assert run("--version").output == f"milepost {metadata.version('milepost')}\n"
    assert fake.requests == []


def test_unreachable_service_message_tells_how_to_start_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILEPOST_TARGET", "127.0.0.1:1")
    result = run("journey", "list")
    assert result.exit_code == 1
    assert "`milepost serve` starts one" in result.stderr


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_missing_server_package_message_tells_what_to_install(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = run(command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "milepost: the service is not installed: pip install milepost-server\n"
