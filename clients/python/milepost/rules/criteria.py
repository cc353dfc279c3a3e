"""Criteria of journeys under test: the ones without children, and those that name resources of an account."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from milepost.journeys import JourneyDocument, MilestoneDocument
from milepost.v1.criteria_pb2 import AudienceCriterion, Criteria


def leaves(criteria: Criteria, path: str = "criteria") -> Iterator[str]:
    """The paths of the criteria that decide by a user's data: those that do not combine others."""
    kind = criteria.WhichOneof("node")
    if kind == "negation":
        yield from leaves(criteria.negation, f"{path}.not")
    elif kind in ("all_of", "any_of"):
        for index, child in enumerate(getattr(criteria, kind).criteria):
            yield from leaves(child, f"{path}.{kind}.criteria[{index}]")
    elif kind is not None:
        yield path


def in_account(
    document: JourneyDocument, written: str, account: str, audiences: Mapping[str, str]
) -> JourneyDocument:
    """The document for another account than the one that its criteria name. `audiences` has the names that
    stand for those of the criteria.
    """
    before, after = f"accounts/{written}/", f"accounts/{account}/"

    def renamed(name: str) -> str:
        return after + name.removeprefix(before) if name.startswith(before) else name

    def copied(milestone: MilestoneDocument) -> MilestoneDocument:
        criteria = copy.deepcopy(milestone.criteria)
        if criteria is not None:
            _rename(criteria, renamed, audiences)
        return replace(milestone, criteria=criteria, children=tuple(map(copied, milestone.children)))

    return replace(document, milestones=tuple(map(copied, document.milestones)))


def _rename(message: Message, renamed: Callable[[str], str], audiences: Mapping[str, str]) -> None:
    if isinstance(message, AudienceCriterion):
        message.name = audiences.get(message.name, renamed(message.name))
        return
    for field, value in message.ListFields():
        if field.name == "inputs":
            inputs: Any = value
            inputs[:] = [renamed(name) for name in inputs]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else [value]:
                _rename(child, renamed, audiences)
