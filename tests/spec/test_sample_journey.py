"""The main job, end to end: `milepost demo` on a new store, then every way to ask about its journey.

One run of the command fills the store; a service started again on it answers the rest. The figures and the
very users are those that SQL finds in the dataset's own files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from milepost import Client, make_event, names
from milepost.cli.mermaid import draw_mermaid
from milepost.cli.service_process import ServiceProcess
from milepost.cli.tree import read_picture
from milepost.outputs import FileOutput
from milepost.sample import dataset, journey
from milepost.sample.journey import NOT_REDEEMED_ID, OTHERS_ID, RECEIVED_ID, REDEEMED_ID, SPENT_ID
from milepost.v1.audience_pb2 import SIZE_KIND_ESTIMATE, SIZE_KIND_REAL, SIZE_STATE_EXACT
from milepost.v1.audience_service_pb2 import CheckMembershipRequest, ListUserAudiencesRequest
from milepost.v1.ingest_service_pb2 import DeleteUsersRequest
from tests.sample_figures import DRAWS, FIGURES, START, members

MILESTONES = (RECEIVED_ID, REDEEMED_ID, SPENT_ID, NOT_REDEEMED_ID, OTHERS_ID)
WAIT_SECONDS_MAX = 60.0
USERS_A_BATCH = 2_000
QUIET = ("--log-level", "warning")

TREE = """\
Coupon campaigns (accounts/demo/journeys/coupon-campaigns)
inputs: grocery/store, grocery/campaigns, grocery/panel

milestone                         users  of parent
Start                             2,469             ########################
|-- Received a Type A campaign    1,490      60.3%  ###############
|   |-- Redeemed a coupon           406      27.2%  ####
|   |   `-- Spent at least 5,000    104      25.6%  ##
|   `-- Remaining users           1,084      72.8%  ###########
`-- Remaining users                 979      39.7%  ##########

0 of 100 activated audiences
"""


def demo(data: Path) -> str:
    """What `milepost demo --exit` on the store in `data` prints."""
    command = [sys.executable, "-c", "from milepost.cli import main; main()", "demo"]
    completed = subprocess.run(
        [*command, "--data", str(data), "--port", "0", "--exit"],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "200"},
    )
    return completed.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "store"


@pytest.fixture(scope="module")
def outputs(data: Path) -> tuple[str, str]:
    """What a first and a second run of the command print."""
    return demo(data), demo(data)


@pytest.fixture(scope="module")
def client(data: Path, outputs: tuple[str, str]) -> Iterator[Client]:
    with (
        ServiceProcess(data, flags=QUIET) as service,
        Client(service.target, account=dataset.ACCOUNT_ID) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def expected() -> dict[str, set[str]]:
    return members()


def name_of(milestone: str) -> str:
    return f"{journey.JOURNEY_ID}/{milestone}"


def test_the_command_loads_the_sample_and_draws_its_journey(outputs: tuple[str, str]) -> None:
    head, _, tree = outputs[0].partition("\n\n")
    assert head.startswith("loading the sample: 1,473,162 events\n")
    assert "loaded 1,473,162 events and 801 profiles in " in head
    assert tree == TREE


def test_figures_equal_sql_over_the_files(expected: dict[str, set[str]]) -> None:
    assert {name: len(users) for name, users in expected.items()} == FIGURES


@pytest.mark.parametrize("milestone", MILESTONES)
def test_estimate(client: Client, milestone: str) -> None:
    answer = client.estimate(name_of(milestone))
    assert (answer.size.state, answer.size.users) == (SIZE_STATE_EXACT, FIGURES[milestone])
    assert (answer.draw.users, answer.population) == (DRAWS[milestone], FIGURES[START])


def test_estimate_of_each_labelled_criterion_by_itself(client: Client) -> None:
    [labelled] = client.estimate(name_of(SPENT_ID)).labelled
    assert (labelled.label, labelled.size.users) == ("Spent at least 5,000", FIGURES[SPENT_ID])


@pytest.mark.parametrize("milestone", MILESTONES)
def test_count(client: Client, milestone: str) -> None:
    answer = client.count(name_of(milestone))
    assert (answer.users, answer.population) == (FIGURES[milestone], FIGURES[START])


@pytest.mark.parametrize("milestone", MILESTONES)
def test_list_members_over_all_pages(client: Client, expected: dict[str, set[str]], milestone: str) -> None:
    listed = list(client.list_members(name_of(milestone), page_size=100))
    assert len(listed) == FIGURES[milestone]
    assert set(listed) == expected[milestone]


@pytest.mark.parametrize("milestone", MILESTONES)
def test_check_membership_of_every_user(
    client: Client, expected: dict[str, set[str]], milestone: str
) -> None:
    audience = client.audience_name(name_of(milestone))
    found = {
        user
        for user in expected[START]
        if client.audiences.CheckMembership(CheckMembershipRequest(audience=audience, user_id=user)).member
    }
    assert found == expected[milestone]


def test_batch_check_of_every_user_in_every_audience(client: Client, expected: dict[str, set[str]]) -> None:
    audiences = {client.audience_name(name_of(milestone)): milestone for milestone in MILESTONES}
    users = sorted(expected[START])
    found: dict[str, set[str]] = {milestone: set() for milestone in MILESTONES}
    for first in range(0, len(users), USERS_A_BATCH):
        answers = client.check_many(users[first : first + USERS_A_BATCH], list(audiences))
        for user, names_of_user in answers.items():
            for name in names_of_user:
                found[audiences[name]].add(user)
    assert found == {milestone: expected[milestone] for milestone in MILESTONES}


@pytest.mark.parametrize("milestone", [SPENT_ID, NOT_REDEEMED_ID, OTHERS_ID])
def test_the_audiences_of_a_user_are_its_milestone_and_those_above(
    client: Client, expected: dict[str, set[str]], milestone: str
) -> None:
    user = min(expected[milestone])
    request = ListUserAudiencesRequest(parent=client.account_name, user_id=user)
    listed = {audience.name for audience in client.audiences.ListUserAudiences(request).audiences}
    assert listed == {client.audience_name(name_of(other)) for other in MILESTONES if user in expected[other]}


def test_the_page_on_journeys_shows_this_journey(client: Client) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "journeys.md"
    drawn = draw_mermaid(read_picture(client, journey.JOURNEY_ID))
    assert f"```mermaid\n{drawn}```" in page.read_text(encoding="utf-8")


def lines_of(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    events = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [event for event in events if event["type"].startswith("milepost.membership.")]


def wait_for_lines(file: Path, count: int) -> list[dict[str, Any]]:
    """The file's events once it has `count` of them; those there are when they do not come."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while len(lines_of(file)) < count and time.monotonic() < deadline:
        time.sleep(0.05)
    return lines_of(file)


def test_activation_sends_every_member_and_then_every_change(
    client: Client, data: Path, expected: dict[str, set[str]]
) -> None:
    # 1. The deepest audience is connected to a file and activated: one credit, its ancestors use none.
    output = client.ensure_output("files", FileOutput(path="sample"))
    connection = client.ensure_connection("spenders", target=name_of(SPENT_ID), output=output.name)
    client.activate_connection(connection.name)
    assert client.get_account().active_audience_count == 1
    # 2. Every member is sent as entered.
    file = data / "outputs" / dataset.ACCOUNT_ID / "sample" / "spenders.ndjson"
    sent = wait_for_lines(file, FIGURES[SPENT_ID])
    assert [event["type"] for event in sent] == ["milepost.membership.entered"] * FIGURES[SPENT_ID]
    assert {event["data"]["user_id"] for event in sent} == expected[SPENT_ID]
    # 3. The audience and its ancestors now show their real sizes; a branch beside them shows an estimate.
    shown = {milestone: client.get_audience(name_of(milestone)) for milestone in MILESTONES}
    assert {name: audience.size.size.users for name, audience in shown.items()} == {
        name: FIGURES[name] for name in MILESTONES
    }
    assert {name for name, audience in shown.items() if audience.size.kind == SIZE_KIND_REAL} == {
        RECEIVED_ID,
        REDEEMED_ID,
        SPENT_ID,
    }
    assert shown[OTHERS_ID].size.kind == SIZE_KIND_ESTIMATE
    assert {name for name, audience in shown.items() if audience.activated} == {SPENT_ID}
    # 4. A newcomer who does all three enters, and is in no other line.
    _send_newcomer(client)
    sent = wait_for_lines(file, FIGURES[SPENT_ID] + 1)
    assert _of_newcomer(sent) == ["milepost.membership.entered"]
    assert client.check("newcomer", name_of(SPENT_ID))
    # 5. Once erased the newcomer exits, and the figures are what they were.
    client.ingest.DeleteUsers(DeleteUsersRequest(parent=client.account_name, user_ids=["newcomer"]))
    sent = wait_for_lines(file, FIGURES[SPENT_ID] + 2)
    assert _of_newcomer(sent) == ["milepost.membership.entered", "milepost.membership.exited"]
    assert client.count(name_of(SPENT_ID)).users == FIGURES[SPENT_ID]
    # 6. Switched off, the credit returns.
    client.deactivate_connection(connection.name)
    assert client.get_account().active_audience_count == 0
    assert client.get_audience(name_of(SPENT_ID)).size.kind == SIZE_KIND_ESTIMATE


def _send_newcomer(client: Client) -> None:
    now = datetime.now(UTC)
    store, campaigns = (
        names.input_(dataset.ACCOUNT_ID, dataset.WORKSPACE_ID, input_id)
        for input_id in (dataset.STORE_INPUT_ID, dataset.CAMPAIGNS_INPUT_ID)
    )
    client.ingest_events(
        [
            make_event("newcomer", "campaign_received", now, {"campaign_type": "Type A"}, input=campaigns),
            make_event("newcomer", "coupon_redeemed", now, input=campaigns),
            make_event("newcomer", "purchase", now, {"sales_value": 4_999.99}, input=store),
            make_event("newcomer", "purchase", now, {"sales_value": 0.01}, input=store),
        ]
    )


def _of_newcomer(sent: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in sent if event["data"]["user_id"] == "newcomer"]


def test_a_second_run_of_the_command_finds_the_sample_loaded(outputs: tuple[str, str]) -> None:
    assert outputs[1] == TREE
