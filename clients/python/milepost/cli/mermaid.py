"""A journey drawn as a Mermaid flowchart: nodes with sizes and shares, dashed lines to remaining users."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from milepost.cli.text import percent
from milepost.cli.tree import Node, Picture, foot_lines, share_of, size_note, size_text

_CLASSES = (
    "classDef criteria fill:#ffffff,stroke:#2b6cb0,color:#1f2933",
    "classDef remaining fill:#fafbfc,stroke:#7b8794,color:#1f2933,stroke-dasharray:5 4",
    "classDef activated fill:#f0faf4,stroke:#1a7f4b,color:#1f2933,stroke-width:2px",
)
# Characters that Mermaid would read as the end of the text, markup or an entity.
_ENTITIES = {character: f"#{ord(character)};" for character in '"#&<>`\\'}


def draw_mermaid(picture: Picture) -> str:
    """The picture as a Mermaid flowchart."""
    numbers = count()
    name = picture.journey.display_name or picture.journey.name
    lines = [f"accTitle: {_one_line(name)}", f"accDescr: {'; '.join(foot_lines(picture))}", *_CLASSES]
    lines += _nodes(picture.start, None, "", numbers)
    return "\n".join(["flowchart LR", *(f"    {line}" for line in lines)]) + "\n"


def _nodes(node: Node, parent: Node | None, above: str, numbers: count[int]) -> Iterator[str]:
    key = f"n{next(numbers)}"
    style = "activated" if node.is_activated else "remaining" if node.is_remaining else "criteria"
    box = f'{key}["{_label(node, parent)}"]:::{style}'
    yield box if not above else f"{above} {'-.->' if node.is_remaining else '-->'} {box}"
    for child in node.children:
        yield from _nodes(child, node, key, numbers)


def _label(node: Node, parent: Node | None) -> str:
    share = share_of(node, parent)
    parts = [
        f"<b>{_escaped(node.label)}</b>",
        _escaped(size_text(node.size, plain=False))
        + ("" if share is None else f" · {percent(share)} of parent"),
        _escaped(size_note(node.size)),
        "active" if node.is_activated else "",
    ]
    return "<br/>".join(part for part in parts if part)


def _escaped(text: str) -> str:
    return "".join(_ENTITIES.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())
