"""A whole journey as a document, and its YAML form.

    journey: winback
    display_name: Win back
    inputs: [shop/app, shop/mail]        # workspace/input; left out = all, present and future
    milestones:                          # a split: left to right, first match wins
      - id: lapsed
        display_name: Lapsed
        criteria:
          label: Bought nothing for 90 days
          not: {event: {name: buy, window: {last: 7776000s}}}
        children:
          - id: opened
            criteria: {event: {name: email_opened}}
          - id: rest
            remaining_users: true

`criteria` is the proto3 JSON mapping of `milepost.v1.Criteria` written as YAML. Scalars are read by the core
schema of YAML 1.2, so that `no`, `on`, `12:30` and `2026-01-01T00:00:00Z` are strings, as in JSON.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from google.protobuf import json_format

from milepost import names
from milepost.journeys.normal import normal_form
from milepost.v1.criteria_pb2 import Criteria
from milepost.v1.journey_pb2 import MILESTONE_KIND_REMAINING_USERS, Journey, Milestone

ID_PATTERN = re.compile(r"[a-z][a-z0-9-]{0,62}")
ID_RULE = "must be 1-63 of a-z0-9-, starting with a letter"

_JOURNEY_KEYS = ("journey", "display_name", "inputs", "milestones")
_MILESTONE_KEYS = ("id", "display_name", "criteria", "remaining_users", "children")
_LINE_WIDTH = 110


class DocumentError(ValueError):
    """The text is no journey document; `faults` are pairs of a path in it and what is wrong there."""

    def __init__(self, faults: Iterable[tuple[str, str]]) -> None:
        self.faults = tuple(faults)
        lines = (f"{path}: {problem}" if path else problem for path, problem in self.faults)
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class MilestoneDocument:
    """A milestone and those below it. Without criteria it takes the remaining users of its split."""

    id: str
    display_name: str
    criteria: Criteria | None = None
    children: tuple[MilestoneDocument, ...] = ()

    @property
    def takes_remaining_users(self) -> bool:
        """Whether its kind is REMAINING_USERS."""
        return self.criteria is None

    def walk(self) -> Iterator[MilestoneDocument]:
        """The milestone, then all below it, parents before children and siblings in order."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(frozen=True)
class JourneyDocument:
    """A journey with its milestones. `inputs` are `workspace/input`, sorted; none = all, later ones too."""

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
        inputs=tuple(sorted(_short_input(name) for name in journey.inputs)),
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


# --- text → document ----------------------------------------------------------------------------------------


def loads(text: str) -> JourneyDocument:
    """The document in a YAML (or JSON) text. Raises DocumentError with every fault."""
    try:
        tree = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise DocumentError([("", f"is not valid YAML: {error}")]) from error
    except RecursionError as error:
        raise DocumentError([("", "is nested too deeply")]) from error
    reader = _Reader()
    document = reader.journey(tree)
    if reader.faults:
        raise DocumentError(reader.faults)
    return document


class _Reader:
    """Reads the tree of dicts, lists and scalars, and collects what is wrong with it."""

    def __init__(self) -> None:
        self.faults: list[tuple[str, str]] = []
        self._seen: set[str] = set()

    def journey(self, tree: Any) -> JourneyDocument:
        fields = self._fields(tree, "", _JOURNEY_KEYS)
        journey_id = self._id(fields, "journey", "")
        return JourneyDocument(
            id=journey_id,
            display_name=self._text(fields, "display_name", "") or journey_id,
            inputs=self._inputs(fields.get("inputs")),
            milestones=self._split(fields.get("milestones"), "milestones"),
        )

    def _split(self, tree: Any, path: str) -> tuple[MilestoneDocument, ...]:
        items = self._list(tree, path)
        split = tuple(self._milestone(item, f"{path}[{index}]") for index, item in enumerate(items))
        for index, milestone in enumerate(split):
            if milestone.takes_remaining_users and (index == 0 or index < len(split) - 1):
                self._fault(f"{path}[{index}]", "remaining users come last, behind a sibling with criteria")
        return split

    def _milestone(self, tree: Any, path: str) -> MilestoneDocument:
        fields = self._fields(tree, path, _MILESTONE_KEYS)
        milestone_id = self._id(fields, "id", path)
        if milestone_id and milestone_id in self._seen:
            self._fault(f"{path}.id", f"{milestone_id!r} is there twice")
        self._seen.add(milestone_id)
        remaining = fields.get("remaining_users", False)
        if not isinstance(remaining, bool):
            self._fault(f"{path}.remaining_users", "must be true or false")
        if ("criteria" in fields) is (remaining is True):
            self._fault(path, "needs exactly one of `criteria` and `remaining_users: true`")
        return MilestoneDocument(
            id=milestone_id,
            display_name=self._text(fields, "display_name", path) or milestone_id,
            criteria=None if remaining else self._criteria(fields.get("criteria", {}), f"{path}.criteria"),
            children=self._split(fields.get("children"), f"{path}.children"),
        )

    def _criteria(self, tree: Any, path: str) -> Criteria:
        try:
            return normal_form(json_format.ParseDict(tree, Criteria()))
        except (json_format.ParseError, RecursionError, TypeError, AttributeError, ValueError) as error:
            self._fault(path, str(error))
            return Criteria()

    def _inputs(self, tree: Any) -> tuple[str, ...]:
        inputs = self._list(tree, "inputs")
        for index, name in enumerate(inputs):
            if not isinstance(name, str) or name.count("/") != 1:
                self._fault(f"inputs[{index}]", "must be workspace/input")
            elif name in inputs[:index]:
                self._fault(f"inputs[{index}]", f"{name!r} is named twice")
        return tuple(sorted(str(name) for name in inputs))

    def _fields(self, tree: Any, path: str, known: tuple[str, ...]) -> dict[str, Any]:
        """The fields by their snake_case names; lowerCamelCase is taken as well, as in criteria."""
        if not isinstance(tree, dict):
            self._fault(path, f"must be a mapping with {', '.join(known)}")
            return {}
        by_any_name = {key: key for key in known} | {_camel_case(key): key for key in known}
        for key in tree:
            if key not in by_any_name:
                self._fault(path, f"has no field {key!r}; there are {', '.join(known)}")
        return {by_any_name[key]: value for key, value in tree.items() if key in by_any_name}

    def _id(self, fields: Mapping[str, Any], key: str, path: str) -> str:
        given = self._text(fields, key, path)
        if not ID_PATTERN.fullmatch(given):
            self._fault(_below(path, key), ID_RULE)
        return given

    def _text(self, fields: Mapping[str, Any], key: str, path: str) -> str:
        given = fields.get(key)
        if given is None or isinstance(given, str):
            return given or ""
        self._fault(_below(path, key), "must be a string")
        return ""

    def _list(self, tree: Any, path: str) -> list[Any]:
        if tree is None or isinstance(tree, list):
            return tree or []
        self._fault(path, "must be a list")
        return []

    def _fault(self, path: str, problem: str) -> None:
        self.faults.append((path, problem))


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _camel_case(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


# --- document → text ----------------------------------------------------------------------------------------


def dumps(document: JourneyDocument) -> str:
    """The YAML text of a document; `loads` gives the document back."""
    tree: dict[str, Any] = {"journey": document.id, "display_name": document.display_name}
    if document.inputs:
        tree["inputs"] = list(document.inputs)
    if document.milestones:
        tree["milestones"] = [_milestone_tree(milestone) for milestone in document.milestones]
    return _dumped(tree)


def criteria_text(criteria: Criteria) -> str:
    """The YAML text of criteria."""
    return _dumped(_criteria_tree(criteria))


def _milestone_tree(milestone: MilestoneDocument) -> dict[str, Any]:
    tree: dict[str, Any] = {"id": milestone.id, "display_name": milestone.display_name}
    if milestone.criteria is None:
        tree["remaining_users"] = True
    else:
        tree["criteria"] = _criteria_tree(milestone.criteria)
    if milestone.children:
        tree["children"] = [_milestone_tree(child) for child in milestone.children]
    return tree


def _criteria_tree(criteria: Criteria) -> dict[str, Any]:
    return json_format.MessageToDict(criteria, preserving_proto_field_name=True)


def _dumped(tree: dict[str, Any]) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_LINE_WIDTH)


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
    """Reads scalars by the core schema of YAML 1.2 and refuses a key that is there twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping, its keys checked."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is there twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that this schema, or the older one of other readers, would take for something else."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Lists below a key are indented."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        """Repeats are written out."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    """In double quotes where it has line breaks that only YAML knows, which would turn into spaces."""
    style = '"' if _LINE_BREAKS_OF_YAML.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _tag, _pattern, _first in _CORE_SCHEMA:
    _whole = re.compile(rf"^{_pattern.pattern}$")
    _Loader.add_implicit_resolver(_tag, _whole, _first)
    _Dumper.add_implicit_resolver(_tag, _whole, _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: float(node.value))
