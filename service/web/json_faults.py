"""Where JSON does not fit a message: the path of the field, and why.

json_format names the field in some of its errors only, and takes an empty list or text for a message. So when
it refuses a request, or the request may hold such a thing, the tree is compared with the message here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from engine.errors import Violation
from milepost.written_form import written_name

PROBLEM_CHARACTERS_MAX = 300
FIELDS_SHOWN_MAX = 20
_REQUEST = "request"
_AROUND_PROBLEM = re.compile(
    r"^(?:Failed to parse \S+ field: )*(?P<problem>.*?)(?: at [\w.\[\]]+)?\.*$", re.DOTALL
)
_EMPTY_FOR_A_MESSAGE = re.compile(rb'(?:^|[:,\[])\s*(?:\[\s*\]|"")')
_OWN_FORM = "google.protobuf."
"""Messages of this package have JSON forms of their own: times, durations, masks."""
FOUND_CHARACTERS_MAX = 40
DIGITS_MAX = 400
"""Longer whole numbers fit no field, and Python takes long to read them."""


class _LongNumber:
    """A whole number of more digits than any field has."""

    def __init__(self, text: str) -> None:
        self.text = text


_JSON_KINDS: dict[type, str] = {
    _LongNumber: "a number",
    type(None): "null",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}

_SCALARS = {
    FieldDescriptor.CPPTYPE_STRING: "a string of Unicode characters",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
    FieldDescriptor.CPPTYPE_DOUBLE: "a number",
    FieldDescriptor.CPPTYPE_FLOAT: "a number",
    FieldDescriptor.CPPTYPE_INT32: f"a whole number from {-(2**31)} to {2**31 - 1}",
    FieldDescriptor.CPPTYPE_UINT32: f"a whole number from 0 to {2**32 - 1}",
    FieldDescriptor.CPPTYPE_INT64: f"a whole number from {-(2**63)} to {2**63 - 1}",
    FieldDescriptor.CPPTYPE_UINT64: f"a whole number from 0 to {2**64 - 1}",
}
_OWN_FORMS = {
    "google.protobuf.Timestamp": 'a time such as "2026-01-31T12:00:00Z"',
    "google.protobuf.Duration": 'a duration such as "1.5s"',
    "google.protobuf.FieldMask": "one string with the names of fields, separated by commas",
}

_PARSE_ERRORS = (json_format.ParseError, ValueError, TypeError, AttributeError)
"""Of texts that are not what a field takes, json_format lets through what reads them."""


def parse(data: bytes, message: Message) -> None:
    """Fills the message. Raises Fault where the JSON does not fit it, RecursionError for too many levels."""
    problem = ""
    try:
        json_format.Parse(data, message)
    except _PARSE_ERRORS as error:
        problem = str(error)
    if problem or _EMPTY_FOR_A_MESSAGE.search(data):
        fault = _first_fault(data, message.DESCRIPTOR)
        if fault is not None:
            raise Fault(fault)
    if problem:
        raise Fault(Violation(_REQUEST, _shown(problem)))


class Fault(Exception):
    """Where the JSON does not fit."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(violation.description)
        self.violation = violation


def _first_fault(data: bytes, kind: Any) -> Violation | None:
    try:
        tree = json.loads(data, parse_int=_whole_number)
    except ValueError as error:
        return Violation(_REQUEST, _shown(f"is not JSON: {error}"))
    return next(_in_message(tree, kind, ""), None)


def _in_message(tree: Any, kind: Any, path: str) -> Iterator[Violation]:
    if not isinstance(tree, dict):
        yield Violation(path or _REQUEST, f"must be an object, not {_JSON_KINDS[type(tree)]}")
        return
    known = {field.json_name: field for field in kind.fields} | {field.name: field for field in kind.fields}
    for name, value in tree.items():
        field = known.get(name)
        if field is None:
            inside = _inside(path, name)[:PROBLEM_CHARACTERS_MAX]
            yield Violation(inside, f"is not a field of this message: {_fields_of(kind)}")
        elif value is not None:
            yield from _in_field(value, field, _inside(path, written_name(field)))


def _in_field(value: Any, field: FieldDescriptor, path: str) -> Iterator[Violation]:
    inside = field.message_type
    if inside is not None and inside.GetOptions().map_entry:
        yield from _in_map(value, field, path)
    elif not field.is_repeated:
        yield from _in_value(value, field, path)
    elif not isinstance(value, list):
        yield Violation(path, f"must be a list, not {_JSON_KINDS[type(value)]}")
    else:
        for index, element in enumerate(value):
            yield from _in_value(element, field, f"{path}[{index}]")


def _in_map(value: Any, field: FieldDescriptor, path: str) -> Iterator[Violation]:
    if not isinstance(value, dict):
        yield Violation(path, f"must be an object, not {_JSON_KINDS[type(value)]}")
        return
    assert field.message_type is not None
    of_values = field.message_type.fields_by_name["value"]
    for key, each in value.items():
        yield from _in_value(each, of_values, f"{path}[{key!r}]"[:PROBLEM_CHARACTERS_MAX])


def _in_value(value: Any, field: FieldDescriptor, path: str) -> Iterator[Violation]:
    inside = field.message_type
    if inside is not None and not inside.full_name.startswith(_OWN_FORM):
        yield from _in_message(value, inside, path)
        return
    # As a value of the field alone.
    assert field.containing_type is not None
    alone = message_factory.GetMessageClass(field.containing_type)()
    try:
        json_format.ParseDict({field.json_name: [value] if field.is_repeated else value}, alone)
    except _PARSE_ERRORS as error:
        wanted = _wanted(field)
        if wanted is not None:
            yield Violation(path, _shown(f"must be {wanted}, not {_found(value)}"))
            return
        found = _AROUND_PROBLEM.match(str(error))
        yield Violation(path, _shown(found["problem"] if found else str(error)))


def _whole_number(text: str) -> int | _LongNumber:
    return int(text) if len(text) <= DIGITS_MAX else _LongNumber(text)


def _wanted(field: FieldDescriptor) -> str | None:
    """What a field takes; None where only json_format can say."""
    if field.message_type is not None:
        return _OWN_FORMS.get(field.message_type.full_name)
    if field.enum_type is not None:
        names = [value.name for value in field.enum_type.values]
        more = "" if len(names) <= FIELDS_SHOWN_MAX else f" and {len(names) - FIELDS_SHOWN_MAX} more"
        return f"one of {', '.join(names[:FIELDS_SHOWN_MAX])}{more}"
    if field.type == FieldDescriptor.TYPE_BYTES:
        return "a string in base64"
    return _SCALARS[field.cpp_type]


def _found(value: Any) -> str:
    """The value, cut, with its kind unless it shows that itself."""
    if value is None or isinstance(value, list | dict):
        return _JSON_KINDS[type(value)]
    text = value.text if isinstance(value, _LongNumber) else json.dumps(value)
    shown = text if len(text) <= FOUND_CHARACTERS_MAX else f"{text[:FOUND_CHARACTERS_MAX]}…"
    return f"the string {shown}" if isinstance(value, str) else shown


def _inside(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _fields_of(kind: Any) -> str:
    names = [written_name(field) for field in kind.fields]
    more = "" if len(names) <= FIELDS_SHOWN_MAX else f" and {len(names) - FIELDS_SHOWN_MAX} more"
    return f"the fields are {', '.join(names[:FIELDS_SHOWN_MAX])}{more}"


def _shown(problem: str) -> str:
    return problem.strip()[:PROBLEM_CHARACTERS_MAX]
