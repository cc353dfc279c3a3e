"""Text ↔ tree of mappings, lists and scalars.

A text is JSON or YAML. Scalars of YAML are read by the core schema of YAML 1.2, so that `no`, `on`, `12:30`
and `2026-01-01T00:00:00Z` are strings, as in JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable
from typing import Any

import yaml

_LINE_WIDTH = 110
TOO_DEEP = "is nested too deeply"


class DocumentError(ValueError):
    """The text is no valid document. `faults` are pairs of a path and a description. A text that is neither
    YAML nor JSON has one, with the path "", and `position` is its line and column, from 1.
    """

    def __init__(self, faults: Iterable[tuple[str, str]], *, position: tuple[int, int] | None = None) -> None:
        self.faults = tuple(faults)
        self.position = position
        lines = [f"{path}: {problem}" if path else problem for path, problem in self.faults]
        if position is not None:
            lines[0] = "line {}, column {}: {}".format(*position, lines[0])
        super().__init__("\n".join(lines))


def load(text: str) -> Any:
    """The tree of a text. Raises DocumentError."""
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except ValueError:
        # YAML then, or JSON with a fault that YAML has a place for.
        pass
    except RecursionError as error:
        raise DocumentError([("", TOO_DEEP)]) from error
    try:
        return yaml.load(as_yaml(text), _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = None if mark is None else (mark.line + 1, mark.column + 1)
        raise DocumentError([("", f"is not valid YAML: {error.problem}")], position=position) from error
    except yaml.YAMLError as error:
        raise DocumentError([("", f"is not valid YAML: {error}")]) from error
    except RecursionError as error:
        raise DocumentError([("", TOO_DEEP)]) from error


def as_yaml(text: str) -> str:
    """The text as YAML with the same lines and columns: JSON may have tabs between its tokens."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text.replace("\t", " ")


def dump(tree: Any) -> str:
    """The YAML text of a tree; `load` reads it back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key is duplicated")
    return mapping


# --- YAML ---------------------------------------------------------------------------------------------------

_NULL = ("tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)"), ["~", "n", "N", ""])
_BOOL = ("tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)"), list("tTfF"))
_INT = ("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+"), list("-+0123456789"))
_FLOAT = (
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"),
    list("-+.0123456789"),
)
_LINE_BREAKS_OF_YAML = re.compile("[\x85\u2028\u2029]")
_CORE_SCHEMA = (_NULL, _BOOL, _INT, _FLOAT)


class _Loader(yaml.SafeLoader):
    """Reads scalars by the core schema of YAML 1.2 and rejects duplicate keys."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, its keys checked."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be text, not a list or a mapping", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is duplicated", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        """The text of a scalar, which can be sent and printed."""
        text = super().construct_scalar(node)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise yaml.constructor.ConstructorError(
                None, None, "half of a character (a surrogate) is no text", node.start_mark
            )
        return text


class _Dumper(yaml.SafeDumper):
    """Quotes strings that this schema, or the older schema of other readers, would not read as strings."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists below a key are indented."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors: repeated parts are written in full."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """In double quotes if it has line breaks specific to YAML, which would turn into spaces."""
    style = '"' if _LINE_BREAKS_OF_YAML.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _CORE_SCHEMA:
    _whole = re.compile(rf"^{_pattern.pattern}$")
    _Loader.add_implicit_resolver(_tag, _whole, _first)
    _Dumper.add_implicit_resolver(_tag, _whole, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
