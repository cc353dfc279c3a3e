"""Milestones that are not saved: criteria from a file, at a place in a journey."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import typer

from milepost import names
from milepost.cli.documents import Source
from milepost.client import Client
from milepost.documents import loads_criteria
from milepost.v1.audience_service_pb2 import MilestoneDraft
from milepost.v1.journey_pb2 import MILESTONE_KIND_CRITERIA

_FIELD = "draft.criteria"
SIBLINGS_SHOWN_MAX = 5

CriteriaFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Unsaved criteria as YAML or JSON, below the journey or milestone; `-` reads standard input.",
    ),
]


@dataclass(frozen=True)
class Asked:
    """What a question is about. `where` gives the place of a field of the request."""

    target: str | MilestoneDraft
    where: Callable[[str], str] = str


@contextmanager
def asked(client: Client, place: str, file: str | None) -> Iterator[Asked]:
    """The audience at a place, or a draft with the criteria of a file there. Faults of the file end the
    command.
    """
    if file is None:
        yield Asked(place)
        return
    source = Source.read(file, _FIELD)
    with source.faults():
        draft = MilestoneDraft(kind=MILESTONE_KIND_CRITERIA, criteria=loads_criteria(source.text))
        if "/" in place.removeprefix(f"{client.account_name}/journeys/"):
            draft.parent_milestone = client.target_name(place)
            draft.journey = draft.parent_milestone.partition("/milestones/")[0]
        else:
            draft.journey = client.journey_name(place)
        yield Asked(draft, source.where)


def siblings_before(client: Client, target: str | MilestoneDraft) -> str:
    """Says which siblings come before a draft, which is the last of an exclusive split; "" when none does."""
    if isinstance(target, str):
        return ""
    draft = target
    before = [
        names.short_milestone(each.name)
        for each in client.list_milestones(draft.journey)
        if each.parent_milestone == draft.parent_milestone and each.kind == MILESTONE_KIND_CRITERIA
    ]
    if not before:
        return ""
    more = f" and {len(before) - SIBLINGS_SHOWN_MAX} more" if len(before) > SIBLINGS_SHOWN_MAX else ""
    siblings = ", ".join(before[:SIBLINGS_SHOWN_MAX]) + more
    return f"users that {siblings} take are not in it: siblings come first"
