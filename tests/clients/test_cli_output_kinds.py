"""The command line offers every kind of output of the contract, with all its fields."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any, get_args, get_type_hints

import pytest
import typer
from google.protobuf.duration_pb2 import Duration

from milepost.cli.output_kinds import OPTIONAL, Address, address_text, kind_from
from milepost.outputs import KINDS, FileOutput, OutputKind, RedisOutput, WebhookOutput, output_of
from milepost.v1.connection_pb2 import ContentMode, SaslMechanism

OPTIONS = get_type_hints(Address, include_extras=True)


SAMPLES: dict[str, Any] = {
    "mode": ContentMode.CONTENT_MODE_BINARY,
    "max_length": 7,
    "max_bytes": 70_000,
    "max_age": Duration(seconds=3_600),
    "gzip": True,
    "use_tls": True,
    "sasl_mechanism": SaslMechanism.SASL_MECHANISM_PLAIN,
}
"""Values of fields that are no texts."""


def help_of(field: str) -> str:
    hint: Any = OPTIONS[field]
    return str(hint.__metadata__[0].help)


def test_each_field_of_a_kind_is_an_option_and_no_other() -> None:
    assert set(OPTIONS) == {field.name for kind in KINDS.values() for field in kind.fields}
    assert [each.name for each in fields(Address) if each.default is MISSING] == []


@pytest.mark.parametrize("field", OPTIONS)
def test_an_option_has_the_type_of_its_field_and_names_its_kinds(field: str) -> None:
    kinds = [name for name, kind in KINDS.items() if field in kind.fields_by_name]
    assert help_of(field).partition(":")[0] == ", ".join(kinds)
    for message in get_args(OutputKind):
        if field in message.DESCRIPTOR.fields_by_name:
            assert get_args(OPTIONS[field])[0] == type(getattr(message(), field)) | None


@pytest.mark.parametrize("message", get_args(OutputKind))
def test_a_kind_is_made_of_its_options(message: type[OutputKind]) -> None:
    [name] = [name for name, kind in KINDS.items() if kind is message.DESCRIPTOR]
    values = {field.name: SAMPLES.get(field.name, field.name) for field in KINDS[name].fields}
    assert kind_from(name, Address(**values)) == message(**values)


def test_an_option_of_another_kind_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="an output of kind redis has --url, --stream, --max-length"):
        kind_from("redis", Address(url="redis://host", topic="t"))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_without_its_address_names_the_options_that_it_needs(name: str) -> None:
    needed = [field.name for field in KINDS[name].fields if field.name not in OPTIONAL]
    if not needed:
        kind_from(name, Address())
        return
    values: dict[str, Any] = dict.fromkeys(needed, "x")
    kind_from(name, Address(**values))
    for field in needed:
        option = f"--{field.replace('_', '-')}"
        with pytest.raises(typer.BadParameter, match=f"an output of kind {name} needs {option}$"):
            kind_from(name, Address(**{key: value for key, value in values.items() if key != field}))


def test_what_is_not_given_stays_unless_the_kind_changes() -> None:
    known = output_of(RedisOutput(url="redis://host", stream="s", max_length=9))
    assert kind_from("redis", Address(stream="t"), known) == RedisOutput(
        url="redis://host", stream="t", max_length=9
    )
    assert kind_from("webhook", Address(url="https://host"), known) == WebhookOutput(url="https://host")
    assert address_text(known) == "url=redis://host, stream=s, max_length=9"
    assert address_text(output_of(FileOutput(path="exports"))) == "path=exports"
    rotated = FileOutput(path="exports", max_bytes=70_000, max_age=Duration(seconds=3_600), gzip=True)
    assert address_text(output_of(rotated)) == "path=exports, max_bytes=70000, max_age=1h, gzip=true"
    hook = WebhookOutput(url="https://host", mode=ContentMode.CONTENT_MODE_BINARY)
    assert address_text(output_of(hook)) == "url=https://host, mode=binary"
