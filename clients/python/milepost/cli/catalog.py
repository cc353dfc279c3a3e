"""`milepost catalog`: names and values in the data, for building criteria and finding faulty inputs."""

from __future__ import annotations

import shlex
import sys
from itertools import islice
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, show_many
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import InputOption
from milepost.cli.text import moment, number, value_text
from milepost.cli.words import word_of
from milepost.v1.catalog_service_pb2 import Attribute, EventName, ValueCount, ValueKind
from milepost.v1.data_pb2 import EventType

VALUES_SHOWN = 20
PAGE_SIZE_MAX = 1_000

app = typer.Typer(help="List the events, attributes and values in the data.", no_args_is_help=True, cls=Group)


Prefix = Annotated[str, typer.Option(help="Only names that start with this.")]


@app.command()
@grouped
def events(
    prefix: Prefix = "",
    input: InputOption = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List event names with their figures, by input and type."""
    with account.open() as client:
        show_many(
            client.list_event_names(prefix=prefix, input=input),
            ["event", "type", "input", "events", "users", "first", "last"],
            _event_row,
            as_json=as_json,
            right=(3, 4),
        )


@app.command()
@grouped
def attributes(
    event: Annotated[str, typer.Option(help="Attributes of events with this name, instead of users.")] = "",
    workspace: Annotated[str, typer.Option(help="Only attributes of users in this workspace.")] = "",
    input: InputOption = "",
    prefix: Prefix = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List attributes of users, or of an event, with the kinds and times of their values."""
    with account.open() as client:
        found = client.list_attributes(event_name=event, workspace=workspace, input=input, prefix=prefix)
        if event:
            header = ["attribute", "kinds", "first", "last"]
            if not show_many(found, header, _event_attribute_row, as_json=as_json):
                _say_none("attributes", "events")
        else:
            show_many(
                found,
                ["attribute", "workspace", "kinds", "users", "first", "last"],
                _user_attribute_row,
                as_json=as_json,
                right=(3,),
            )


@app.command()
@grouped
def values(
    attribute: Annotated[
        list[str],
        typer.Argument(
            metavar="[WORKSPACE] ATTRIBUTE",
            help="The attribute's key; before it, for an attribute of users, the workspace's id or name.",
        ),
    ],
    event: Annotated[str, typer.Option(help="Values in events with this name, instead of users.")] = "",
    input: InputOption = "",
    prefix: Annotated[str, typer.Option(help="Only strings that start with this.")] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of lines.", min=1)] = VALUES_SHOWN,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """List the values of an attribute of users, or of an event, most frequent first."""
    workspace, key = _attribute(attribute, event)
    with account.open() as client:
        found = client.list_attribute_values(
            workspace,
            key,
            event_name=event,
            input=input,
            prefix=prefix,
            page_size=min(limit, PAGE_SIZE_MAX),
        )
        counted = "events" if event else "users"
        header = [counted, "value"]
        if not show_many(islice(found, limit), header, _value_row, as_json=as_json, right=(0,)):
            of = ["--event", event] if event else ["--workspace", names.last_id(workspace)]
            _say_none("values", shlex.join(["attributes", *of]))


def _say_none(wanted: str, command: str) -> None:
    """Names the command that lists what there is, since a name may be misspelt."""
    print(f"milepost: no {wanted} found. `milepost catalog {command}` lists what there is", file=sys.stderr)


def _attribute(given: list[str], event: str) -> tuple[str, str]:
    """The workspace, "" for an attribute of events, and the key."""
    if event and len(given) == 1:
        return "", given[0]
    if not event and len(given) == 2:
        return given[0], given[1]
    wanted = "ATTRIBUTE alone, with --event" if event else "WORKSPACE ATTRIBUTE, or --event NAME ATTRIBUTE"
    raise typer.BadParameter(f"expected {wanted}")


def _event_row(event: EventName) -> list[str]:
    return [
        event.name,
        word_of(EventType, event.event_type),
        names.short_input(event.input),
        number(event.events),
        number(event.users),
        *_times(event),
    ]


def _event_attribute_row(attribute: Attribute) -> list[str]:
    return [attribute.key, _kinds(attribute), *_times(attribute)]


def _user_attribute_row(attribute: Attribute) -> list[str]:
    return [
        attribute.key,
        names.last_id(attribute.workspace),
        _kinds(attribute),
        number(attribute.users),
        *_times(attribute),
    ]


def _value_row(count: ValueCount) -> list[str]:
    return [number(count.users or count.events), value_text(count.value)]


def _kinds(attribute: Attribute) -> str:
    return ", ".join(word_of(ValueKind, kind) for kind in attribute.kinds)


def _times(seen: EventName | Attribute) -> tuple[str, str]:
    """First and last time."""
    return moment(seen.first_time), moment(seen.last_time)
