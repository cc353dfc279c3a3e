"""`milepost output`: the destinations of audiences."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.asking import to_length
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.output_kinds import Address, address_text, kind_from, kind_option, require_secret
from milepost.cli.parameters import (
    DisplayName,
    Etag,
    OutputName,
    faults_by_option,
    given,
    refuse_without_change,
)
from milepost.cli.text import moment
from milepost.outputs import kind_of
from milepost.v1.connection_pb2 import Output
from milepost.v1.connection_service_pb2 import TestOutputResponse

app = typer.Typer(
    help="Create, list, edit and delete outputs: the destinations of audiences.",
    no_args_is_help=True,
    cls=Group,
)


@app.command("list")
@grouped
def list_(as_json: AsJson = False, *, account: AccountOptions) -> None:
    """List the account's outputs."""
    with account.open() as client:
        show_many(
            client.list_outputs(), ["output", "name", "kind", "address", "updated"], _row, as_json=as_json
        )


@app.command()
@grouped
def show(output: OutputName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show an output, without its secrets."""
    with account.open() as client:
        show_one(client.get_output(output), _facts, as_json=as_json)


@app.command()
@grouped
def create(
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Id of the new output.")],
    kind: Annotated[str, kind_option(help="Kind of the output. Each has options below.")],
    address: Address,
    display_name: DisplayName = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create an output, like `milepost output create files --kind file --path exports`."""
    message = kind_from(kind, address)
    require_secret(kind, address)
    with account.open() as client, faults_by_option():
        made = client.create_output(output, message, display_name=display_name or "")
        show_one(made, _facts, as_json=as_json)


@app.command()
@grouped
def edit(
    output: OutputName,
    kind: Annotated[str | None, kind_option(help="Make it an output of this kind.")] = None,
    *,
    address: Address,
    display_name: DisplayName = None,
    secret_overlap: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=to_length,
            help="How long the previous secret signs as well, like 1h; 0s: not at all. Default: 24h.",
        ),
    ] = None,
    etag: Etag = "",
    as_json: AsJson = False,
    account: AccountOptions,
) -> None:
    """Change what is given of an output. Its connections go on to the new address."""
    moves = kind is not None or bool(given(address))
    if not moves and display_name is None:
        refuse_without_change("display_name", "kind", *Address.__dataclass_fields__)
    with account.open() as client, faults_by_option():
        known = client.get_output(output)
        if kind is not None and kind != kind_of(known):
            require_secret(kind, address)
        changed = client.update_output(
            output,
            kind=kind_from(kind or kind_of(known), address, known) if moves else None,
            display_name=display_name,
            secret_overlap=secret_overlap,
            etag=etag or known.etag,
        )
        show_one(changed, _facts, as_json=as_json)


@app.command("test")
@grouped
def try_out(output: OutputName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Send a marked event to an output and show what comes back. Exit status 1: it was not taken."""
    with account.open() as client:
        answer = client.test_output(output)
        show_one(answer, _test_facts, as_json=as_json)
        if not answer.delivered:
            raise typer.Exit(1)


@app.command()
@grouped
def delete(output: OutputName, etag: Etag = "", *, account: AccountOptions) -> None:
    """Delete an output. Its connections have to be deleted first."""
    with account.open() as client:
        client.delete_output(output, etag=etag)
        print(f"deleted {client.output_name(output)}")


def _row(output: Output) -> list[str]:
    return [
        names.last_id(output.name),
        output.display_name,
        kind_of(output),
        address_text(output),
        moment(output.update_time),
    ]


def _facts(output: Output) -> Facts:
    until = output.previous_secret_expire_time if output.HasField("previous_secret_expire_time") else None
    return [
        ("output", names.last_id(output.name)),
        ("name", output.display_name),
        ("kind", kind_of(output)),
        ("address", address_text(output)),
        *([("previous secret until", moment(until))] if until is not None else []),
        ("created", moment(output.create_time)),
        ("updated", moment(output.update_time)),
    ]


def _test_facts(answer: TestOutputResponse) -> Facts:
    latency_ms = answer.latency.ToTimedelta().total_seconds() * 1_000
    return [
        ("delivered", "yes" if answer.delivered else "no"),
        ("error", answer.error),
        ("HTTP status", str(answer.http_status or "")),
        ("answer", answer.excerpt),
        ("latency", f"{latency_ms:.0f} ms"),
        ("event", answer.event_id),
    ]
