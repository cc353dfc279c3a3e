"""Lines and columns of a document's text, by the paths of its fields."""

from __future__ import annotations

import json
import re

import yaml

from milepost.documents.text import as_yaml

_STEP = re.compile(r'([^.\[\]]+)|\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]')


class Positions:
    """Finds `milestones[0].children[1].criteria.event.name` in a text, and a key with special characters as
    `users["ann@example.com"].events[0]`.
    """

    def __init__(self, text: str) -> None:
        try:
            self._root = yaml.compose(as_yaml(text), yaml.SafeLoader)
        except (yaml.YAMLError, RecursionError):
            self._root = None

    def find(self, path: str) -> tuple[int, int] | None:
        """Line and column, from 1, of the field, or of the nearest field around it that the text has. None
        for a text that is neither YAML nor JSON.
        """
        node = self._root
        if node is None:
            return None
        mark = node.start_mark
        for name, index, quoted in _STEP.findall(path):
            found = _item(node, int(index)) if index else _field(node, json.loads(quoted) if quoted else name)
            if found is None:
                break
            mark, node = found
        return mark.line + 1, mark.column + 1


def _item(node: yaml.Node, index: int) -> tuple[yaml.Mark, yaml.Node] | None:
    if not isinstance(node, yaml.SequenceNode) or index >= len(node.value):
        return None
    item = node.value[index]
    return item.start_mark, item


def _field(node: yaml.Node, name: str) -> tuple[yaml.Mark, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value in (name, camel_case(name)):
                return key.start_mark, value
    return None


def camel_case(name: str) -> str:
    """The lowerCamelCase form of a snake_case name."""
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)
