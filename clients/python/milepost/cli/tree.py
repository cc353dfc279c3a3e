"""A journey as a tree with sizes: read from the service, drawn with rich or in plain ASCII.

Which figure is which is never in doubt: an estimate has a `~` before it and its bounds beside it, a size too
small to estimate is `~` alone, a failure is a warning sign with the reason, and an audience being calculated
shows progress instead of a size.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from milepost import names
from milepost.cli.text import number, percent, plain_table
from milepost.client import Client
from milepost.criteria import everyone
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
    """What is drawn: the journey, its tree of nodes, and the account's credits."""

    journey: Journey
    start: Node
    account: Account


@dataclass(frozen=True)
class _Row:
    node: Node
    parent: Node | None
    # For each level from the top: whether this row, or its ancestor there, is the last of its siblings.
    last_at: tuple[bool, ...]


# --- reading ---


def read_picture(client: Client, journey: str) -> Picture:
    """Reads a journey, its milestones and the size of each; the start's size is the population."""
    found = client.get_journey(journey)
    milestones = list(client.list_milestones(found.name))
    audiences = {each.name: client.get_audience(each.audience) for each in milestones}
    children: dict[str, list[Milestone]] = defaultdict(list)
    for milestone in milestones:
        children[milestone.parent_milestone].append(milestone)
    start = Node("Start", _start_size(client, found, list(audiences.values())))
    start.children = _nodes(children, audiences, "")
    return Picture(found, start, client.get_account())


def _nodes(children: dict[str, list[Milestone]], audiences: dict[str, Audience], parent: str) -> list[Node]:
    return [
        Node(
            milestone.display_name or names.last_id(milestone.name),
            audiences[milestone.name].size,
            milestone.kind == MILESTONE_KIND_REMAINING_USERS,
            audiences[milestone.name].activated,
            _nodes(children, audiences, milestone.name),
        )
        for milestone in children.get(parent, [])
    ]


def _start_size(client: Client, journey: Journey, audiences: Sequence[Audience]) -> AudienceSize:
    if audiences:
        population = audiences[0].size.population
    else:
        draft = MilestoneDraft(journey=journey.name, kind=MILESTONE_KIND_CRITERIA, criteria=everyone())
        population = client.estimate(draft).population
    return AudienceSize(size=Size(state=SIZE_STATE_EXACT, users=population))


# --- what a size says ---


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
    """What belongs beside it: bounds of an estimate, movement of a real size, the reason of a failure."""
    if size.size.state == SIZE_STATE_FAILED:
        return size.size.failure
    if size.size.state == SIZE_STATE_ESTIMATED:
        return f"between {number(size.size.lower)} and {number(size.size.upper)}"
    if size.size.state == SIZE_STATE_TOO_SMALL:
        return f"at most {number(size.size.upper)}"
    if size.kind == SIZE_KIND_REAL:
        return f"+{number(size.added_last_day)} -{number(size.dropped_last_day)} in 24 h"
    return ""


def bounds_text(picture: Picture) -> str:
    """What the bounds in a picture hold, one by one and together; "" when every size is known."""
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
    """What belongs below a picture: the credits, and what the bounds of estimates say."""
    return [line for line in (credits_text(picture.account), bounds_text(picture)) if line]


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
    """The share of another node's users, 0 to 1; None without both sizes, or when nobody is there."""
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
                branch(row.last_at, "|   ", "    ", "|-- ", "`-- ") + row.node.label,
                size_text(row.node.size, plain=True),
                "" if share is None else percent(share),
                "" if bar is None else "#" * ceil(bar * BAR_CELLS),
                _notes(row.node),
            ]
        )
    head = f"{picture.journey.display_name} ({picture.journey.name})\ninputs: {inputs_text(picture.journey)}"
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
    title = Text.assemble((picture.journey.display_name, "bold"), "  ", (picture.journey.name, "dim"))
    inputs = Text(f"inputs: {inputs_text(picture.journey)}", style="dim")
    return Group(title, inputs, Text(), table, Text(), Text("\n".join(foot_lines(picture))))


def branch(last_at: tuple[bool, ...], through: str, empty: str, fork: str, end: str) -> str:
    """The lines before a label; `last_at` says for each level whether it is the last of its siblings."""
    if not last_at:
        return ""
    above = "".join(empty if is_last else through for is_last in last_at[:-1])
    return above + (end if last_at[-1] else fork)


def _rich_label(row: _Row) -> Text:
    lines = branch(row.last_at, "│  ", "   ", "├─ ", "└─ ")
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
