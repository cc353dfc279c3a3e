"""Decides whether an import continues, starts, or is refused because it could count rows twice."""

from __future__ import annotations

import dataclasses
import shlex
from datetime import datetime

from milepost.importing.errors import CannotResume
from milepost.importing.progress import (
    FORCE,
    FROM_START,
    REMEMBERED,
    REPEATED_OPTIONS,
    SEPARATOR,
    USERS,
    Progress,
)

ID_OPTIONS = ("--input", "--input-column", "--event-id-column", "--profile")
"""Options that decide the ids of events. The service keeps ids per input."""


def begun(former: Progress | None, wanted: Progress, *, from_start: bool, force: bool) -> Progress:
    """The progress to continue from: `former` or a new one.

    Raises CannotResume if another import of the file could count rows twice. A former import that left
    nothing in the service never prevents a new one. The same import continues, even with `from_start`, unless
    it was complete.
    """
    if former is None:
        return wanted
    anew = dataclasses.replace(wanted, attempt=former.attempt + 1)
    if former.left_nothing:
        return anew
    if former.import_id == wanted.import_id and not (from_start and former.complete):
        return former
    twice = _counted_twice(former, wanted)
    if not from_start:
        raise CannotResume(_refusal(former, wanted, twice), (FROM_START, FORCE) if twice else (FROM_START,))
    if twice and not force:
        raise CannotResume(
            f"{FROM_START} would count events twice: {_state(former)}, and {twice:,} would be counted"
            f" again, {_why_twice(former, wanted)}. {FORCE} does it",
            (FORCE,),
        )
    return anew


def check_open_segment(progress: Progress, rows: int, without_event_ids: int, now: datetime) -> None:
    """Raises CannotResume if sending the open segment again, which has `rows` rows now, could count its
    events twice.
    """
    if not progress.sending_since or not without_event_ids:
        return
    age = now - datetime.fromisoformat(progress.sending_since)
    if age >= REMEMBERED or rows != progress.sending_rows:
        first, last = progress.rows, progress.rows + progress.sending_rows - 1
        raise CannotResume(
            f"segment {progress.segments + 1} (rows {first:,} to {last:,}) was sent at"
            f" {progress.sending_since} and not acknowledged. The service knows for 24 hours whether it"
            f" took a segment, and {without_event_ids:,} rows of it have no event ids: sent again, they"
            f" could count twice. Compare the number of events, then continue with {FORCE}",
            (FORCE,),
        )


def _counted_twice(former: Progress, wanted: Progress) -> int:
    """The number of events that are in the service, or may be, and that it would not recognise. Updates of
    users do not count: writing them again changes nothing.
    """
    if USERS in wanted.settings:
        return 0
    if _ids_differ(former, wanted):
        return former.accepted + former.sending_rows
    return former.without_event_ids + former.sending_without_event_ids


def _ids_differ(former: Progress, wanted: Progress) -> bool:
    return any(former.settings.get(option) != wanted.settings.get(option) for option in ID_OPTIONS)


def _why_twice(former: Progress, wanted: Progress) -> str:
    if _ids_differ(former, wanted):
        return "because event ids are known per input, and the input or the ids differ now"
    return "because they have no event ids"


def _state(former: Progress) -> str:
    """What the former import left in the service."""
    rows_are = "updates" if USERS in former.settings else "events"
    said = f"{former.accepted:,} {rows_are} of {former.rows:,} rows are in"
    if former.sending_since:
        first, last = former.rows, former.rows + former.sending_rows - 1
        said += (
            f", and rows {first:,} to {last:,}, sent at {former.sending_since} and not acknowledged, may be"
            " in as well"
        )
    return said


def _refusal(former: Progress, wanted: Progress, twice: int) -> str:
    changes = [
        f"{option} was {_quoted(former.settings.get(option))} and is {_quoted(wanted.settings.get(option))}"
        for option in sorted({*former.settings, *wanted.settings})
        if former.settings.get(option) != wanted.settings.get(option)
    ]
    has_changed = former.file != wanted.file
    if has_changed:
        changes.insert(0, "the file has changed since")
    lines = [f"was imported before, differently: {'; '.join(changes)}. {_state(former)}"]
    if not has_changed and not former.complete:
        lines.append(f"with the earlier settings it continues after row {former.rows:,}: {_command(former)}")
    if twice:
        lines.append(
            f"{FROM_START} {FORCE} imports all of it, and counts up to {twice:,} events twice,"
            f" {_why_twice(former, wanted)}"
        )
    elif USERS in wanted.settings:
        lines.append(f"{FROM_START} imports all of it; the latest time of each value wins")
    else:
        lines.append(
            f"{FROM_START} imports all of it and counts no event twice, because all have event ids; those"
            " that are in stay as they are"
        )
    return "\n  ".join(lines)


def _command(former: Progress) -> str:
    """The options of the former import, as typed in a command."""
    values = [
        (option, each)
        for option, value in former.settings.items()
        for each in (value.split(SEPARATOR) if option in REPEATED_OPTIONS else [value])
    ]
    typed = [option if each == str(True) else f"{option} {shlex.quote(each)}" for option, each in values]
    return " ".join(typed) or "the defaults"


def _quoted(value: str | None) -> str:
    return "not given" if value is None else repr(value)
