"""`milepost estimate`, `count`, `check`, `members`: sizes and membership."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated

import typer

from milepost.cli.answers import AsJson, show_json
from milepost.cli.asking import AsOf, to_length
from milepost.cli.calling import AccountOptions
from milepost.cli.documents import show_warnings
from milepost.cli.drafts import CriteriaFile, asked, siblings_before
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceName
from milepost.cli.text import console, counted, number, printable, show_table
from milepost.cli.tree import size_note, size_text
from milepost.client import Client
from milepost.client.base import PAGE_SIZE
from milepost.errors import SizeFailed
from milepost.v1.audience_pb2 import AudienceSize, Size
from milepost.v1.audience_service_pb2 import EstimateAudienceResponse

CHECK_USERS_MAX = 10_000


@grouped
def estimate(
    audience: Annotated[
        str,
        typer.Argument(
            metavar="AUDIENCE",
            help="A milestone as JOURNEY/MILESTONE, or an audience; with --criteria also a journey.",
        ),
    ],
    criteria: CriteriaFile = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Compute the exact size, regardless of time.")
    ] = False,
    max_relative_error: Annotated[
        float | None, typer.Option(help="Maximum relative error of the estimate, for example 0.05.")
    ] = None,
    time_budget: Annotated[
        timedelta | None,
        typer.Option(metavar="DURATION", parser=to_length, help="Best precision in this time, like 20ms."),
    ] = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Show the size of a milestone, and of each labelled criterion alone."""
    with account.open() as client, asked(client, audience, criteria) as question:
        try:
            answer = client.estimate(
                question.target,
                exact=exact,
                max_relative_error=max_relative_error,
                time_budget=time_budget,
                as_of=as_of,
            )
        except SizeFailed as error:
            _show(error.answer, question.where, as_json=as_json)
            raise
        _show(answer, question.where, as_json=as_json)
        if not as_json and (note := siblings_before(client, question.target)):
            print(note, file=console().file)


@grouped
def count(
    audience: AudienceName, as_of: AsOf = None, as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Count the users of a milestone exactly. `milepost estimate` is faster for large ones."""
    with account.open() as client:
        answer = client.count(audience, as_of=as_of)
    if as_json:
        show_json(answer)
    else:
        print(f"{number(answer.users)} of {counted(answer.population, 'user')}")


@grouped
def check(
    audience: AudienceName,
    users: Annotated[list[str], typer.Argument(metavar="USER", help="User ids.")],
    as_of: AsOf = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: for each user whether it is a member.")
    ] = False,
    *,
    account: AccountOptions,
) -> None:
    """Show whether users are in an audience."""
    with account.open() as client:
        found = _check(client, audience, users, as_of)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for user, is_member in found.items():
            print(f"{printable(user)}  {'member' if is_member else 'not a member'}")


def _check(client: Client, audience: str, users: Sequence[str], as_of: datetime | None) -> dict[str, bool]:
    if len(users) == 1:
        return {users[0]: client.check(users[0], audience, as_of=as_of)}
    name = client.target_name(audience)
    found: dict[str, bool] = {}
    for start in range(0, len(users), CHECK_USERS_MAX):
        answers = client.check_many(users[start : start + CHECK_USERS_MAX], [name], as_of=as_of)
        found |= {user: name in audiences for user, audiences in answers.items()}
    return found


@grouped
def members(
    audience: AudienceName,
    limit: Annotated[int | None, typer.Option(help="Maximum number of lines.", min=1)] = None,
    as_of: AsOf = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each id as a JSON string.")] = False,
    *,
    account: AccountOptions,
) -> None:
    """Print the ids of an audience's members, one per line."""
    with account.open() as client:
        if limit is None:
            found = client.export_members(audience, as_of=as_of)
        else:
            page_size = min(limit, PAGE_SIZE)
            found = islice(client.list_members(audience, as_of=as_of, page_size=page_size), limit)
        for user_id in found:
            print(json.dumps(user_id, ensure_ascii=False) if as_json else user_id)


def _show(answer: EstimateAudienceResponse, where: Callable[[str], str], *, as_json: bool) -> None:
    if as_json:
        show_json(answer)
        return
    out = console()

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
    fraction = answer.size.sampled_fraction
    looked_at = "everyone counted" if fraction == 1 else f"{fraction:.0%} of the users sampled"
    print(f"\n{looked_at}, {elapsed_ms:.1f} ms", file=out.file)
    show_warnings(answer.warnings, where)
