"""Every question takes the instant that it is asked for: in the contract, the commands and the client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer.main
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from milepost import Client
from milepost.cli.app import app
from milepost.v1.audience_service_pb2 import (
    MEMBERSHIP_STATUS_MEMBER,
    BatchCheckMembershipResponse,
    ExplainMembershipResponse,
    MilestoneVerdict,
    UserMemberships,
)
from milepost.v1.journey_pb2 import JourneyDocument
from milepost.values import to_datetime
from tests.cli_runner import CliRunner
from tests.clients.fake import Fake, methods, serving
from tests.clients.questions import questions

AS_OF = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
WRITTEN = "2026-03-01T10:30+01:00"
MILESTONE = "accounts/demo/journeys/j/milestones/m"


def test_every_question_of_the_contract_has_as_of() -> None:
    asked = {method.name: method.input_type.fields_by_name for method in methods()}
    assert [name for name in sorted(questions()) if "as_of" not in asked[name]] == []
    # And nothing else has it: a field that no evaluation reads would promise something.
    assert {name for name, fields in asked.items() if "as_of" in fields} == questions()
    assert len(questions()) == 13


# --- the commands and the client, against a service whose answers are empty ---


def answer_of(method: MethodDescriptor) -> Callable[[Any], Any]:
    """An empty answer, evaluated at the instant of the request."""
    message: Any = message_factory.GetMessageClass(method.output_type)

    def answer(request: Any) -> Any:
        made = message()
        if "evaluation" in method.output_type.fields_by_name:
            made.evaluation.as_of.CopyFrom(request.as_of)
        return [made] if method.server_streaming else made

    return answer


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    service = Fake({method.name: answer_of(method) for method in methods()})
    service.answers["BatchCheckMembership"] = lambda request: BatchCheckMembershipResponse(
        users=[
            UserMemberships(user_id=user, statuses=[MEMBERSHIP_STATUS_MEMBER]) for user in request.user_ids
        ]
    )
    verdict = ExplainMembershipResponse(milestones=[MilestoneVerdict(milestone=MILESTONE)])
    service.answers["ExplainMembership"] = lambda _: verdict
    with serving(service) as target:
        monkeypatch.setenv("MILEPOST_TARGET", target)
        yield service


def instants(fake: Fake) -> dict[str, set[datetime | None]]:
    """The instants that each question was asked for; None is now."""
    found: dict[str, set[datetime | None]] = {}
    for name, request in fake.requests:
        if name in questions():
            asked = to_datetime(request.as_of) if request.HasField("as_of") else None
            found.setdefault(name, set()).add(asked)
    return found


COMMANDS = [
    "estimate j/m",
    "count j/m",
    "check j/m ann",
    "check j/m ann bob",
    "members j/m",
    "members j/m --limit 5",
    "explain j/m ann",
    "explain j/m",
    "overlap j/m j/n",
    "user audiences ann",
    "journey show j",
    "journey show j --json",
    "journey funnel j",
    "journey preview {document}",
    "journey plot j --out {directory}/j.svg",
    "journey diff {document}",
    "journey diff j --version 1",
]
"""Every command that asks questions, in each way that it asks."""


def commands() -> dict[str, set[str]]:
    """Every command and its options."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, set[str]]]:
        if hasattr(command, "commands"):
            for each, below in command.commands.items():
                yield from walk(below, f"{name} {each}".strip())
        else:
            yield name, {option for parameter in command.params for option in parameter.opts}

    return dict(walk(typer.main.get_command(app), ""))


def test_every_command_with_the_option_is_tried() -> None:
    with_option = {name for name, options in commands().items() if "--as-of" in options}
    tried = {name for name in with_option for line in COMMANDS if f"{line} ".startswith(f"{name} ")}
    assert tried == with_option
    assert len(with_option) == 12


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_asks_for_the_instant_given(fake: Fake, tmp_path: Path, line: str) -> None:
    document = tmp_path / "j.yaml"
    document.write_text(
        "{journey: j, milestones: [{id: m, criteria: {event: {name: buy}}}]}", encoding="utf-8"
    )
    words = [each.format(document=document, directory=tmp_path) for each in line.split()]
    result = CliRunner().invoke(app, [*words, "--as-of", WRITTEN])
    assert result.exit_code == 0, result.output
    asked = instants(fake)
    assert asked != {}
    assert set().union(*asked.values()) == {AS_OF}, asked


@pytest.mark.usefixtures("fake")
def test_an_instant_that_cannot_be_read_is_refused_with_what_is_expected() -> None:
    result = CliRunner().invoke(app, ["estimate", "j/m", "--as-of", "yesterday"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "'--as-of': expected a time like 2026-11-01, 2026-11-01T10:00 (both UTC)" in result.stderr
    assert "not 'yesterday'" in result.stderr


CALLS: dict[str, Callable[[Client], object]] = {
    "EstimateAudience": lambda client: client.estimate("j/m", as_of=AS_OF),
    "CountAudience": lambda client: client.count("j/m", as_of=AS_OF),
    "CheckMembership": lambda client: client.check("ann", "j/m", as_of=AS_OF),
    "BatchCheckMembership": lambda client: client.check_many(["ann"], ["j/m"], as_of=AS_OF),
    "ListUserAudiences": lambda client: list(client.list_user_audiences("ann", as_of=AS_OF)),
    "ListMembers": lambda client: list(client.list_members("j/m", as_of=AS_OF)),
    "ExportMembers": lambda client: list(client.export_members("j/m", as_of=AS_OF)),
    "CompareAudiences": lambda client: client.compare_audiences(["j/m", "j/n"], as_of=AS_OF),
    "GetJourneyFunnel": lambda client: client.get_journey_funnel("j", as_of=AS_OF),
    "PreviewEdit": lambda client: client.preview_move_milestone("j/m", 0, as_of=AS_OF),
    "PreviewJourney": lambda client: client.preview_journey(JourneyDocument(journey="j"), as_of=AS_OF),
    "ExplainMembership": lambda client: client.explain_membership("ann", "j/m", as_of=AS_OF),
    "ExplainAudience": lambda client: client.explain_audience("j/m", as_of=AS_OF),
}


def test_the_client_has_every_question() -> None:
    assert CALLS.keys() == questions()


@pytest.mark.parametrize("method", CALLS)
def test_the_client_asks_for_the_instant_given(fake: Fake, method: str) -> None:
    with Client(os.environ["MILEPOST_TARGET"], account="a") as client:
        CALLS[method](client)
    assert instants(fake)[method] == {AS_OF}
