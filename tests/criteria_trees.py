"""Criteria as trees of dicts, lists and scalars: the proto3 JSON mapping, with the proto files' names."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from engine.criteria.model import Criterion
from milepost.v1 import criteria_pb2
from milepost.written_form import written
from service.convert.criteria import criteria_message, criterion_of


def criterion_from_tree(tree: Any) -> Criterion:
    """The criterion that a tree describes."""
    return criterion_of(json_format.ParseDict(tree, criteria_pb2.Criteria()))


def criterion_to_tree(criterion: Criterion) -> dict[str, Any]:
    """The tree of a criterion."""
    tree: dict[str, Any] = written(criteria_message(criterion))
    return tree
