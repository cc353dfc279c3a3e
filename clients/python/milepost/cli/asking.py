"""Options of the commands that ask questions, and the times and durations that people write."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, TypeVar

import typer

from milepost.durations import duration_of
from milepost.instants import instant_of

T = TypeVar("T")


def _parsed(parse: Callable[[str], T]) -> Callable[[str | T], T]:
    """The parser of an option: a ValueError becomes the option's message. A default passes through."""

    def parsed(text: str | T) -> T:
        if not isinstance(text, str):
            return text
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parsed


def _length(text: str) -> timedelta:
    length = duration_of(text).ToTimedelta()
    if length < timedelta(0):
        raise ValueError(f"must not be negative: {text!r}")
    return length


to_instant = _parsed(instant_of)
to_length = _parsed(_length)
"""A parser of options that are durations, as `milepost.durations` reads them."""
to_duration_message = _parsed(duration_of)
"""The same, for options that are fields of messages."""

AsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        metavar="TIME",
        parser=to_instant,
        help="Answer for this instant, like 2026-11-01 or 2026-11-01T10:00+01:00. Default: now.",
    ),
]
