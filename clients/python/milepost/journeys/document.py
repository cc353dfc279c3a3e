"""A whole journey as a document, and its YAML form.

    journey: winback
    display_name: Win back
    inputs: [shop/app, shop/mail]        # workspace/input; left out = all, present and future
    milestones:                          # a split: left to right, first match wins
      - id: lapsed
        display_name: Lapsed
        criteria:
          label: Bought nothing for 90 days
          not: {event: {name: buy, window: {last: 90d}}}
        children:
          - id: opened
            criteria: {event: {name: email_opened}}
          - id: rest
            remaining_users: true

It is the proto3 JSON mapping of `milepost.v1.JourneyDocument` in YAML, as `milepost.documents` reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milepost import names
from milepost.documents.reading import MessageReader
from milepost.documents.text import dump, load
from milepost.normal_form import normal_form
from milepost.v1 import journey_pb2
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import MILESTONE_KIND_REMAINING_USERS, Journey, Milestone
from milepost.written_form import written


@dataclass(frozen=True)
class MilestoneDocument:
    """A milestone and its descendants. Without criteria it takes the remaining users of its split."""

    id: str
    display_name: str
    criteria: Criteria | None = None
    children: tuple[MilestoneDocument, ...] = ()

    @property
    def takes_remaining_users(self) -> bool:
        """Whether its kind is REMAINING_USERS."""
        return self.criteria is None

    def walk(self) -> Iterator[MilestoneDocument]:
        """The milestone and its descendants, parents before children and siblings in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class JourneyDocument:
    """A journey with its milestones. `inputs` are `workspace/input`; none = all, including future ones."""

    id: str
    display_name: str
    inputs: tuple[str, ...] = ()
    milestones: tuple[MilestoneDocument, ...] = ()

    def walk(self) -> Iterator[MilestoneDocument]:
        """Every milestone, parents before children and siblings in order."""
        for milestone in self.milestones:
            yield from milestone.walk()


def document_of(journey: Journey, milestones: Iterable[Milestone]) -> JourneyDocument:
    """The document of a saved journey; `milestones` as listed, siblings in order."""
    children: dict[str, list[Milestone]] = {}
    for milestone in milestones:
        children.setdefault(milestone.parent_milestone, []).append(milestone)
    return JourneyDocument(
        id=names.last_id(journey.name),
        display_name=journey.display_name,
        inputs=tuple(_short_input(name) for name in journey.inputs),
        milestones=_saved_split(children, ""),
    )


def _saved_split(children: Mapping[str, list[Milestone]], parent: str) -> tuple[MilestoneDocument, ...]:
    return tuple(
        MilestoneDocument(
            id=names.last_id(milestone.name),
            display_name=milestone.display_name,
            criteria=None
            if milestone.kind == MILESTONE_KIND_REMAINING_USERS
            else normal_form(milestone.criteria),
            children=_saved_split(children, milestone.name),
        )
        for milestone in children.get(parent, [])
    )


def _short_input(name: str) -> str:
    _, _, _, workspace, _, input_id = name.split("/")
    return f"{workspace}/{input_id}"


# --- document ↔ message -------------------------------------------------------------------------------------


def message_of(document: JourneyDocument) -> journey_pb2.JourneyDocument:
    """The message of a document. Its fields have the paths that they have in the text."""
    return journey_pb2.JourneyDocument(
        journey=document.id,
        display_name=document.display_name,
        inputs=document.inputs,
        milestones=map(_milestone_message, document.milestones),
    )


def _milestone_message(milestone: MilestoneDocument) -> journey_pb2.MilestoneDocument:
    return journey_pb2.MilestoneDocument(
        id=milestone.id,
        display_name=milestone.display_name,
        criteria=milestone.criteria,
        remaining_users=milestone.takes_remaining_users,
        children=map(_milestone_message, milestone.children),
    )


def document_of_message(message: journey_pb2.JourneyDocument) -> JourneyDocument:
    """The document of a message."""
    return JourneyDocument(
        id=message.journey,
        display_name=message.display_name or message.journey,
        inputs=tuple(message.inputs),
        milestones=tuple(map(_milestone_of_message, message.milestones)),
    )


def _milestone_of_message(message: journey_pb2.MilestoneDocument) -> MilestoneDocument:
    return MilestoneDocument(
        id=message.id,
        display_name=message.display_name
        or (names.REMAINING_USERS if message.remaining_users else message.id),
        criteria=None if message.remaining_users else normal_form(message.criteria),
        children=tuple(map(_milestone_of_message, message.children)),
    )


# --- text → document ----------------------------------------------------------------------------------------


def loads(text: str) -> JourneyDocument:
    """The document in a YAML (or JSON) text. Raises DocumentError with every fault."""
    reader = MessageReader()
    document = document_of_tree(load(text), reader)
    reader.raise_if_any_fault()
    return document


def document_of_tree(tree: Any, reader: MessageReader, path: str = "") -> JourneyDocument:
    """The document of a tree that stands at `path` of a larger one, without the parts that have faults: those
    are added to the reader.
    """
    message = reader.message(tree, journey_pb2.JourneyDocument, path)
    _Checker(reader, path).check(message)
    return document_of_message(message)


class _Checker:
    """Finds what the form of a message does not show."""

    def __init__(self, reader: MessageReader, path: str) -> None:
        self._reader = reader
        self._path = path
        self._known = {path for path, _ in reader.faults}
        self._seen: set[str] = set()

    def check(self, document: journey_pb2.JourneyDocument) -> None:
        """Adds the faults to those of the reader."""
        self._check_id(document.journey, "journey")
        named: set[str] = set()
        for index, name in enumerate(document.inputs):
            if name.count("/") != 1:
                self._fault(f"inputs[{index}]", "must be workspace/input")
            elif name in named:
                self._fault(f"inputs[{index}]", f"{name!r} is named twice")
            named.add(name)
        self._check_split(document.milestones, "milestones")

    def _check_split(self, split: Sequence[journey_pb2.MilestoneDocument], path: str) -> None:
        for index, milestone in enumerate(split):
            place = f"{path}[{index}]"
            self._check_id(milestone.id, f"{place}.id")
            if milestone.id and milestone.id in self._seen:
                self._fault(f"{place}.id", f"{milestone.id!r} is used twice")
            self._seen.add(milestone.id)
            was_read = not any(
                self._was_faulty(f"{place}.{each}") for each in ("criteria", "remaining_users")
            )
            if was_read and milestone.HasField("criteria") is milestone.remaining_users:
                self._fault(place, "needs exactly one of `criteria` and `remaining_users: true`")
            if milestone.remaining_users and (index == 0 or index < len(split) - 1):
                self._fault(place, "remaining users must come last, after a sibling with criteria")
            self._check_split(milestone.children, f"{place}.children")

    def _check_id(self, given: str, path: str) -> None:
        if not names.is_id(given):
            self._fault(path, names.ID_RULE)

    def _fault(self, path: str, problem: str) -> None:
        """What has a fault was not read: it is not found missing as well."""
        if not self._was_faulty(path):
            self._reader.fault(self._place(path), problem)

    def _was_faulty(self, path: str) -> bool:
        return self._place(path) in self._known

    def _place(self, path: str) -> str:
        return f"{self._path}.{path}" if self._path else path


# --- document → text ----------------------------------------------------------------------------------------


def dumps(document: JourneyDocument) -> str:
    """The YAML text of a document; `loads` reads it back."""
    tree: dict[str, Any] = {"journey": document.id, "display_name": document.display_name}
    if document.inputs:
        tree["inputs"] = list(document.inputs)
    if document.milestones:
        tree["milestones"] = [_milestone_tree(milestone) for milestone in document.milestones]
    return dump(tree)


def _milestone_tree(milestone: MilestoneDocument) -> dict[str, Any]:
    tree: dict[str, Any] = {"id": milestone.id, "display_name": milestone.display_name}
    if milestone.criteria is None:
        tree["remaining_users"] = True
    else:
        tree["criteria"] = written(milestone.criteria, days=True)
    if milestone.children:
        tree["children"] = [_milestone_tree(child) for child in milestone.children]
    return tree
