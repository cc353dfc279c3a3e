"""`milepost journey funnel` and `preview`: exact sizes of every milestone, all at one instant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console

from milepost import journeys, names
from milepost.cli.answers import AsJson, show_json
from milepost.cli.asking import AsOf
from milepost.cli.calling import AccountOptions
from milepost.cli.documents import JourneyFile, Source, show_warnings
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import JourneyName
from milepost.cli.text import console, number, percent, show_table
from milepost.cli.tree import branch, in_tree_order
from milepost.v1.audience_pb2 import Evaluation
from milepost.v1.audience_service_pb2 import FunnelStep

_HEADER = ["milestone", "id", "users", "of parent", "of split", ""]


@grouped
def funnel(
    journey: JourneyName, as_of: AsOf = None, as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Count every milestone of a journey exactly, with its shares of its parent and of its split."""
    with account.open() as client:
        answer = client.get_journey_funnel(journey, as_of=as_of)
    if as_json:
        show_json(answer)
    else:
        _show(answer.population, answer.steps, answer.evaluation, console())


@grouped
def preview(
    file: JourneyFile, as_of: AsOf = None, as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Count every milestone of a journey file exactly, without saving anything.

    `milepost journey diff` compares a file with the saved journey.
    """
    source = Source.read(file)
    with account.open() as client, source.faults():
        answer = journeys.preview(client, journeys.loads(source.text), as_of=as_of)
    if as_json:
        show_json(answer)
    else:
        _show(answer.population, answer.steps, answer.evaluation, console())
        show_warnings(answer.warnings, source.where)


def _show(population: int, steps: Iterable[FunnelStep], evaluation: Evaluation, out: Console) -> None:
    show_table(
        out, _HEADER, [["Start", "", number(population), "", "", ""], *_rows(steps, out)], right=(2, 3, 4)
    )
    print(f"\nas of {evaluation.as_of.ToJsonString()}", file=out.file)


def _rows(steps: Iterable[FunnelStep], out: Console) -> Iterator[list[str]]:
    placed = in_tree_order(steps, lambda step: step.milestone, lambda step: step.parent_milestone)
    for step, last_at in placed:
        yield [
            branch(last_at, is_terminal=out.is_terminal)
            + (step.display_name or names.last_id(step.milestone)),
            names.last_id(step.milestone),
            number(step.users),
            percent(step.parent_share),
            percent(step.split_share),
            "active" if step.activated else "",
        ]
