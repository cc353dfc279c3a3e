"""Kinds of outputs: one message each, with the address of the destination.

from milepost.outputs import FileOutput

client.ensure_output("files", FileOutput(path="exports"))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor

from milepost.v1.connection_pb2 import (
    FileOutput,
    KafkaOutput,
    NatsOutput,
    Output,
    RedisOutput,
    WatchOutput,
    WebhookOutput,
)

__all__ = [
    "KINDS",
    "FileOutput",
    "KafkaOutput",
    "NatsOutput",
    "OutputKind",
    "RedisOutput",
    "WatchOutput",
    "WebhookOutput",
    "kind_of",
    "output_of",
]

OutputKind: TypeAlias = WebhookOutput | NatsOutput | RedisOutput | KafkaOutput | FileOutput | WatchOutput
"""The message of any kind of output: what kind it is, and its address."""

KINDS: Mapping[str, Descriptor] = {
    field.name: field.message_type
    for field in Output.DESCRIPTOR.oneofs_by_name["kind"].fields
    if field.message_type is not None
}
"""Every kind of the contract, by name."""

_NAMES = {descriptor.full_name: name for name, descriptor in KINDS.items()}


def output_of(kind: OutputKind | None, **fields: Any) -> Output:
    """An output of that kind, of none when it is None, with these other fields."""
    output = Output(**fields)
    if kind is not None:
        field = getattr(output, _NAMES[kind.DESCRIPTOR.full_name])
        field.CopyFrom(kind)
        # A kind without fields is one all the same.
        field.SetInParent()
    return output


def kind_of(output: Output) -> str:
    """The name of an output's kind; empty when it has none."""
    return output.WhichOneof("kind") or ""
