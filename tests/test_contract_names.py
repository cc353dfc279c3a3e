"""No name of the contract is a keyword of a language that code is generated for."""

from __future__ import annotations

import keyword
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, FileDescriptor

import milepost.v1

GO = """
    break case chan const continue default defer else fallthrough for func go goto if import
    interface map package range return select struct switch type var
"""
JAVA = """
    _ abstract assert boolean break byte case catch char class const continue default do double else
    enum extends false final finally float for goto if implements import instanceof int interface
    long native new null package private protected public return short static strictfp super switch
    synchronized this throw throws transient true try void volatile while
"""
JAVASCRIPT = """
    arguments await break case catch class const continue debugger default delete do else enum eval
    export extends false finally for function if implements import in instanceof interface let new
    null package private protected public return static super switch this throw true try typeof var
    void while with yield
"""
RUST = """
    Self abstract as async await become box break const continue crate do dyn else enum extern false
    final fn for gen if impl in let loop macro match mod move mut override priv pub ref return self
    static struct super trait true try type typeof unsafe unsized use virtual where while yield
"""
KEYWORDS = {
    "Python": frozenset(keyword.kwlist),
    "Go": frozenset(GO.split()),
    "Java": frozenset(JAVA.split()),
    "JavaScript": frozenset(JAVASCRIPT.split()),
    "Rust": frozenset(RUST.split()),
}
"""Keywords and reserved words of each language: gen of Rust 2024, package of strict JavaScript."""

JSON_NAMES_OF_THEIR_OWN = {
    "BetweenAgo.from_age": "from",
    "BetweenAgo.to_age": "to",
    "Criteria.negation": "not",
    "Event.event_type": "type",
    "EventCondition.negation": "not",
    "EventCriterion.condition": "where",
    "EventCriterion.event_type": "type",
    "EventName.event_type": "type",
    "IdentityCriterion.identity_type": "type",
    "NumberTest.one_of": "in",
    "SequenceStep.condition": "where",
    "SequenceStep.event_type": "type",
    "ValueTest.one_of": "in",
    "Window.time_range": "range",
}
"""Documents and files are written with these. They never change."""


def files() -> list[FileDescriptor]:
    stems = sorted(path.stem for path in Path(milepost.v1.__path__[0]).glob("*_pb2.py"))
    return [import_module(f"milepost.v1.{stem}").DESCRIPTOR for stem in stems]


def messages() -> Iterator[Descriptor]:
    for file in files():
        yield from file.message_types_by_name.values()


def names() -> Iterator[tuple[str, str]]:
    """Where each name of the contract stands, and the name."""
    for file in files():
        for part in file.package.split("."):
            yield file.package, part
        for message in file.message_types_by_name.values():
            yield message.name, message.name
            for field in message.fields:
                yield f"{message.name}.{field.name}", field.name
            for oneof in message.oneofs:
                yield f"{message.name}.{oneof.name}", oneof.name
        for enum in file.enum_types_by_name.values():
            yield enum.name, enum.name
            for value in enum.values:
                # Rust and others strip the enum's name: SIZE_STATE_EXACT becomes Exact.
                prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum.name).strip("_") + "_"
                yield f"{enum.name}.{value.name}", value.name
                yield f"{enum.name}.{value.name}", value.name.removeprefix(prefix).title().replace("_", "")
        for service in file.services_by_name.values():
            yield service.name, service.name
            for method in service.methods:
                yield f"{service.name}.{method.name}", method.name
                # Methods start in lower case in Java and JavaScript, and are in snake case in Rust.
                yield f"{service.name}.{method.name}", method.name[0].lower() + method.name[1:]


def keywords_among(found: Iterator[tuple[str, str]]) -> list[str]:
    """One line for each name that is a keyword."""
    return [
        f"{place} is a keyword of {language}"
        for place, name in found
        for language, words in KEYWORDS.items()
        if name in words
    ]


def test_no_name_is_a_keyword() -> None:
    found = list(names())
    assert len(found) > 900
    assert keywords_among(iter(found)) == []


@pytest.mark.parametrize(
    ("name", "languages"),
    [
        ("not", ["Python"]),
        ("in", ["Python", "JavaScript", "Rust"]),
        ("from", ["Python"]),
        ("type", ["Go", "Rust"]),
        ("where", ["Rust"]),
        ("range", ["Go"]),
        ("package", ["Go", "Java", "JavaScript"]),
        ("synchronized", ["Java"]),
        ("negation", []),
    ],
)
def test_a_keyword_is_found(name: str, languages: list[str]) -> None:
    found = keywords_among(iter([("Sample.field", name)]))
    assert found == [f"Sample.field is a keyword of {language}" for language in languages]


def test_documents_keep_their_names() -> None:
    def camel_case(name: str) -> str:
        head, *tail = name.split("_")
        return head + "".join(part.capitalize() for part in tail)

    own = {
        f"{message.name}.{field.name}": field.json_name
        for message in messages()
        for field in message.fields
        if field.json_name != camel_case(field.name)
    }
    assert own == JSON_NAMES_OF_THEIR_OWN
