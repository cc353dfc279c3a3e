"""Reads trees of mappings, lists and scalars, and collects their faults with paths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from milepost._near import did_you_mean
from milepost.documents.reading import MessageReader, below


class TreeReader(MessageReader):
    """A reader of messages that also reads the mappings around them."""

    def mapping(self, tree: Any, path: str, known: Sequence[str] = ()) -> dict[str, Any]:
        """The fields of a mapping that are set. `known` are its names; none = any keys."""
        if tree is None:
            return {}
        if not isinstance(tree, dict):
            self.fault(path, f"must be a mapping with {', '.join(known)}" if known else "must be a mapping")
            return {}
        read: dict[str, Any] = {}
        for key, value in tree.items():
            if not isinstance(key, str):
                self.fault(path, f"the key {key!r} must be a string: write it in quotes")
            elif known and key not in known:
                hint = did_you_mean(key, known) or f"; the fields are {', '.join(known)}"
                self.fault(below(path, key), f"unknown field{hint}")
            elif value is not None or not known:
                read[key] = value
        return read

    def items(self, tree: Any, path: str) -> Iterator[tuple[Any, str]]:
        """The items of a list, each with its path."""
        if tree is None:
            return
        if not isinstance(tree, list):
            self.fault(path, "must be a list")
            return
        for index, item in enumerate(tree):
            yield item, f"{path}[{index}]"

    def text(self, tree: Any, path: str, *, default: str | None = None) -> str:
        """A string. Without a default it is required."""
        if tree is None and default is not None:
            return default
        if not isinstance(tree, str) or not tree:
            self.fault(path, "is required" if tree is None else f"must be a string, not {tree!r}")
            return default or ""
        return tree
