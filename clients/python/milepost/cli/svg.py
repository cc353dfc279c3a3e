"""A journey drawn as SVG: from the start on the left, one column per level, the siblings of a split in one
column.

A milestone is a card with its size, its share of the parent and a bar of its share of the start. The first
sibling stands level with its parent, so that the main path is a straight line with the other branches below
it. Remaining users are dashed, activated audiences green; an estimate has a `~`, its bounds, and a whisker on
the bar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milepost.cli.drawing import (
    BOLD,
    FONT,
    INK,
    LINE,
    PAPER,
    QUIET,
    TRACK,
    clipped,
    dashed,
    shown,
    text_at,
    text_width,
)
from milepost.cli.text import percent
from milepost.cli.tree import (
    Node,
    Picture,
    as_of_text,
    bounds_text,
    credits_text,
    inputs_text,
    share_of,
    size_note,
    size_text,
)
from milepost.v1.audience_pb2 import SIZE_STATE_ESTIMATED, SIZE_STATE_FAILED

MARGIN = 28
CARD_WIDTH = 248
CARD_HEIGHT = 104
COLUMN_GAP = 56
ROW_GAP = 18
PADDING = 14
TITLE_HEIGHT = 64
LEGEND_HEIGHT = 44
LEGEND_LINE = 20
BAR_HEIGHT = 7
BAR_LEAST = 2
CORNER = 8
TITLE_LINES_MAX = 2
WIDTH_MIN = 640

WARNING = "#b42318"


@dataclass(frozen=True)
class _Look:
    border: str
    fill: str
    bar: str
    dashes: str = ""


_START = _Look(border="#52606d", fill="#f5f7fa", bar="#7b8794")
_CRITERIA = _Look(border="#2b6cb0", fill="#ffffff", bar="#3b82c4")
_REMAINING = _Look(border="#7b8794", fill="#fafbfc", bar="#9aa5b1", dashes="5 4")
_ACTIVATED = _Look(border="#1a7f4b", fill="#f0faf4", bar="#2f9e63")
_ACTIVATED_REMAINING = _Look(border="#1a7f4b", fill="#f0faf4", bar="#2f9e63", dashes="5 4")


@dataclass(frozen=True)
class _Card:
    """A node and the position of its upper left corner; `row` and `column` count from 0."""

    node: Node
    parent: _Card | None
    column: int
    row: int

    @property
    def x(self) -> int:
        return MARGIN + self.column * (CARD_WIDTH + COLUMN_GAP)

    @property
    def y(self) -> int:
        return MARGIN + TITLE_HEIGHT + self.row * (CARD_HEIGHT + ROW_GAP)

    @property
    def middle(self) -> int:
        return self.y + CARD_HEIGHT // 2


def draw_svg(picture: Picture) -> str:
    """The picture as an SVG document."""
    cards = list(_placed(picture.start))
    width = max(WIDTH_MIN, max(card.x for card in cards) + CARD_WIDTH + MARGIN)
    bottom = max(card.y for card in cards) + CARD_HEIGHT
    height = bottom + LEGEND_HEIGHT + MARGIN
    name = picture.journey.display_name or picture.journey.name
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}"'
        f' viewBox="0 0 {width} {height}" role="img" font-family="{FONT}" fill="{INK}">',
        f"<title>{shown(name)}</title>",
        f'<rect width="{width}" height="{height}" fill="{PAPER}"/>',
        *_heading(picture, name, width),
        *(_link(card) for card in cards if card.parent),
        *(line for card in cards for line in _card(card, picture.start)),
        *_legend(picture, bottom + 34, width),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _placed(node: Node) -> Iterator[_Card]:
    """Positions every node: a leaf takes a new row, a parent the row of its first child."""
    rows_taken = 0

    def place(node: Node, parent: _Card | None) -> Iterator[_Card]:
        nonlocal rows_taken
        card = _Card(node, parent, parent.column + 1 if parent else 0, rows_taken)
        yield card
        for child in node.children:
            yield from place(child, card)
        if not node.children:
            rows_taken += 1

    yield from place(node, None)


# --- parts ---


def _heading(picture: Picture, name: str, width: int) -> Iterator[str]:
    room = width - 2 * MARGIN
    yield text_at(MARGIN, MARGIN + 18, clipped(name, room / BOLD, 20), 20, weight="bold")
    inputs = ", ".join(filter(None, [f"inputs: {inputs_text(picture.journey)}", as_of_text(picture)]))
    yield text_at(MARGIN, MARGIN + 40, clipped(inputs, room, 12), 12, fill=QUIET)


def _link(card: _Card) -> str:
    """From the right side of the parent to the left side of the card, with a bend halfway."""
    assert card.parent is not None
    start, end = card.parent.x + CARD_WIDTH, card.x
    look = f'fill="none" stroke="{LINE}" stroke-width="2"' + dashed("5 4" if card.node.is_remaining else "")
    if card.middle == card.parent.middle:
        return f'<path d="M{start} {card.middle}H{end}" {look}/>'
    bend = start + COLUMN_GAP // 2
    return (
        f'<path d="M{bend - CORNER} {card.parent.middle}Q{bend} {card.parent.middle} {bend}'
        f" {card.parent.middle + CORNER}V{card.middle - CORNER}Q{bend} {card.middle} {bend + CORNER}"
        f' {card.middle}H{end}" {look}/>'
    )


def _card(card: _Card, start: Node) -> Iterator[str]:
    node, look = card.node, _look(card)
    x, inner = card.x + PADDING, CARD_WIDTH - 2 * PADDING
    yield f"<g><title>{shown(_tooltip(card))}</title>"
    yield (
        f'<rect x="{card.x}" y="{card.y}" width="{CARD_WIDTH}" height="{CARD_HEIGHT}" rx="{CORNER}"'
        f' fill="{look.fill}" stroke="{look.border}" stroke-width="1.5"{dashed(look.dashes)}/>'
    )
    badge = 58 if node.is_activated else 0
    style = "italic" if node.is_remaining else ""
    lines = _wrapped(node.label, (inner - badge) / BOLD, 13)
    for index, line in enumerate(lines):
        yield text_at(x, card.y + 22 + 16 * index, line, 13, weight="bold", style=style)
    if node.is_activated:
        yield from _badge(card.x + CARD_WIDTH - 10, card.y + 10)
    yield from _size(card, x, inner)
    yield from _bar(node, start, look, x, card.y + CARD_HEIGHT - PADDING - BAR_HEIGHT + 2, inner)
    yield "</g>"


def _look(card: _Card) -> _Look:
    if card.node.is_activated:
        return _ACTIVATED_REMAINING if card.node.is_remaining else _ACTIVATED
    if card.node.is_remaining:
        return _REMAINING
    return _CRITERIA if card.parent else _START


def _badge(right: int, top: int) -> Iterator[str]:
    yield (
        f'<rect x="{right - 56}" y="{top}" width="56" height="17" rx="8.5" fill="{_ACTIVATED.border}"/>'
        + text_at(right - 28, top + 12, "active", 11, fill=PAPER, anchor="middle", weight="bold")
    )


def _size(card: _Card, x: int, inner: int) -> Iterator[str]:
    """The size, the share of the parent to its right, and details of the size below."""
    node, y = card.node, card.y + 61
    if node.size.size.state == SIZE_STATE_FAILED:
        yield _warning_sign(x, y)
        yield text_at(x + 22, y, clipped(size_note(node.size), inner - 22, 11), 11, fill=WARNING)
        return
    yield text_at(x, y, size_text(node.size, plain=True), 16, weight="bold")
    share = share_of(node, card.parent.node if card.parent else None)
    if share is not None:
        yield text_at(x + inner, y, f"{percent(share)} of parent", 11, fill=QUIET, anchor="end")
    yield text_at(x, y + 15, clipped(size_note(node.size), inner, 10), 10, fill=QUIET)


def _warning_sign(x: int, y: int) -> str:
    return (
        f'<path d="M{x + 8} {y - 13}L{x + 16} {y + 2}H{x}Z" fill="#fde8e6" stroke="{WARNING}"'
        f' stroke-width="1.5" stroke-linejoin="round"/>'
        f'<path d="M{x + 8} {y - 8}v5m0 2v1" stroke="{WARNING}" stroke-width="1.6" fill="none"/>'
    )


def _bar(node: Node, start: Node, look: _Look, x: int, y: int, inner: int) -> Iterator[str]:
    """A bar for the share of the start; for an estimate with a whisker from the lower to the upper bound."""
    share = share_of(node, start)
    if share is None:
        return
    rounding = f'height="{BAR_HEIGHT}" rx="{BAR_HEIGHT / 2}"'
    yield f'<rect x="{x}" y="{y}" width="{inner}" {rounding} fill="{TRACK}"/>'
    if share > 0:
        length = max(BAR_LEAST, share * inner)
        yield f'<rect x="{x}" y="{y}" width="{length:.1f}" {rounding} fill="{look.bar}"/>'
    whole = start.size.size.users
    if node.size.size.state == SIZE_STATE_ESTIMATED and whole:
        low, high = (
            x + min(bound / whole, 1) * inner for bound in (node.size.size.lower, node.size.size.upper)
        )
        middle, top, end = y + BAR_HEIGHT / 2, y - 2, y + BAR_HEIGHT + 2
        yield (
            f'<path d="M{low:.1f} {top}V{end}M{low:.1f} {middle}H{high:.1f}M{high:.1f} {top}V{end}"'
            f' stroke="{INK}" stroke-width="1.2" fill="none"/>'
        )


def _legend(picture: Picture, y: int, width: int) -> Iterator[str]:
    entries = ((_CRITERIA, "criteria"), (_REMAINING, "remaining users"), (_ACTIVATED, "activated"))
    x = MARGIN
    for look, word in entries:
        yield (
            f'<rect x="{x}" y="{y - 10}" width="18" height="12" rx="3" fill="{look.fill}"'
            f' stroke="{look.border}" stroke-width="1.5"{dashed(look.dashes and "3 2")}/>'
        )
        yield text_at(x + 25, y, word, 11, fill=QUIET)
        x += 25 + round(text_width(word, 11)) + 18
    yield text_at(x, y, "bars: share of the start", 11, fill=QUIET)
    bounds = bounds_text(picture)
    if bounds:
        yield text_at(MARGIN, y + LEGEND_LINE, bounds, 11, fill=QUIET)
    yield text_at(width - MARGIN, y, credits_text(picture.account), 11, fill=INK, anchor="end")


def _tooltip(card: _Card) -> str:
    share = share_of(card.node, card.parent.node if card.parent else None)
    parts = (
        card.node.label,
        size_text(card.node.size, plain=False),
        "" if share is None else f"{percent(share)} of parent",
        size_note(card.node.size),
    )
    return "\n".join(part for part in parts if part)


def _wrapped(text: str, room: float, size: int) -> list[str]:
    """The text in at most `TITLE_LINES_MAX` lines, broken between words where possible."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < TITLE_LINES_MAX - 1:
        line = words.pop(0)
        while words and text_width(f"{line} {words[0]}", size) <= room:
            line += " " + words.pop(0)
        lines.append(clipped(line, room, size))
    return [*lines, clipped(" ".join(words), room, size)] if words else lines
