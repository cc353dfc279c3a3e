"""Arguments and options that several groups of commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from milepost.cli.calling import EXIT_USAGE
from milepost.errors import InvalidArgument

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DisplayName = Annotated[str | None, typer.Option(help="Name to show, at most 100 characters.")]
Etag = Annotated[
    str, typer.Option(help="Change nothing unless this is the current etag, which --json shows.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask whether to go on.")]


def _workspace_and_input(text: str) -> str:
    if text and "/" not in text:
        raise typer.BadParameter(f"{text!r} is not of the form WORKSPACE/INPUT")
    return text


JourneyName = Annotated[str, typer.Argument(metavar="JOURNEY", help="The journey's id or name.")]
AudienceName = Annotated[
    str,
    typer.Argument(metavar="AUDIENCE", help="A milestone as JOURNEY/MILESTONE, or an audience's id or name."),
]
AudienceNames = Annotated[
    list[str],
    typer.Argument(
        metavar="AUDIENCE...", help="Milestones as JOURNEY/MILESTONE, or ids or names of audiences."
    ),
]
WorkspaceName = Annotated[str, typer.Argument(metavar="WORKSPACE", help="The workspace's id or name.")]
InputName = Annotated[
    str,
    typer.Argument(
        metavar="WORKSPACE/INPUT", help="The input's ids, or its name.", callback=_workspace_and_input
    ),
]
InputOption = Annotated[
    str, typer.Option(help="Only data from this WORKSPACE/INPUT.", callback=_workspace_and_input)
]
OutputName = Annotated[str, typer.Argument(metavar="OUTPUT", help="The output's id or name.")]
ConnectionName = Annotated[str, typer.Argument(metavar="CONNECTION", help="The connection's id or name.")]
AudienceOption = Annotated[
    str, typer.Option("--audience", help="A milestone as JOURNEY/MILESTONE, or an audience's id or name.")
]


def given(options: DataclassInstance) -> dict[str, Any]:
    """The options of a group that the caller gave: those that are not None."""
    return {
        each.name: value for each in fields(options) if (value := getattr(options, each.name)) is not None
    }


def changes(options: DataclassInstance) -> dict[str, Any]:
    """As `given`. Ends the command when there are none: it would change nothing."""
    return given(options) or refuse_without_change(*(each.name for each in fields(options)))


def refuse_without_change(*options: str) -> NoReturn:
    """Ends a command that was given none of the options that change something."""
    names = ", ".join(map(option_of, options))
    print(f"milepost: nothing to change: give at least one of {names}", file=sys.stderr)
    raise typer.Exit(EXIT_USAGE)


def option_of(field: str) -> str:
    """`--max-length` for `max_length`."""
    return "--" + field.replace("_", "-")


def confirm(question: str, *, yes: bool) -> None:
    """Asks whether to go on with something that cannot be undone, unless `yes` says so. Ends the command
    when the answer is no, and where nobody can be asked.
    """
    if yes:
        return
    if not can_ask():
        print(f"milepost: {question} Nobody can be asked here: add --yes", file=sys.stderr)
        raise typer.Exit(EXIT_USAGE)
    typer.confirm(question, abort=True)


def can_ask() -> bool:
    """Whether standard input is a terminal."""
    return sys.stdin.isatty()


@contextmanager
def faults_by_option() -> Iterator[None]:
    """Names the fields at fault by the options they come from: `account.time_zone` is `--time-zone`."""
    try:
        yield
    except InvalidArgument as error:
        error.rename_fields(_option)
        raise


_RENAMED = {
    "identities": "identity",
    "attributes": "attribute",
    "hashed_identities": "hashed-identity",
    "hashed_attributes": "hashed-attribute",
    "kinds": "change",
    "inputs": "input",
    "scopes": "scope",
    "expire_time": "expires",
}
"""Fields whose options have other names: those of lists give one element each."""
_OF_REQUESTS = {"confirmation": "--confirm"}
"""Fields of requests themselves, and their options."""


def _option(path: str) -> str:
    """A path of one part stays as it is, unless an option gives it."""
    resource, _, field = path.partition("[")[0].rpartition(".")
    return option_of(_RENAMED.get(field, field)) if resource else _OF_REQUESTS.get(path, path)
