"""A journey as a tree with sizes: read from the service, drawn with rich or in plain ASCII.

The kind of each figure is visible: an estimate has a `~` before it and its bounds beside it, a size too small
to estimate is `~` alone, a failure is a warning sign with the reason, and an audience being calculated shows
progress instead of a size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil
from typing import TypeVar

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milepost import names
from milepost.cli.text import number, percent, plain_table
from milepost.client import Client
from milepost.criteria import everyone
from milepost.instants import text_of
from milepost.v1.account_pb2 import Account
from milepost.v1.audience_pb2 import (
    SIZE_KIND_CALCULATING,
    SIZE_KIND_REAL,
    SIZE_STATE_ESTIMATED,
    SIZE_STATE_EXACT,
    SIZE_STATE_FAILED,
    SIZE_STATE_PENDING,
    SIZE_STATE_TOO_SMALL,
    Audience,
    AudienceSize,
    Size,
)
from milepost.v1.audience_service_pb2 import MilestoneDraft
from milepost.v1.journey_pb2 import (
    MILESTONE_KIND_CRITERIA,
    MILESTONE_KIND_REMAINING_USERS,
    Journey,
    Milestone,
)

BAR_CELLS = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LINES = ("│  ", "   ", "├─ ", "└─ ")
_PLAIN_LINES = ("|   ", "    ", "|-- ", "`-- ")
"""What comes before a label: past a sibling, below the last one, at a sibling, at the last one."""

T = TypeVar("T")


@dataclass
class Node:
    """The start of a journey, or a milestone of it, with the one size to show."""

    label: str
    size: AudienceSize
    is_remaining: bool = False
    is_activated: bool = False
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """A picture: the journey, its tree of nodes, and the account's credits. `as_of` is the instant that was
    asked for.
    """

    journey: Journey
    start: Node
    account: Account
    as_of: datetime | None = None


@dataclass(frozen=True)
class _Row:
    node: Node
    parent: Node | None
    # For each level from the top: whether this row, or its ancestor there, is the last of its siblings.
    last_at: tuple[bool, ...]


# --- reading ---


def read_picture(client: Client, journey: str, as_of: datetime | None = None) -> Picture:
    """Reads a journey, its milestones and the size that each shows, or its exact size at `as_of`. The
    start's size is the population.
    """
    if as_of is not None:
        return _read_funnel(client, journey, as_of)
    found = client.get_journey(journey)
    milestones = list(client.list_milestones(found.name))
    audiences = {each.name: client.get_audience(each.audience) for each in milestones}
    nodes = [
        _node(each, audiences[each.name].size, is_activated=audiences[each.name].activated)
        for each in milestones
    ]
    start = Node("Start", _start_size(client, found, list(audiences.values())))
    start.children = _joined(milestones, nodes)
    return Picture(found, start, client.get_account())


def _read_funnel(client: Client, journey: str, as_of: datetime) -> Picture:
    funnel = client.get_journey_funnel(journey, as_of=as_of)
    milestones = [
        Milestone(
            name=step.milestone,
            display_name=step.display_name or names.last_id(step.milestone),
            parent_milestone=step.parent_milestone,
            kind=step.kind,
        )
        for step in funnel.steps
    ]
    nodes = [
        _node(milestone, _exact(step.users), is_activated=step.activated)
        for milestone, step in zip(milestones, funnel.steps, strict=True)
    ]
    start = Node("Start", _exact(funnel.population), children=_joined(milestones, nodes))
    return Picture(funnel.journey, start, client.get_account(), as_of)


def _title(journey: Journey) -> str:
    """The name to show for a journey: a caller of the service need not give one."""
    return journey.display_name or names.last_id(journey.name)


def _node(milestone: Milestone, size: AudienceSize, *, is_activated: bool) -> Node:
    return Node(
        milestone.display_name or names.last_id(milestone.name),
        size,
        milestone.kind == MILESTONE_KIND_REMAINING_USERS,
        is_activated,
    )


def _joined(milestones: Sequence[Milestone], nodes: Sequence[Node]) -> list[Node]:
    """The nodes at the start, each with its children. Milestones come parents before children."""
    start: list[Node] = []
    children = {"": start}
    for milestone, node in zip(milestones, nodes, strict=True):
        children[milestone.name] = node.children
        children[milestone.parent_milestone].append(node)
    return start


def _exact(users: int) -> AudienceSize:
    return AudienceSize(size=Size(state=SIZE_STATE_EXACT, users=users))


def _start_size(client: Client, journey: Journey, audiences: Sequence[Audience]) -> AudienceSize:
    if audiences:
        population = audiences[0].size.population
    else:
        draft = MilestoneDraft(journey=journey.name, kind=MILESTONE_KIND_CRITERIA, criteria=everyone())
        population = client.estimate(draft).population
    return _exact(population)


# --- sizes as text ---


def size_text(size: AudienceSize, *, plain: bool) -> str:
    """The size as shown: 1,490, ~1,490, ~, calculating 40%, or a warning sign."""
    if size.size.state == SIZE_STATE_FAILED:
        return "!" if plain else "⚠"
    if size.kind == SIZE_KIND_CALCULATING or size.size.state == SIZE_STATE_PENDING:
        return f"calculating {size.progress:.0%}"
    if size.size.state == SIZE_STATE_TOO_SMALL:
        return "~"
    mark = "~" if size.size.state == SIZE_STATE_ESTIMATED else ""
    return mark + number(size.size.users)


def size_note(size: AudienceSize) -> str:
    """The detail beside a size: bounds of an estimate, movement of a real size, the reason of a failure."""
    if size.size.state == SIZE_STATE_FAILED:
        return size.size.failure
    if size.size.state == SIZE_STATE_ESTIMATED:
        return f"between {number(size.size.lower)} and {number(size.size.upper)}"
    if size.size.state == SIZE_STATE_TOO_SMALL:
        return f"at most {number(size.size.upper)}"
    if size.kind == SIZE_KIND_REAL:
        return f"+{number(size.added_last_day)} -{number(size.dropped_last_day)} in 24 h"
    return ""


def fail_if_any_size_failed(picture: Picture) -> None:
    """Ends the command with status 1 when a size of a picture could not be computed: scripts see it too."""
    failed = [row.node.label for row in _rows(picture.start) if row.node.size.size.state == SIZE_STATE_FAILED]
    if failed:
        what = "1 size" if len(failed) == 1 else f"{number(len(failed))} sizes"
        print(f"milepost: {what} could not be computed: {', '.join(failed)}", file=sys.stderr)
        raise typer.Exit(1)


def bounds_text(picture: Picture) -> str:
    """The confidence of the bounds in a picture, one by one and together; "" when every size is known."""
    sampled = sum(_is_sampled(row.node.size) for row in _rows(picture.start))
    if not sampled:
        return ""
    each = "bounds hold the true size in 95 % of cases"
    if sampled == 1:
        return each
    return f"{each} each, {'both' if sampled == 2 else f'all {number(sampled)}'} together less often"


def _is_sampled(size: AudienceSize) -> bool:
    return size.kind != SIZE_KIND_CALCULATING and size.size.state in (
        SIZE_STATE_ESTIMATED,
        SIZE_STATE_TOO_SMALL,
    )


def foot_lines(picture: Picture) -> list[str]:
    """The lines below a picture: its instant, credits, and the confidence of bounds."""
    lines = (as_of_text(picture), credits_text(picture.account), bounds_text(picture))
    return [line for line in lines if line]


def as_of_text(picture: Picture) -> str:
    """as of 2026-11-01T00:00:00Z; "" when no instant was asked for."""
    return "" if picture.as_of is None else f"as of {text_of(picture.as_of)}"


def credits_text(account: Account) -> str:
    """0 of 100 activated audiences."""
    used, limit = number(account.active_audience_count), number(account.active_audience_limit)
    return f"{used} of {limit} activated audiences"


def _users(node: Node) -> int | None:
    is_known = node.size.kind != SIZE_KIND_CALCULATING and node.size.size.state in (
        SIZE_STATE_EXACT,
        SIZE_STATE_ESTIMATED,
    )
    return node.size.size.users if is_known else None


def share_of(node: Node, of: Node | None) -> float | None:
    """The share of another node's users, 0 to 1; None without both sizes, or when the other node is empty."""
    users, whole = _users(node), None if of is None else _users(of)
    if users is None or not whole:
        return None
    return min(users / whole, 1.0)


def _notes(node: Node) -> str:
    active = "active" if node.is_activated else ""
    return ", ".join(part for part in (active, size_note(node.size)) if part)


def _rows(node: Node, parent: Node | None = None, last_at: tuple[bool, ...] = ()) -> Iterator[_Row]:
    yield _Row(node, parent, last_at)
    for child in node.children:
        yield from _rows(child, node, (*last_at, child is node.children[-1]))


def inputs_text(journey: Journey) -> str:
    """grocery/store, grocery/panel."""
    if not journey.inputs:
        return "all inputs"
    parts = [name.split("/") for name in journey.inputs]
    return ", ".join(f"{part[3]}/{part[5]}" for part in parts)


# --- drawing ---


def draw_plain(picture: Picture) -> str:
    """The picture in ASCII."""
    lines = []
    for row in _rows(picture.start):
        share = share_of(row.node, row.parent)
        bar = share_of(row.node, picture.start)
        lines.append(
            [
                branch(row.last_at, is_terminal=False) + row.node.label,
                size_text(row.node.size, plain=True),
                "" if share is None else percent(share),
                "" if bar is None else "#" * ceil(bar * BAR_CELLS),
                _notes(row.node),
            ]
        )
    head = f"{_title(picture.journey)} ({picture.journey.name})\ninputs: {inputs_text(picture.journey)}"
    tree = plain_table(["milestone", "users", "of parent", "", ""], lines, right=(1, 2))
    return "\n\n".join((head, tree, "\n".join(foot_lines(picture))))


def draw_rich(picture: Picture) -> RenderableType:
    """The picture with colour, box characters and bars of eighths."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("milestone", no_wrap=True)
    table.add_column("users", justify="right", no_wrap=True)
    table.add_column("of parent", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", style="dim", overflow="fold")
    for row in _rows(picture.start):
        share = share_of(row.node, row.parent)
        table.add_row(
            _rich_label(row),
            Text(size_text(row.node.size, plain=False), style=_size_style(row.node.size)),
            Text("" if share is None else percent(share), style="dim"),
            _rich_bar(row.node, picture.start),
            Text(_notes(row.node)),
        )
    title = Text.assemble((_title(picture.journey), "bold"), "  ", (picture.journey.name, "dim"))
    inputs = Text(f"inputs: {inputs_text(picture.journey)}", style="dim")
    return Group(title, inputs, Text(), table, Text(), Text("\n".join(foot_lines(picture))))


def branch(last_at: Sequence[bool], *, is_terminal: bool) -> str:
    """The lines before a label; `last_at` says for each level whether it is the last of its siblings."""
    if not last_at:
        return ""
    through, empty, fork, end = _LINES if is_terminal else _PLAIN_LINES
    above = "".join(empty if is_last else through for is_last in last_at[:-1])
    return above + (end if last_at[-1] else fork)


def in_tree_order(
    items: Iterable[T], name: Callable[[T], str], parent: Callable[[T], str]
) -> Iterator[tuple[T, tuple[bool, ...]]]:
    """The items of a tree, parents before children; with each, for its level and those above, whether it is
    the last of its siblings. The parent of an item at the top has no name.
    """
    children: dict[str, list[T]] = {}
    for item in items:
        children.setdefault(parent(item), []).append(item)

    def below(above: str, last_at: tuple[bool, ...]) -> Iterator[tuple[T, tuple[bool, ...]]]:
        siblings = children.get(above, [])
        for item in siblings:
            place = (*last_at, item is siblings[-1])
            yield item, place
            yield from below(name(item), place)

    return below("", ())


def _rich_label(row: _Row) -> Text:
    lines = branch(row.last_at, is_terminal=True)
    mark, style = ("○ ", "dim") if row.node.is_remaining else ("● ", "cyan")
    if row.node.is_activated:
        style = "bold green"
    label_style = "bold" if row.parent is None else "italic" if row.node.is_remaining else ""
    return Text.assemble((lines, "dim"), (mark, style), (row.node.label, label_style))


def _size_style(size: AudienceSize) -> str:
    if size.size.state == SIZE_STATE_FAILED:
        return "bold red"
    return "yellow" if size.size.state != SIZE_STATE_EXACT or size.kind == SIZE_KIND_CALCULATING else "bold"


def _rich_bar(node: Node, start: Node) -> Text:
    share = share_of(node, start)
    if share is None:
        return Text()
    style = "green" if node.is_activated else "bright_black" if node.is_remaining else "cyan"
    return Text(bar_of_eighths(share, BAR_CELLS), style=style)


def bar_of_eighths(share: float, cells: int) -> str:
    """A bar of `share` of `cells` characters, in eighths of one; at least an eighth for any share above 0."""
    eighths = ceil(share * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")
