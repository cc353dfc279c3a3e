"""`milepost audience`: the audiences of milestones, their external names and past sizes."""

from __future__ import annotations

from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.history import history
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceName, Etag, faults_by_option, refuse_without_change
from milepost.cli.text import moment, number
from milepost.cli.tree import size_note, size_text
from milepost.v1.audience_pb2 import Audience

app = typer.Typer(
    help="List and show audiences, name them for other systems, and draw their past sizes.",
    no_args_is_help=True,
    cls=Group,
)
app.command()(history)

HEADER = ["audience", "milestone", "name", "external name", ""]


@app.command("list")
@grouped
def list_(
    journey: Annotated[str, typer.Option(help="Only the audiences of this journey.")] = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the account's audiences, without sizes."""
    with account.open() as client:
        show_many(client.list_audiences(journey=journey), HEADER, row_of, as_json=as_json)


@app.command()
@grouped
def show(audience: AudienceName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show an audience with its size: an estimate until it is activated, then the real one."""
    with account.open() as client:
        show_one(client.get_audience(audience), _facts, as_json=as_json)


@app.command()
@grouped
def edit(
    audience: AudienceName,
    external_name: Annotated[
        str | None, typer.Option(help="Its name for downstream systems. Empty = none.")
    ] = None,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Name an audience for downstream systems. Its display name is that of its milestone."""
    if external_name is None:
        refuse_without_change("external_name")
    with account.open() as client, faults_by_option():
        changed = client.update_audience(audience, external_name=external_name, etag=etag)
        show_one(changed, _facts, as_json=as_json)


def row_of(audience: Audience) -> list[str]:
    """The cells of an audience, under `HEADER`."""
    return [
        names.last_id(audience.name),
        names.short_milestone(audience.milestone),
        audience.display_name,
        audience.external_name,
        "active" if audience.activated else "",
    ]


def _facts(audience: Audience) -> Facts:
    size = audience.size
    has_size = audience.HasField("size")
    return [
        ("audience", names.last_id(audience.name)),
        ("milestone", names.short_milestone(audience.milestone)),
        ("name", audience.display_name),
        ("external name", audience.external_name),
        ("activated", "yes" if audience.activated else "no"),
        ("users", size_text(size, plain=True) if has_size else ""),
        ("", size_note(size) if has_size else ""),
        ("journey's start", number(size.population) if has_size else ""),
        ("created", moment(audience.create_time)),
        ("updated", moment(audience.update_time)),
    ]
