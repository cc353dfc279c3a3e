"""A journey's difference drawn as a tree with +, ~ and -, and the sizes before and after."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from google.protobuf import json_format
from rich.console import Console
from rich.table import Table
from rich.text import Text

from milepost.cli.text import number, plain_table
from milepost.cli.tree import branch
from milepost.documents import dumps_criteria
from milepost.journeys import JourneyDifference, Mark, MilestoneDifference, MilestoneDocument

_STYLES = {Mark.SAME: "", Mark.CREATED: "green", Mark.CHANGED: "yellow", Mark.DELETED: "red"}
_CHANGES = {Mark.SAME: "same", Mark.CREATED: "created", Mark.CHANGED: "changed", Mark.DELETED: "deleted"}
_LINE_STYLES = {"+": "green", "-": "red"}
_HEADER = ("milestone", "id", "before", "after", "change", "")
_RIGHT = (2, 3, 4)
_ABSENT = "-"
CONTEXT_LINES = 2


def print_difference(
    difference: JourneyDifference,
    name: str,
    out: Console,
    *,
    same_as: str,
    where: Callable[[str], str] = str,
) -> None:
    """Prints the journey `name` as it changes. An empty difference takes one line, which says what the
    journey is the same as. `where` gives the place of a path in the document.
    """
    if difference.is_empty:
        print(f"no changes: {name} matches {same_as}", file=out.file)
    else:
        _print_changes(difference, name, out)
    for path, description in difference.warnings:
        print(f"warning: {where(path)}: {description}", file=out.file)


def counts_text(difference: JourneyDifference) -> str:
    """1 milestone created, 2 changed, 1 deleted."""
    counts = difference.counts()
    created = counts[Mark.CREATED]
    return (
        f"{created} {'milestone' if created == 1 else 'milestones'} created,"
        f" {counts[Mark.CHANGED]} changed, {counts[Mark.DELETED]} deleted"
    )


def tree_of_difference(difference: JourneyDifference, name: str) -> dict[str, Any]:
    """The difference as JSON: what --json prints."""
    return {
        "journey": name,
        "change": _CHANGES[difference.mark],
        "displayName": difference.after.display_name,
        "displayNameBefore": None if difference.before is None else difference.before.display_name,
        "inputs": list(difference.after.inputs),
        "inputsBefore": None if difference.before is None else list(difference.before.inputs),
        "usersBefore": difference.population_before,
        "usersAfter": difference.population_after,
        "milestones": list(map(_milestone_tree, difference.milestones)),
        "warnings": [{"path": path, "description": text} for path, text in difference.warnings],
    }


def _milestone_tree(milestone: MilestoneDifference) -> dict[str, Any]:
    before, after = milestone.before, milestone.after
    return {
        "id": milestone.id,
        "change": _CHANGES[milestone.mark],
        "moved": milestone.is_moved,
        "displayName": None if after is None else after.display_name,
        "displayNameBefore": None if before is None else before.display_name,
        "criteria": _criteria_tree(after),
        "criteriaBefore": _criteria_tree(before),
        "usersBefore": milestone.users_before,
        "usersAfter": milestone.users_after,
        "activeConnections": list(milestone.active_connections),
        "children": list(map(_milestone_tree, milestone.children)),
    }


def _criteria_tree(milestone: MilestoneDocument | None) -> dict[str, Any] | None:
    """Criteria in their proto3 JSON form; None of remaining users, and where there is no milestone."""
    if milestone is None or milestone.criteria is None:
        return None
    tree: dict[str, Any] = json_format.MessageToDict(milestone.criteria)
    return tree


def _print_changes(difference: JourneyDifference, name: str, out: Console) -> None:
    _print_line(f"{difference.mark} {difference.after.display_name} ({name})", _STYLES[difference.mark], out)
    for line in _journey_notes(difference):
        print(f"  {line}", file=out.file)
    print(file=out.file)
    rows = [("  Start", "", *_sizes(difference.population_before, difference.population_after), "")]
    styles = [""]
    for milestone, last_at in _rows(difference.milestones):
        lines = branch(last_at, is_terminal=out.is_terminal)
        rows.append(
            (
                f"{milestone.mark} {lines}{milestone.document.display_name or milestone.id}",
                milestone.id,
                *_sizes(milestone.users_before, milestone.users_after),
                ", ".join(_notes(milestone)),
            )
        )
        styles.append(_STYLES[milestone.mark])
    _print_table(rows, styles, out)
    for milestone, _ in _rows(difference.milestones):
        _print_criteria(milestone, out)
    print(file=out.file)


def _print_table(rows: Sequence[Sequence[str]], styles: Sequence[str], out: Console) -> None:
    if not out.is_terminal:
        print(plain_table(_HEADER, rows, _RIGHT), file=out.file)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for index, title in enumerate(_HEADER):
        table.add_column(
            title, justify="right" if index in _RIGHT else "left", no_wrap=index < len(_HEADER) - 1
        )
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*(Text(cell, style=style) for cell in row))
    out.print(table)


def _print_criteria(milestone: MilestoneDifference, out: Console) -> None:
    """The lines of the criteria that change, a few around them."""
    if not milestone.has_other_criteria:
        return
    print(f"\n{milestone.id}: criteria", file=out.file)
    before, after = (
        [] if each is None or each.criteria is None else dumps_criteria(each.criteria).splitlines()
        for each in (milestone.before, milestone.after)
    )
    _, _, *lines = difflib.unified_diff(before, after, n=CONTEXT_LINES, lineterm="")
    for line in lines:
        if not line.startswith("@@"):
            _print_line(f"  {line[0]} {line[1:]}", _LINE_STYLES.get(line[0], "dim"), out)


def _print_line(line: str, style: str, out: Console) -> None:
    if out.is_terminal:
        out.print(Text(line, style=style), soft_wrap=True)
    else:
        print(line.rstrip(), file=out.file)


def _journey_notes(difference: JourneyDifference) -> Iterator[str]:
    before, after = difference.before, difference.after
    if before is None:
        yield "a new journey"
        return
    if difference.is_renamed:
        yield f"renamed from {before.display_name!r}"
    if difference.has_other_inputs:
        yield f"inputs: {_inputs_text(after.inputs)}; before: {_inputs_text(before.inputs)}"


def _inputs_text(inputs: Sequence[str]) -> str:
    return ", ".join(inputs) or "all"


def _notes(milestone: MilestoneDifference) -> Iterator[str]:
    if milestone.has_other_criteria:
        yield "criteria"
    if milestone.is_renamed and milestone.before is not None:
        yield f"renamed from {milestone.before.display_name!r}"
    if milestone.is_moved:
        yield "moved"
    if milestone.active_connections:
        connections = ", ".join(milestone.active_connections)
        yield f"activated: every member exits, deleted with connection {connections}"


def _sizes(before: int | None, after: int | None) -> tuple[str, str, str]:
    change = f"{after - before:+,}" if before is not None and after is not None and before != after else ""
    shown = [_ABSENT if users is None else number(users) for users in (before, after)]
    return shown[0], shown[1], change


def _rows(
    milestones: Sequence[MilestoneDifference], above: tuple[bool, ...] = ()
) -> Iterator[tuple[MilestoneDifference, tuple[bool, ...]]]:
    for index, milestone in enumerate(milestones):
        last_at = (*above, index == len(milestones) - 1)
        yield milestone, last_at
        yield from _rows(milestone.children, last_at)
