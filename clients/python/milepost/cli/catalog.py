"""`milepost catalog`: what data came with, to choose from and to spot an input that is set up wrongly."""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated

import typer

from milepost.cli.connection import (
    DEFAULT_ACCOUNT,
    DEFAULT_TARGET,
    AccountId,
    ApiKey,
    Group,
    Target,
    open_client,
)
from milepost.cli.text import console, number, printable, show_table
from milepost.v1.catalog_service_pb2 import Attribute, EventName, ValueKind
from milepost.v1.data_pb2 import EventType
from milepost.v1.value_pb2 import Value
from milepost.values import from_value, to_datetime

VALUES_SHOWN = 20
PAGE_SIZE_MAX = 1_000

app = typer.Typer(help="List the events, attributes and values in the data.", no_args_is_help=True, cls=Group)


def _input(text: str) -> str:
    if text and "/" not in text:
        raise typer.BadParameter(f"{text!r} is not of the form WORKSPACE/INPUT")
    return text


Prefix = Annotated[str, typer.Option(help="Only names that start with this.")]
Input = Annotated[str, typer.Option(help="Only data from this WORKSPACE/INPUT.", callback=_input)]


@app.command()
def events(
    prefix: Prefix = "",
    input: Input = "",
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """List event names with their figures, by input and type."""
    with open_client(target, account, api_key) as client:
        rows = [
            [
                printable(event.name),
                _word(EventType.Name(event.type), "EVENT_TYPE_"),
                _short_input(event.input),
                number(event.events),
                number(event.users),
                *_times(event),
            ]
            for event in client.list_event_names(prefix=prefix, input=input)
        ]
    show_table(console(), ["event", "type", "input", "events", "users", "first", "last"], rows, right=(3, 4))


@app.command()
def attributes(
    event: Annotated[str, typer.Option(help="Attributes of events with this name, instead of users.")] = "",
    workspace: Annotated[str, typer.Option(help="Only attributes of users in this workspace.")] = "",
    input: Input = "",
    prefix: Prefix = "",
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """List attributes of users, or of an event, with the kinds and times of their values."""
    with open_client(target, account, api_key) as client:
        found = list(
            client.list_attributes(event_name=event, workspace=workspace, input=input, prefix=prefix)
        )
    if event:
        rows = [[printable(each.key), _kinds(each), *_times(each)] for each in found]
        show_table(console(), ["attribute", "kinds", "first", "last"], rows)
        return
    rows = [
        [
            printable(each.key),
            each.workspace.rpartition("/")[2],
            _kinds(each),
            number(each.users),
            *_times(each),
        ]
        for each in found
    ]
    show_table(console(), ["attribute", "workspace", "kinds", "users", "first", "last"], rows, right=(3,))


@app.command()
def values(
    workspace: Annotated[str, typer.Argument(help="The workspace's id or name.")],
    attribute: Annotated[str, typer.Argument(help="The attribute's key.")],
    prefix: Annotated[str, typer.Option(help="Only strings that start with this.")] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of lines.", min=1)] = VALUES_SHOWN,
    target: Target = DEFAULT_TARGET,
    account: AccountId = DEFAULT_ACCOUNT,
    api_key: ApiKey = "",
) -> None:
    """List the values of a user attribute, most frequent first."""
    with open_client(target, account, api_key) as client:
        found = client.list_attribute_values(
            workspace, attribute, prefix=prefix, page_size=min(limit, PAGE_SIZE_MAX)
        )
        rows = [[number(count.users), _value(count.value)] for count in islice(found, limit)]
    show_table(console(), ["users", "value"], rows, right=(0,))


def _word(name: str, prefix: str) -> str:
    return name.removeprefix(prefix).lower().replace("_", " ")


def _kinds(attribute: Attribute) -> str:
    return ", ".join(_word(ValueKind.Name(kind), "VALUE_KIND_") for kind in attribute.kinds)


def _times(seen: EventName | Attribute) -> tuple[str, str]:
    """First and last time, in UTC and to the minute."""
    first, last = to_datetime(seen.first_time), to_datetime(seen.last_time)
    return f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}"


def _short_input(name: str) -> str:
    _, _, _, workspace, _, input_id = name.split("/")
    return f"{workspace}/{input_id}"


def _value(value: Value) -> str:
    """Strings in quotes, so that "12" is told from 12; times in RFC 3339."""
    if value.WhichOneof("kind") == "time_value":
        return value.time_value.ToJsonString()
    plain = from_value(value)
    if isinstance(plain, float):
        return repr(plain).removesuffix(".0")
    return printable(json.dumps(plain, ensure_ascii=False))
