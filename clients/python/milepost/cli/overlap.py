"""`milepost overlap`: how many users several audiences share."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost.cli.answers import AsJson, show_json
from milepost.cli.asking import AsOf
from milepost.cli.calling import AccountOptions
from milepost.cli.option_groups import grouped
from milepost.cli.text import console, number, percent, show_table
from milepost.v1.audience_service_pb2 import CompareAudiencesResponse

Audiences = Annotated[
    list[str],
    typer.Argument(metavar="AUDIENCE", help="2-5 milestones as JOURNEY/MILESTONE, or audiences."),
]


@grouped
def overlap(
    audiences: Audiences, as_of: AsOf = None, as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Count the users in every intersection of 2-5 audiences exactly.

    The shares are of the smallest audience of each line.
    """
    with account.open() as client:
        named = {client.audience_name(each): each for each in audiences}
        answer = client.compare_audiences(list(named), as_of=as_of)
    if as_json:
        show_json(answer)
    else:
        _show(answer, named)


def _show(answer: CompareAudiencesResponse, shown: dict[str, str]) -> None:
    alone = {each.audiences[0]: each.users for each in answer.intersections if len(each.audiences) == 1}
    rows = []
    for each in answer.intersections:
        smallest = min(alone[name] for name in each.audiences)
        share = percent(each.users / smallest) if smallest and len(each.audiences) > 1 else ""
        rows.append([" & ".join(shown[name] for name in each.audiences), number(each.users), share])
    show_table(console(), ["in all of", "users", "of smallest"], rows, right=(1, 2))
