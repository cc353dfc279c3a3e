"""Shared parts of SVG pictures: colours, the font, and fitting text."""

from __future__ import annotations

from unicodedata import east_asian_width
from xml.sax.saxutils import escape, quoteattr

FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
# Widths of a character over the font size, for a wide font: what fits here fits in any of `FONT`.
_NARROW, _USUAL, _BROAD, _FULL = 0.40, 0.62, 0.92, 1.05
BOLD = 1.1
"""Maximum width of bold text relative to regular text."""
_NARROW_CHARACTERS = frozenset("fijlrtI.,:;'|!()[]{} ")
_BROAD_CHARACTERS = frozenset("mwMWGOQ@%&—…")

INK, QUIET, LINE, TRACK, PAPER = "#1f2933", "#52606d", "#b8c2cc", "#e4e7eb", "#ffffff"


def text_at(
    x: float,
    y: float,
    text: str,
    size: int,
    *,
    fill: str = "",
    weight: str = "",
    style: str = "",
    anchor: str = "",
) -> str:
    """A line of text whose baseline starts at a point (or ends there, as `anchor` says); empty for none."""
    given = {"fill": fill, "font-weight": weight, "font-style": style, "text-anchor": anchor}
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in given.items() if value)
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}"{attributes}>{shown(text)}</text>' if text else ""


def shown(text: str) -> str:
    """The text escaped for XML; characters that XML cannot contain become replacement characters."""
    return escape("".join(each if each.isprintable() or each == "\n" else "\ufffd" for each in text))


def dashed(dashes: str) -> str:
    """The attribute for dashes and gaps of these lengths; empty for a solid line."""
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def text_width(text: str, size: int) -> float:
    """Maximum width in pixels."""
    return sum(_character_width(character) for character in text) * size


def _character_width(character: str) -> float:
    if east_asian_width(character) in "WF":
        return _FULL
    if character in _NARROW_CHARACTERS:
        return _NARROW
    return _BROAD if character in _BROAD_CHARACTERS else _USUAL


def clipped(text: str, room: float, size: int) -> str:
    """The text, shortened with an ellipsis to fit."""
    if text_width(text, size) <= room:
        return text
    while text and text_width(text + "…", size) > room:
        text = text[:-1]
    return text.rstrip() + "…"
