"""Compiling `protos/`, for the tools that generate from the contract and the tests that read it.

    python -m tools.contract FILE    # write the contract for other compilers: descriptors, without rules

The contract imports files that others publish: googleapis-common-protos and grpcio-tools have theirs as
sources, the protovalidate package has `buf/validate/validate.proto` as a descriptor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import google.rpc
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
)
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.protobuf.message import Message
from protovalidate import ViolationPb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = "milepost.v1"
MICROS_PER_SECOND = 1_000_000
RULES_FILE = "buf/validate/validate.proto"

FILE_MESSAGES, FILE_ENUMS, FILE_SERVICES = 4, 5, 6
MESSAGE_FIELDS, MESSAGE_NESTED, MESSAGE_ENUMS, MESSAGE_ONEOFS = 2, 3, 4, 8
ENUM_VALUES, SERVICE_METHODS = 2, 2
"""Numbers of the fields that a path of the source information goes through."""

_KNOWN_OPTIONS = (annotations_pb2, field_behavior_pb2, resource_pb2)
"""They declare the options that stay: importing a file makes its options known."""


Rules = dict[str, Any]
"""Paths inside `buf.validate.FieldRules` to their values. Durations are in microseconds."""


class Comments:
    """The comments of a file, by the place of what they are about."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._by_path = {
            tuple(place.path): place.leading_comments or place.trailing_comments
            for place in file.source_code_info.location
        }

    def at(self, *path: int) -> str:
        """The comment as running text; paragraphs are kept."""
        text = self._by_path.get(path, "")
        lines = [line.strip() for line in text.splitlines()]
        return "\n\n".join(" ".join(part.split()) for part in "\n".join(lines).split("\n\n")).strip()


def sources(protos: Path = PROTOS) -> list[str]:
    """The files of the contract, relative to `protos`."""
    return sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))


def protoc(*options: str, files: Sequence[str], protos: Path = PROTOS) -> None:
    """Runs the compiler of grpcio-tools on files of the contract. Raises SystemExit when it fails."""
    with tempfile.TemporaryDirectory() as scratch:
        rules = Path(scratch) / "rules.binpb"
        rules.write_bytes(_rules_files().SerializeToString())
        _run(
            f"--proto_path={protos}",
            f"--proto_path={Path(next(iter(google.rpc.__path__))).parent.parent}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_in={rules}",
            *options,
            *files,
        )


def compiled_to(target: Path, protos: Path = PROTOS, more: Sequence[str] = ()) -> Path:
    """Writes the contract, `more` files and all they import to a file, with comments."""
    protoc(
        "--include_imports",
        "--include_source_info",
        f"--descriptor_set_out={target}",
        files=[*sources(protos), *more],
        protos=protos,
    )
    return target


def compiled(protos: Path = PROTOS, more: Sequence[str] = ()) -> FileDescriptorSet:
    """The contract, `more` files and all they import, with comments."""
    with tempfile.TemporaryDirectory() as scratch:
        target = compiled_to(Path(scratch) / "contract.binpb", protos, more)
        return FileDescriptorSet.FromString(target.read_bytes())


def of_contract(files: FileDescriptorSet) -> list[FileDescriptorProto]:
    """Those of the package itself."""
    return [file for file in files.file if file.package == PACKAGE]


@cache
def with_imports() -> FileDescriptorSet:
    """The contract and all it imports, each file after those that it imports."""
    files = FileDescriptorSet()
    # The compiler leaves out what it was given as a descriptor.
    for file in (*_rules_files().file, *compiled().file):
        if all(file.name != known.name for known in files.file):
            files.file.append(file)
    return files


def generate_without_rules(*options: str, protos: Path = PROTOS, more: Sequence[str] = ()) -> None:
    """Runs the compiler with these options on the contract and `more` files, without the rules of
    protovalidate, so that what is generated needs no package for them. Raises SystemExit when it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "plain.binpb"
        plain.write_bytes(without_rules(compiled(protos, more)).SerializeToString())
        _run(f"--descriptor_set_in={plain}", *options, *sources(protos), *more)


def without_rules(files: FileDescriptorSet) -> FileDescriptorSet:
    """The same files as their sources would be without options of protovalidate and its import."""
    plain = FileDescriptorSet()
    for file in files.file:
        if file.name == RULES_FILE:
            continue
        copied = plain.file.add()
        copied.CopyFrom(file)
        if RULES_FILE in copied.dependency:
            copied.dependency.remove(RULES_FILE)
        for message in copied.message_type:
            _drop_of_message(message)
    return plain


def _drop_of_message(message: DescriptorProto) -> None:
    for nested in message.nested_type:
        _drop_of_message(nested)
    for field in message.field:
        # The compiler adds these names to its descriptors, and generators leave them out of theirs.
        if field.json_name == _json_name(field.name):
            field.ClearField("json_name")
    parts: list[Any] = [message, *message.field, *message.oneof_decl]
    for part in parts:
        if part.HasField("options"):
            # Only options of protovalidate are unknown here: `_KNOWN_OPTIONS` has the others.
            part.options.DiscardUnknownFields()
            if not part.options.ListFields():
                part.ClearField("options")


def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


@cache
def contract() -> descriptor_pool.DescriptorPool:
    """The contract with its rules, in a pool of its own: the stubs have none."""
    pool = descriptor_pool.DescriptorPool()
    for file in with_imports().file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def rules_of(field: FieldDescriptor) -> Rules:
    """The rules that a field of `contract()` has."""
    options = _extended(field.GetOptions(), "google.protobuf.FieldOptions", "buf.validate.field")
    return dict(_flat(options, ""))


def must_have_one(oneof: Any) -> bool:
    """Whether one field of a oneof of `contract()` must be set, by its rule."""
    options: Any = _extended(oneof.GetOptions(), "google.protobuf.OneofOptions", "buf.validate.oneof")
    return bool(options.required)


def _extended(options: Message, kind: str, extension: str) -> Message:
    pool = contract()
    known: Any = message_factory.GetMessageClass(pool.FindMessageTypeByName(kind))
    found: Message = known.FromString(options.SerializeToString()).Extensions[
        pool.FindExtensionByName(extension)
    ]
    return found


def _flat(message: Any, above: str) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        path = above + field.name
        if field.message_type is None:
            yield path, field.enum_type.values_by_number[value].name if field.enum_type else value
        elif field.message_type.name == "Duration":
            yield path, value.seconds * MICROS_PER_SECOND + value.nanos // 1_000
        else:
            yield from _flat(value, f"{path}.")


@cache
def _rules_files() -> FileDescriptorSet:
    """`buf/validate/validate.proto` and what it imports."""
    files = FileDescriptorSet()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        module.DESCRIPTOR.CopyToProto(files.file.add())
    files.file.append(FileDescriptorProto.FromString(ViolationPb.desc().file.proto.to_binary()))
    return files


def _run(*arguments: str) -> None:
    # Plugins are scripts of this environment and must not pick up another interpreter's packages.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "grpc_tools.protoc", *arguments]
    if subprocess.run(command, check=False, env=environment).returncode != 0:
        raise SystemExit("protoc failed")


def main(arguments: list[str]) -> int:
    """Writes the contract and what it imports, without rules of protovalidate."""
    target = Path(arguments[0])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(without_rules(compiled()).SerializeToString())
    print(target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
