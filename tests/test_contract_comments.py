"""Every element of the contract has a comment in plain sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools.contract import compiled, of_contract

PLACEHOLDER = re.compile(r"See \w+\.")
TRANSLATED = re.compile(r"\b(whoever|so many|is told|are told|nobody|somebody|of theirs|at the door)\b")

ElementPath = tuple[int, ...]
"""Numbers of fields and indexes that lead to an element, as in `SourceCodeInfo.Location.path`."""


def elements(file: FileDescriptorProto) -> Iterator[tuple[str, ElementPath]]:
    """Name and path of every message, field, oneof, enum, value, service and rpc. No message is nested."""
    for i, message in enumerate(file.message_type):
        assert not message.enum_type
        assert all(each.options.map_entry for each in message.nested_type)
        yield message.name, (4, i)
        yield from ((f"{message.name}.{field.name}", (4, i, 2, j)) for j, field in enumerate(message.field))
        yield from ((f"{message.name}.{one.name}", (4, i, 8, j)) for j, one in enumerate(message.oneof_decl))
    for i, enum in enumerate(file.enum_type):
        yield enum.name, (5, i)
        yield from ((f"{enum.name}.{value.name}", (5, i, 2, j)) for j, value in enumerate(enum.value))
    for i, service in enumerate(file.service):
        yield service.name, (6, i)
        yield from ((f"{service.name}.{rpc.name}", (6, i, 2, j)) for j, rpc in enumerate(service.method))


def comments(files: Iterable[FileDescriptorProto]) -> dict[str, str]:
    """The comment above each element, "" where there is none."""
    texts = {}
    for file in files:
        above = {
            tuple(location.path): location.leading_comments.strip()
            for location in file.source_code_info.location
        }
        texts.update({name: above.get(path, "") for name, path in elements(file)})
    return texts


def faults(texts: dict[str, str]) -> list[str]:
    """One line for each element whose comment is missing, a placeholder, or not in sentences."""
    found = []
    for name, text in texts.items():
        if not text:
            found.append(f"{name} has no comment")
        elif PLACEHOLDER.fullmatch(text):
            found.append(f"{name} only refers to another element: {text}")
        elif not text.endswith("."):
            found.append(f"{name} does not end in a sentence: {text}")
        elif TRANSLATED.search(text):
            found.append(f"{name} is not in plain words: {text}")
    return found


@pytest.fixture(scope="module")
def contract() -> dict[str, str]:
    return comments(of_contract(compiled()))


def test_every_element_of_the_contract_is_documented(contract: dict[str, str]) -> None:
    assert len(contract) > 900
    assert faults(contract) == []


def test_an_undocumented_element_is_found(tmp_path: Path) -> None:
    (tmp_path / "sample.proto").write_text(
        """syntax = "proto3";
// See Other.
message Sample {
  int32 bare = 1;
  // Exactly one.
  oneof choice {
    // no end
    string text = 2;
  }
  map<string, string> names = 3;
}
// A kind.
enum Kind {
  KIND_UNSPECIFIED = 0;
}
// Serves whoever calls.
service Samples {
  rpc Get(Sample) returns (Sample);
}
"""
    )
    texts = comments(compiled(tmp_path).file)
    assert faults(texts) == [
        "Sample only refers to another element: See Other.",
        "Sample.bare has no comment",
        "Sample.text does not end in a sentence: no end",
        "Sample.names has no comment",
        "Kind.KIND_UNSPECIFIED has no comment",
        "Samples is not in plain words: Serves whoever calls.",
        "Samples.Get has no comment",
    ]
