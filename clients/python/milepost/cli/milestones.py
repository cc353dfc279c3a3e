"""`milepost milestone`: the steps of journeys, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_json, show_many, show_one
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.deleting import confirm_connections
from milepost.cli.documents import Source, faults_of, show_warnings
from milepost.cli.edit_preview import Preview, show_preview
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import (
    DisplayName,
    Etag,
    JourneyName,
    Yes,
    faults_by_option,
    refuse_without_change,
)
from milepost.cli.text import console, moment
from milepost.cli.tree import branch, in_tree_order
from milepost.cli.words import word_of
from milepost.documents import dumps_criteria, loads_criteria
from milepost.v1.journey_pb2 import Milestone, MilestoneKind, Warning

_CRITERIA = "milestone.criteria"

app = typer.Typer(
    help="Create, list, show, edit, move and delete the milestones of journeys.",
    no_args_is_help=True,
    cls=Group,
)

MilestoneName = Annotated[
    str, typer.Argument(metavar="JOURNEY/MILESTONE", help="The milestone's ids, or its name.")
]
CriteriaOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Criteria as YAML or JSON; `-` reads standard input."),
]


@app.command("list")
@grouped
def list_(journey: JourneyName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """List a journey's milestones as a tree. `milepost journey show` has their sizes."""
    out = console()
    with account.open() as client:
        listed = client.list_milestones(journey)
        placed = list(in_tree_order(listed, lambda each: each.name, lambda each: each.parent_milestone))
    lines = {each.name: branch(last_at, is_terminal=out.is_terminal) for each, last_at in placed}

    def row(milestone: Milestone) -> list[str]:
        return [
            lines[milestone.name] + (milestone.display_name or names.last_id(milestone.name)),
            names.short_milestone(milestone.name),
            word_of(MilestoneKind, milestone.kind).replace("_", " "),
            names.last_id(milestone.audience),
        ]

    show_many([each for each, _ in placed], ["milestone", "ids", "kind", "audience"], row, as_json=as_json)


@app.command()
@grouped
def show(milestone: MilestoneName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show a milestone and its criteria. `milepost estimate` has its size."""
    with account.open() as client:
        _show(client.get_milestone(milestone), as_json=as_json)


@app.command()
@grouped
def create(
    milestone: MilestoneName,
    criteria: CriteriaOption = None,
    remaining_users: Annotated[
        bool, typer.Option("--remaining-users", help="Take the users that no sibling takes.")
    ] = False,
    parent: Annotated[
        str, typer.Option(metavar="MILESTONE", help="Parent milestone, by id. Default: the journey's start.")
    ] = "",
    display_name: DisplayName = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create a milestone with its audience: after its siblings, before remaining users."""
    if (criteria is None) is not remaining_users:
        raise typer.BadParameter("give it or --remaining-users", param_hint="--criteria")
    source = None if criteria is None else Source.read(criteria, _CRITERIA)
    with account.open() as client:
        journey, _, milestone_id = client.target_name(milestone).rpartition("/milestones/")
        with faults_by_option(), faults_of(source):
            answer = client.create_milestone(
                journey,
                milestone_id,
                criteria=None if source is None else loads_criteria(source.text),
                display_name=display_name or ("" if remaining_users else milestone_id),
                parent_milestone=parent,
            )
    _show(answer.milestone, as_json=as_json, warnings=answer.warnings, source=source)


@app.command()
@grouped
def edit(
    milestone: MilestoneName,
    criteria: CriteriaOption = None,
    display_name: DisplayName = None,
    preview: Preview = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change a milestone's criteria or name. Outputs get only the differences.

    Kind and parent cannot change: delete it and create another.
    """
    if criteria is None and display_name is None:
        refuse_without_change("criteria", "display_name")
    if preview and criteria is None:
        raise typer.BadParameter("needs --criteria: a name moves no users", param_hint="--preview")
    source = None if criteria is None else Source.read(criteria, _CRITERIA)
    with account.open() as client, faults_by_option(), faults_of(source):
        if preview and source is not None:
            found = client.preview_update_milestone(
                milestone, criteria=loads_criteria(source.text), etag=etag
            )
            show_preview(found, as_json=as_json)
            return
        answer = client.update_milestone(
            milestone,
            criteria=None if source is None else loads_criteria(source.text),
            display_name=display_name,
            etag=etag,
        )
    _show(answer.milestone, as_json=as_json, warnings=answer.warnings, source=source)


@app.command()
@grouped
def move(
    milestone: MilestoneName,
    position: Annotated[
        int, typer.Argument(metavar="POSITION", help="New position among its siblings, from 0.", min=0)
    ],
    preview: Preview = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Move a milestone among its siblings: the first that matches takes a user.

    Beyond the last position it comes last, before remaining users.
    """
    with account.open() as client:
        if preview:
            show_preview(client.preview_move_milestone(milestone, position, etag=etag), as_json=as_json)
            return
        show_one(client.move_milestone(milestone, position, etag=etag), _facts, as_json=as_json)


@app.command()
@grouped
def delete(
    milestone: MilestoneName,
    preview: Preview = False,
    etag: Etag = "",
    yes: Yes = False,
    *,
    account: AccountOptions,
) -> None:
    """Delete a milestone with its audience and connections. Its members' exits are sent first.

    Asks when it has connections.
    """
    with account.open() as client:
        if preview:
            show_preview(client.preview_delete_milestone(milestone, etag=etag), as_json=False)
            return
        confirm_connections(
            f"Delete {names.short_milestone(client.target_name(milestone))}",
            client.list_connections(target=milestone),
            yes=yes,
        )
        client.delete_milestone(milestone, etag=etag)
        print(f"deleted {client.target_name(milestone)}")


def _show(
    milestone: Milestone,
    *,
    as_json: bool,
    warnings: Sequence[Warning] = (),
    source: Source | None = None,
) -> None:
    if as_json:
        show_json(milestone)
    else:
        show_one(milestone, _facts, as_json=False)
        if milestone.HasField("criteria"):
            print(f"\n{dumps_criteria(milestone.criteria)}", end="")
    show_warnings(warnings, str if source is None else source.where, beside_json=as_json)


def _facts(milestone: Milestone) -> Facts:
    return [
        ("milestone", names.short_milestone(milestone.name)),
        ("name", milestone.display_name),
        ("kind", word_of(MilestoneKind, milestone.kind).replace("_", " ")),
        ("parent", names.last_id(milestone.parent_milestone)),
        ("position", str(milestone.position)),
        ("audience", names.last_id(milestone.audience)),
        ("created", moment(milestone.create_time)),
        ("updated", moment(milestone.update_time)),
    ]
