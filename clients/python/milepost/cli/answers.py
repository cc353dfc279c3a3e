"""What a command answers: tables for people, and with --json the contract's messages for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeVar

import typer
from google.protobuf import json_format
from google.protobuf.message import Message

from milepost.cli.text import console, printable, show_facts, show_table

AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: the contract's message in its proto3 form."),
]

Shown = TypeVar("Shown", bound=Message)
Facts = Sequence[tuple[str, str]]
"""What there is to say of one thing: a label and a value each. Those without a value are left out."""


def show_json(message: Message) -> None:
    """Prints a message as one JSON object."""
    print(json.dumps(tree_of(message), indent=2, ensure_ascii=False))


def show_json_array(messages: Iterable[Message]) -> None:
    """Prints messages as one JSON array of objects."""
    print(json.dumps([tree_of(each) for each in messages], indent=2, ensure_ascii=False))


def show_one(message: Shown, facts: Callable[[Shown], Facts], *, as_json: bool) -> None:
    """Prints one message: its facts, or one JSON object."""
    if as_json:
        show_json(message)
    else:
        show_facts(console(), [(label, printable(value)) for label, value in facts(message)])


def show_many(
    messages: Iterable[Shown],
    header: Sequence[str],
    row: Callable[[Shown], Sequence[str]],
    *,
    as_json: bool,
    right: Sequence[int] = (),
) -> int:
    """Prints messages: one line of a table each, or a JSON array of objects. The columns in `right` (from 0)
    are numbers. Returns how many there were.
    """
    shown = list(messages)
    if as_json:
        show_json_array(shown)
    else:
        show_table(console(), header, [list(map(printable, row(each))) for each in shown], right)
    return len(shown)


def json_line(message: Message) -> str:
    """The message on one line, for streams."""
    return json.dumps(tree_of(message), ensure_ascii=False)


def tree_of(message: Message) -> dict[str, Any]:
    """The message in its proto3 JSON form, with fields that have their default value."""
    tree: dict[str, Any] = json_format.MessageToDict(message, always_print_fields_with_no_presence=True)
    return tree
