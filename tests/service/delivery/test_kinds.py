"""A kind of output is whole: what the contract has of it, the engine, the service and the documents have."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from engine.resources.targets import TARGETS
from milepost.v1 import connection_pb2
from service.convert.connections import output_message, output_of_message
from service.delivery.sinks import SINKS

DOCS = Path(__file__).resolve().parents[3] / "docs" / "outputs.md"

OUTPUT_KINDS = tuple(field.name for field in connection_pb2.Output.DESCRIPTOR.oneofs_by_name["kind"].fields)
KINDS = pytest.mark.parametrize("kind", OUTPUT_KINDS)

SAMPLES: dict[type, Callable[[str], Any]] = {
    str: lambda field: f"a {field}",
    int: lambda field: 2,
    bool: lambda field: True,
    Duration: lambda field: Duration(seconds=7),
}


def plain(message: Message) -> dict[str, Any]:
    """The fields of a kind's message as those of its target."""
    values = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    return {
        name: value.ToMicroseconds() if isinstance(value, Duration) else value
        for name, value in values.items()
    }


def test_every_kind_of_the_contract_has_a_target_and_no_other() -> None:
    assert list(TARGETS) == list(OUTPUT_KINDS)


@KINDS
def test_a_target_has_the_fields_of_its_message(kind: str) -> None:
    fields = getattr(connection_pb2.Output(), kind).DESCRIPTOR.fields_by_name
    assert set(TARGETS[kind].__struct_fields__) == set(fields)
    assert TARGETS[kind].secrets <= set(fields)


@KINDS
def test_a_target_is_shown_as_it_was_given_without_its_secrets(kind: str) -> None:
    given = connection_pb2.Output(name="accounts/a/outputs/o", display_name="O")
    message = getattr(given, kind)
    message.SetInParent()
    for field in message.DESCRIPTOR.fields:
        sample = SAMPLES[type(getattr(message, field.name))](field.name)
        if isinstance(sample, Duration):
            getattr(message, field.name).CopyFrom(sample)
        else:
            setattr(message, field.name, sample)
    shown = output_message(output_of_message(given))
    for secret in TARGETS[kind].secrets:
        assert getattr(message, secret)
        message.ClearField(secret)
    assert (shown.display_name, getattr(shown, kind)) == ("O", message)
    assert shown.WhichOneof("kind") == kind


@KINDS
def test_what_a_target_lacks_is_told_with_the_path_of_the_contract(kind: str) -> None:
    message = getattr(connection_pb2.Output(), kind)
    empty = TARGETS[kind](**plain(message))
    fields = {f"output.{kind}.{field}" for field in TARGETS[kind].__struct_fields__}
    told = [fault.field for fault in empty.faults()]
    assert bool(told) is bool(fields)
    assert set(told) <= fields


def test_every_kind_has_a_section_and_a_sink_if_it_sends() -> None:
    kinds = sorted(OUTPUT_KINDS)
    assert [target.kind() for target in SINKS] == [kind for kind in kinds if TARGETS[kind].sends]
    _, _, after = DOCS.read_text(encoding="utf-8").partition("<!-- kinds:")
    sections = re.split(r"^### ", after.partition("<!-- end -->")[0], flags=re.MULTILINE)[1:]
    documented = {section.split("`")[1]: section for section in sections}
    assert sorted(documented) == kinds
    for kind, section in documented.items():
        rows = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
        assert rows == set(TARGETS[kind].__struct_fields__)
