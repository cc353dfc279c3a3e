"""`milepost journey create`, `edit`, `clone`, `delete`: journeys without a file."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_one
from milepost.cli.calling import AccountOptions
from milepost.cli.deleting import confirm_connections
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import (
    DisplayName,
    Etag,
    JourneyName,
    Yes,
    faults_by_option,
    refuse_without_change,
)
from milepost.cli.text import moment, number
from milepost.cli.tree import inputs_text
from milepost.client import Client
from milepost.v1.journey_pb2 import Journey, JourneyDocument

Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="WORKSPACE/INPUT",
        help="Input whose users the journey takes. Repeatable. Default: all, including later ones.",
    ),
]
NewJourney = Annotated[str, typer.Argument(metavar="JOURNEY", help="Id of the new journey.")]


@grouped
def create(
    journey: NewJourney,
    display_name: DisplayName = None,
    inputs: Inputs = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create a journey. `milepost milestone create` adds milestones, `apply` creates it with all of them."""
    with account.open() as client, faults_by_option():
        made = client.create_journey(journey, display_name=display_name or journey, inputs=inputs or ())
        show_one(made, _facts, as_json=as_json)


@grouped
def edit(
    journey: JourneyName,
    display_name: DisplayName = None,
    inputs: Inputs = None,
    all_inputs: Annotated[
        bool, typer.Option("--all-inputs", help="Take the users of all inputs, including later ones.")
    ] = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change a journey's name or inputs. Outputs get only the differences."""
    chosen = [] if all_inputs else inputs
    if display_name is None and chosen is None:
        refuse_without_change("display_name", "input", "all_inputs")
    with account.open() as client, faults_by_option():
        changed = client.update_journey(journey, display_name=display_name, inputs=chosen, etag=etag)
        show_one(changed, _facts, as_json=as_json)


@grouped
def clone(
    journey: JourneyName,
    copy: Annotated[str, typer.Argument(metavar="COPY", help="Id of the copy.")],
    display_name: DisplayName = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Copy a journey with its milestones, without connections."""
    with account.open() as client, faults_by_option():
        made = client.clone_journey(journey, copy, display_name=display_name or "")
        show_one(made, _facts, as_json=as_json)


@grouped
def delete(
    journey: JourneyName,
    with_milestones: Annotated[
        bool,
        typer.Option(
            "--with-milestones", help="Delete its milestones first, with their audiences and connections."
        ),
    ] = False,
    etag: Etag = "",
    yes: Yes = False,
    *,
    account: AccountOptions,
) -> None:
    """Delete a journey. It must have no milestones, unless --with-milestones is given.

    --with-milestones asks when a milestone has connections.
    """
    if with_milestones and etag:
        raise typer.BadParameter("is not for --with-milestones", param_hint="--etag")
    with account.open() as client:
        if with_milestones:
            audiences = {each.audience for each in client.list_milestones(journey)}
            confirm_connections(
                f"Delete {names.last_id(client.journey_name(journey))} and its milestones",
                (each for each in client.list_connections() if each.audience in audiences),
                yes=yes,
            )
            _empty(client, client.get_journey(journey))
        client.delete_journey(journey, etag=etag)
        print(f"deleted {client.journey_name(journey)}")


def _empty(client: Client, journey: Journey) -> None:
    """Deletes all milestones of a journey, in one transaction."""
    client.apply_journey(
        JourneyDocument(
            journey=names.last_id(journey.name), display_name=journey.display_name, inputs=journey.inputs
        )
    )


def _facts(journey: Journey) -> Facts:
    return [
        ("journey", names.last_id(journey.name)),
        ("name", journey.display_name),
        ("inputs", inputs_text(journey)),
        ("audiences", number(journey.audience_count)),
        ("activated", number(journey.active_audience_count)),
        ("outputs", ", ".join(map(names.last_id, journey.connected_outputs))),
        ("version", str(journey.version)),
        ("created", moment(journey.create_time)),
        ("updated", moment(journey.update_time)),
    ]
