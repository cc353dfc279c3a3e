"""`milepost connection`: audiences that are sent to outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.asking import to_instant, to_length
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
from milepost.cli.text import counted, moment, number, printable
from milepost.cli.words import choice, value_of, word_of, words_of
from milepost.client import Client
from milepost.durations import text_of
from milepost.v1.connection_pb2 import Batching, ChangeKind, Connection, ConnectionState, DeliveryStatus
from milepost.values import to_duration

app = typer.Typer(
    help="Connect audiences to outputs, and activate, pause, resume, replay or delete such connections.",
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
    hashed_identity: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Identity type to send in lower case as SHA-256. Repeatable."),
    ] = None
    hashed_attribute: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="User attribute to send in lower case as SHA-256. Repeatable."),
    ] = None
    change: Annotated[
        list[Any] | None,
        typer.Option(
            parser=partial(value_of, ChangeKind),
            metavar=choice(words_of(ChangeKind)),
            help="Kind of change to send. Repeatable; by default all.",
        ),
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

    exits_on_deactivation: Annotated[
        bool | None,
        typer.Option(
            "--exits-on-deactivation/--no-exits-on-deactivation",
            help="Send the exit of every member when the connection is deactivated.",
        ),
    ] = None

    def fields(self) -> dict[str, Any]:
        """What goes with each change, as the client takes it: what is given."""
        found = {
            "identities": self.identity,
            "attributes": self.attribute,
            "hashed_identities": self.hashed_identity,
            "hashed_attributes": self.hashed_attribute,
            "kinds": self.change,
            "exits_on_deactivation": self.exits_on_deactivation,
        }
        return {field: value for field, value in found.items() if value is not None}

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
            **sent.fields(),
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
        bool, typer.Option("--no-identities", help="Send no identities any more, hashed ones neither.")
    ] = False,
    no_attributes: Annotated[
        bool, typer.Option("--no-attributes", help="Send no attributes any more, hashed ones neither.")
    ] = False,
    all_changes: Annotated[
        bool, typer.Option("--all-changes", help="Send changes of every kind again.")
    ] = False,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change what is sent, or how it is grouped. Audience and output cannot change."""
    fields = sent.fields()
    for clears, cleared in (
        (no_identities, ("identities", "hashed_identities")),
        (no_attributes, ("attributes", "hashed_attributes")),
        (all_changes, ("kinds",)),
    ):
        fields |= {field: [] for field in (cleared if clears else ())}
    batched = sent.max_changes is not None or sent.max_age is not None
    if not fields and not batched:
        options = [field.name for field in dataclasses.fields(Sent)]
        refuse_without_change(*options, "no_identities", "no_attributes", "all_changes")
    with account.open() as client, faults_by_option():
        known = client.get_connection(connection)
        changed = client.update_connection(
            connection,
            **fields,
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
def pause(
    connection: ConnectionName, etag: Etag = "", as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Pause an active connection: nothing is delivered until it is resumed. It keeps its credit."""
    with account.open() as client:
        _show(client, client.pause_connection(connection, etag=etag), as_json=as_json)


@app.command()
@grouped
def replay(
    connection: ConnectionName,
    since: Annotated[
        datetime | None,
        typer.Option(
            parser=to_instant,
            metavar="TIME",
            help="Send again what changed after this instant. By default every member is sent again, then "
            "every change.",
        ),
    ] = None,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Send again what a connection has delivered."""
    with account.open() as client:
        _show(client, client.replay_connection(connection, since=since, etag=etag), as_json=as_json)


@app.command()
@grouped
def resume(
    connection: ConnectionName, etag: Etag = "", as_json: AsJson = False, *, account: AccountOptions
) -> None:
    """Resume a paused or faulted connection from where it stopped."""
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
            "paused" if connection.paused else word_of(ConnectionState, connection.state),
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
        ("state", _state(connection)),
        ("fault", connection.fault),
        ("delivered up to", f"change {number(connection.delivered_sequence)}"),
        *_delivery(connection),
        ("identities", ", ".join(connection.identities)),
        ("attributes", ", ".join(connection.attributes)),
        ("hashed identities", ", ".join(connection.hashed_identities)),
        ("hashed attributes", ", ".join(connection.hashed_attributes)),
        ("changes", ", ".join(word_of(ChangeKind, kind) for kind in connection.kinds)),
        ("batches", batches),
        ("deactivation", "sends the exit of every member" if connection.exits_on_deactivation else ""),
        ("created", moment(connection.create_time)),
        ("updated", moment(connection.update_time)),
    ]


def _state(connection: Connection) -> str:
    if connection.paused:
        return f"{word_of(ConnectionState, connection.state)}, paused"
    return word_of(ConnectionState, connection.state) + (", sends exits" if connection.exiting else "")


def _delivery(connection: Connection) -> Facts:
    """How delivery goes; nothing while the connection is inactive."""
    if not connection.HasField("delivery"):
        return []
    status = connection.delivery
    ended = f"{counted(status.failures, 'failure')} in a row" if status.failures else "recovered"
    failed = f"{moment(status.last_error_time)}, {ended}: {printable(status.last_error)}"
    return [
        ("behind by", _behind(status)),
        ("rate", f"{status.changes_per_second:,.2f} changes/s in the last minute"),
        ("last success", moment(status.last_success_time) if status.HasField("last_success_time") else ""),
        ("last error", failed if status.last_error else ""),
    ]


def _behind(status: DeliveryStatus) -> str:
    parts = [
        *(["a snapshot"] if status.pending_snapshot else []),
        *([counted(status.pending_changes, "change")] if status.pending_changes else []),
    ]
    if not parts:
        return "nothing"
    return " and ".join(parts) + (f", {text_of(status.lag)}" if status.lag.ToTimedelta() else "")


def _audience(connection: Connection, milestones: Mapping[str, str]) -> str:
    """JOURNEY/MILESTONE; the audience's id once its milestone was deleted."""
    return milestones.get(connection.audience) or names.last_id(connection.audience)
