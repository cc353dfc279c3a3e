"""`milepost connection`: audiences that are sent to outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.connection_watch import watch
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import (
    AudienceOption,
    ConnectionName,
    Etag,
    faults_by_option,
    refuse_without_change,
)
from milepost.cli.text import moment, number
from milepost.cli.words import word_of
from milepost.client import Client
from milepost.durations import text_of
from milepost.v1.connection_pb2 import Batching, Connection, ConnectionState
from milepost.values import to_duration

app = typer.Typer(
    help="Connect audiences to outputs, and activate, resume or delete such connections.",
    no_args_is_help=True,
    cls=Group,
)
app.command()(watch)


@dataclass(frozen=True)
class Sent:
    """What goes with each change, and how changes are grouped."""

    identity: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Identity type to send with each change. Repeatable."),
    ] = None
    attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="User attribute to send with each change. Repeatable."),
    ] = None
    max_changes: Annotated[
        int | None, typer.Option(min=1, help="Maximum changes per batch, at most 10,000.")
    ] = None
    max_age: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=to_length,
            help="Maximum wait before an incomplete batch is sent, like 5s.",
        ),
    ] = None

    def batching(self, known: Batching | None = None) -> Batching | None:
        """How changes are grouped: what is given, over what is known. None when nothing is given."""
        if self.max_changes is None and self.max_age is None:
            return None
        batching = Batching()
        if known is not None:
            batching.CopyFrom(known)
        if self.max_changes is not None:
            batching.max_changes = self.max_changes
        if self.max_age is not None:
            batching.max_age.CopyFrom(to_duration(self.max_age))
        return batching


@app.command("list")
@grouped
def list_(
    audience: AudienceOption = "",
    output: Annotated[str, typer.Option(help="Only connections to this output.")] = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the account's connections, or those of an audience or output."""
    with account.open() as client:
        show_many(
            client.list_connections(target=audience, output=output),
            ["connection", "audience", "output", "state", "delivered", "updated"],
            _row(_milestones(client)),
            as_json=as_json,
            right=(4,),
        )


@app.command()
@grouped
def show(connection: ConnectionName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show a connection: its state, what was delivered, and why it is faulted."""
    with account.open() as client:
        _show(client, client.get_connection(connection), as_json=as_json)


@app.command()
@grouped
def create(
    connection: Annotated[str, typer.Argument(metavar="CONNECTION", help="Id of the new connection.")],
    audience: Annotated[
        str, typer.Option(help="The audience to send: JOURNEY/MILESTONE, or an audience's id or name.")
    ],
    output: Annotated[str, typer.Option(help="The output to send it to, by id or name.")],
    sent: Sent,
    activate: Annotated[bool, typer.Option("--activate", help="Activate it too.")] = False,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Connect an audience to an output. Nothing is sent before the connection is activated."""
    with account.open() as client, faults_by_option():
        # These name what is missing, and how to create it.
        target, output_name = client.audience_name(audience), client.get_output(output).name
        made = client.create_connection(
            connection,
            target=target,
            output=output_name,
            identities=sent.identity or (),
            attributes=sent.attribute or (),
            batching=sent.batching(),
        )
        if activate:
            made = client.activate_connection(made.name)
        _show(client, made, as_json=as_json)


@app.command()
@grouped
def edit(
    connection: ConnectionName,
    sent: Sent,
    no_identities: Annotated[
        bool, typer.Option("--no-identities", help="Send no identities any more.")
    ] = False,
    no_attributes: Annotated[
        bool, typer.Option("--no-attributes", help="Send no attributes any more.")
    ] = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change what is sent with changes, or how they are grouped. Audience and output cannot change."""
    identities = [] if no_identities else sent.identity
    attributes = [] if no_attributes else sent.attribute
    batched = sent.max_changes is not None or sent.max_age is not None
    if identities is None and attributes is None and not batched:
        refuse_without_change(
            "identity", "attribute", "max_changes", "max_age", "no_identities", "no_attributes"
        )
    with account.open() as client, faults_by_option():
        known = client.get_connection(connection)
        changed = client.update_connection(
            connection,
            identities=identities,
            attributes=attributes,
            batching=sent.batching(known.batching),
            etag=etag or known.etag,
        )
        _show(client, changed, as_json=as_json)


@app.command()
@grouped
def activate(
    connection: ConnectionName, etag: Etag = "", as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Activate a connection: every member is sent, then every change. Uses a credit of the account."""
    with account.open() as client:
        _show(client, client.activate_connection(connection, etag=etag), as_json=as_json)


@app.command()
@grouped
def deactivate(
    connection: ConnectionName, etag: Etag = "", as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Deactivate a connection: delivery stops, and the credit is returned."""
    with account.open() as client:
        _show(client, client.deactivate_connection(connection, etag=etag), as_json=as_json)


@app.command()
@grouped
def resume(
    connection: ConnectionName, etag: Etag = "", as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Resume a faulted connection from where it stopped."""
    with account.open() as client:
        _show(client, client.resume_connection(connection, etag=etag), as_json=as_json)


@app.command()
@grouped
def delete(connection: ConnectionName, etag: Etag = "", *, account: AccountOptions) -> None:
    """Delete a connection. An active one is deactivated first."""
    with account.open() as client:
        client.delete_connection(connection, etag=etag)
        print(f"deleted {client.connection_name(connection)}")


def _milestones(client: Client) -> Mapping[str, str]:
    """JOURNEY/MILESTONE for each audience of the account."""
    return {each.name: names.short_milestone(each.milestone) for each in client.list_audiences()}


def _show(client: Client, connection: Connection, *, as_json: bool) -> None:
    def facts(connection: Connection) -> Facts:
        return _facts(connection, _milestones(client))

    show_one(connection, facts, as_json=as_json)


def _row(milestones: Mapping[str, str]) -> Callable[[Connection], list[str]]:
    def row(connection: Connection) -> list[str]:
        return [
            names.last_id(connection.name),
            _audience(connection, milestones),
            names.last_id(connection.output),
            word_of(ConnectionState, connection.state),
            number(connection.delivered_sequence),
            moment(connection.update_time),
        ]

    return row


def _facts(connection: Connection, milestones: Mapping[str, str]) -> Facts:
    batching = connection.batching
    batches = f"of {number(batching.max_changes)} changes, or after {text_of(batching.max_age)}"
    return [
        ("connection", names.last_id(connection.name)),
        ("audience", _audience(connection, milestones)),
        ("output", names.last_id(connection.output)),
        ("state", word_of(ConnectionState, connection.state)),
        ("fault", connection.fault),
        ("delivered up to", f"change {number(connection.delivered_sequence)}"),
        ("identities", ", ".join(connection.identities)),
        ("attributes", ", ".join(connection.attributes)),
        ("batches", batches),
        ("created", moment(connection.create_time)),
        ("updated", moment(connection.update_time)),
    ]


def _audience(connection: Connection, milestones: Mapping[str, str]) -> str:
    """JOURNEY/MILESTONE; the audience's id once its milestone was deleted."""
    return milestones.get(connection.audience) or names.last_id(connection.audience)
