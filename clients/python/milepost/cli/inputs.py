"""`milepost input`: the sources that events and user updates come from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import DisplayName, Etag, InputName, changes, faults_by_option, given
from milepost.cli.text import moment
from milepost.cli.words import choice, value_of, word_of, words_of
from milepost.v1.account_pb2 import Input, InputKind

app = typer.Typer(
    help="Create, list, edit and delete inputs: the sources of events and user updates.",
    no_args_is_help=True,
    cls=Group,
)


@dataclass(frozen=True)
class InputFields:
    """What can be chosen of an input."""

    display_name: DisplayName = None
    kind: Annotated[
        int | None,
        typer.Option(
            parser=partial(value_of, InputKind),
            metavar=choice(words_of(InputKind)),
            help="Kind of the source. A label, without an effect on its data.",
        ),
    ] = None


@app.command("list")
@grouped
def list_(
    workspace: Annotated[str, typer.Option(help="Only the inputs of this workspace.")] = names.ANY,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the account's inputs."""
    with account.open() as client:
        show_many(
            client.list_inputs(workspace),
            ["input", "name", "kind", "created", "updated"],
            _row,
            as_json=as_json,
        )


@app.command()
@grouped
def show(input: InputName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show an input."""
    with account.open() as client:
        show_one(client.get_input(input), _facts, as_json=as_json)


@app.command()
@grouped
def create(
    input: InputName,
    chosen: InputFields,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create an input. Its workspace has to exist: `milepost workspace create`."""
    with account.open() as client, faults_by_option():
        parent, _, input_id = client.input_name(input).rpartition("/inputs/")
        show_one(client.create_input(parent, input_id, **given(chosen)), _facts, as_json=as_json)


@app.command()
@grouped
def edit(
    input: InputName,
    chosen: InputFields,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change what is given of an input."""
    with account.open() as client, faults_by_option():
        show_one(client.update_input(input, etag=etag, **changes(chosen)), _facts, as_json=as_json)


@app.command()
@grouped
def delete(input: InputName, etag: Etag = "", *, account: AccountOptions) -> None:
    """Delete an input, for good. Nothing may name it, and its users have to be erased first."""
    with account.open() as client:
        client.delete_input(input, etag=etag)
        print(f"deleted {client.input_name(input)}")


def _row(input: Input) -> list[str]:
    return [
        names.short_input(input.name),
        input.display_name,
        word_of(InputKind, input.kind),
        moment(input.create_time),
        moment(input.update_time),
    ]


def _facts(input: Input) -> Facts:
    return [
        ("input", names.short_input(input.name)),
        ("name", input.display_name),
        ("kind", word_of(InputKind, input.kind)),
        ("created", moment(input.create_time)),
        ("updated", moment(input.update_time)),
    ]
