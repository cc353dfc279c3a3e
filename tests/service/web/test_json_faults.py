"""Each field of each request, given JSON of every wrong kind: the refusal names the field."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from engine.errors import Violation
from milepost.written_form import written_name
from service.web.endpoints import methods
from service.web.json_faults import Fault, parse
from tests.walks import each_of

LEVELS_MAX = 5
PROBLEM = re.compile(r"^must be .*, not .|^is not a field of this message: ")
VALUES: list[Any] = [0, 1.5, "", "x", True, [], [[]], {}, {"nothing": 1}, [None], [{"nothing": 1}]]


def fields(
    kind: Any, path: str, tree: tuple[FieldDescriptor, ...]
) -> Iterator[tuple[str, tuple[FieldDescriptor, ...]]]:
    """Every field, once in each message, with its path and the fields on the way."""
    for field in kind.fields:
        inside = path + written_name(field)
        way = (*tree, field)
        yield inside, way
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        if not field.message_type.full_name.startswith("google.protobuf.") and len(way) < LEVELS_MAX:
            yield from fields(field.message_type, f"{inside}{'[0]' if field.is_repeated else ''}.", way)


def request_with(value: Any, way: tuple[FieldDescriptor, ...]) -> Any:
    """The tree of a request in which the field at the end of the way has this value."""
    *outer, last = way
    tree = {last.json_name: value}
    for field in reversed(outer):
        tree = {field.json_name: [tree] if field.is_repeated else tree}
    return tree


def assert_fits(value: Any, field: FieldDescriptor) -> None:
    """A list has lists alone, and a message objects, unless it has a form of its own."""
    kind = field.message_type
    is_map = kind is not None and kind.GetOptions().map_entry
    assert isinstance(value, list) == (field.is_repeated and not is_map)
    if kind is not None and not kind.full_name.startswith("google.protobuf."):
        assert all(isinstance(each, dict) for each in (value if isinstance(value, list) else [value]))


def fault_of(data: bytes, message: Message) -> Violation | None:
    try:
        parse(data, message)
    except Fault as fault:
        return fault.violation
    return None


@each_of("path", sorted(methods()))
def test_a_value_of_the_wrong_kind_is_refused_by_the_name_of_its_field(path: str) -> None:
    request = methods()[path].input_type
    faulty = 0
    for written, way in fields(request, "", ()):
        for value in VALUES:
            data = json.dumps(request_with(value, way)).encode()
            message = message_factory.GetMessageClass(request)()
            found = fault_of(data, message)
            if found is not None:
                faulty += 1
                assert found.field == written or found.field.startswith((f"{written}[", f"{written}.")), data
                assert PROBLEM.search(found.description), found
            else:
                # Taken: it is what the field has.
                json_format.ParseDict(json.loads(data), message)
                assert_fits(value, way[-1])
    assert faulty or not list(request.fields)


@pytest.mark.parametrize(
    ("method", "tree", "field", "problem"),
    [
        (
            "AccountService/CreateAccount",
            {"accountId": 5},
            "account_id",
            "must be a string of Unicode characters, not 5",
        ),
        (
            "AccountService/ListAccounts",
            {"pageSize": 10**12},
            "page_size",
            "must be a whole number from -2147483648 to 2147483647, not 1000000000000",
        ),
        (
            "IngestService/IngestEvents",
            {"events": [{"userId": "a"}, {"time": "yesterday" * 9}]},
            "events[1].time",
            'must be a time such as "2026-01-31T12:00:00Z", not the string '
            '"yesterdayyesterdayyesterdayyesterdayyes…',
        ),
    ],
)
def test_a_refusal_says_what_was_found_and_what_is_expected(
    method: str, tree: Any, field: str, problem: str
) -> None:
    request = message_factory.GetMessageClass(methods()[f"/milepost.v1.{method}"].input_type)()
    assert fault_of(json.dumps(tree).encode(), request) == Violation(field, problem)


@pytest.mark.parametrize("name", ["accountId", "pageSize"])
def test_a_number_of_thousands_of_digits_is_refused_by_the_name_of_its_field(name: str) -> None:
    method = "CreateAccount" if name == "accountId" else "ListAccounts"
    kind = methods()[f"/milepost.v1.AccountService/{method}"].input_type
    data = f'{{"{name}": {"9" * 5_000}}}'.encode()
    found = fault_of(data, message_factory.GetMessageClass(kind)())
    assert found is not None
    assert found.field == written_name(kind.fields_by_camelcase_name[name])
    assert found.description.endswith(f", not {'9' * 40}…")


@pytest.mark.parametrize("data", [b"", b"{", b"null", b"0", b"[]", b'""', b"[{}]", b'"name"', b"\xff"])
def test_what_is_no_object_is_refused(data: bytes) -> None:
    for method in methods().values():
        with pytest.raises(Fault) as caught:
            parse(data, message_factory.GetMessageClass(method.input_type)())
        assert caught.value.violation.field == "request"
