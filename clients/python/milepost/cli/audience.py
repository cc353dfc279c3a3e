"""`milepost estimate`, `milepost check`, `milepost members`: sizes and membership."""

from __future__ import annotations

import sys
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.console import Console

from milepost.cli.connection import DEFAULT_ACCOUNT, DEFAULT_TARGET, AccountId, ApiKey, Target, open_client
from milepost.cli.text import console, number, show_table
from milepost.cli.tree import size_note, size_text
from milepost.client import Client
from milepost.v1.audience_pb2 import AudienceSize, Size
from milepost.v1.audience_service_pb2 import EstimateAudienceResponse, MilestoneDraft
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA

CHECK_USERS_MAX = 10_000

Audience = Annotated[
    str, typer.Argument(help="A milestone as JOURNEY/MILESTONE, an audience's id, or the name of either.")
]


def estimate(
    audience: Annotated[str, typer.Argument(help="JOURNEY/MILESTONE, an audience, or a journey.")],
    criteria: Annotated[
        Path | None,
        typer.Option(help="Unsaved criteria as JSON, below the given journey or milestone."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compute the exact size, regardless of time.")
    ] = False,
    max_relative_error: Annotated[
        float | None, typer.Option(help="Maximum relative error of the estimate, for example 0.05.")
    ] = None,
    time_budget_ms: Annotated[
        int | None, typer.Option(help="Best precision within this time, in milliseconds.")
    ] = None,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Show the size of a milestone, and of each labelled criterion by itself."""
    with open_client(target, account, api_key) as client:
        asked = audience if criteria is None else _draft(client, audience, criteria)
        answer = client.estimate(
            asked,
            exact=exact,
            max_relative_error=max_relative_error,
            time_budget=None if time_budget_ms is None else timedelta(milliseconds=time_budget_ms),
        )
    _show_estimate(answer, console())


def check(
    audience: Audience,
    users: Annotated[list[str], typer.Argument(help="User ids.")],
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Show whether users are in an audience."""
    with open_client(target, account, api_key) as client:
        name = client.audience_name(audience)
        for start in range(0, len(users), CHECK_USERS_MAX):
            answers = client.check_many(users[start : start + CHECK_USERS_MAX], [name])
            for user in users[start : start + CHECK_USERS_MAX]:
                print(f"{user}  {'member' if name in answers[user] else 'not a member'}")


def members(
    audience: Audience,
    limit: Annotated[int | None, typer.Option(help="Maximum number of lines.", min=1)] = None,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """Print the ids of an audience's members, one per line."""
    with open_client(target, account, api_key) as client:
        for user_id in islice(client.list_members(audience), limit):
            print(user_id)


def _draft(client: Client, place: str, criteria_file: Path) -> MilestoneDraft:
    """The draft of a milestone at a journey's start, or below a milestone."""
    try:
        criteria = json_format.Parse(criteria_file.read_text(encoding="utf-8"), Criteria())
    except (OSError, json_format.ParseError) as error:
        print(f"milepost: {criteria_file}: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    if "/" in place.removeprefix(f"{client.account_name}/journeys/"):
        parent = client.target_name(place)
        journey = parent.partition("/milestones/")[0]
    else:
        parent, journey = "", client.journey_name(place)
    return MilestoneDraft(
        journey=journey, parent_milestone=parent, kind=MILESTONE_KIND_CRITERIA, criteria=criteria
    )


def _show_estimate(answer: EstimateAudienceResponse, out: Console) -> None:
    def row(label: str, size: Size) -> list[str]:
        shown = AudienceSize(size=size)
        return [label, size_text(shown, plain=not out.is_terminal), size_note(shown)]

    rows = [
        row("size", answer.size),
        *[row(f"  {labelled.label}", labelled.size) for labelled in answer.labelled],
        row("draws from", answer.draw),
        ["journey's start", number(answer.population), ""],
    ]
    show_table(out, ["", "users", ""], rows, right=(1,))
    elapsed_ms = answer.evaluation.elapsed.ToMicroseconds() / 1_000
    print(f"\n{answer.size.sampled_fraction:.0%} of the users looked at, {elapsed_ms:.1f} ms", file=out.file)
    for warning in answer.warnings:
        print(f"warning: {warning.field}: {warning.description}", file=out.file)
