"""Generate the OpenAPI description of the contract over HTTP, or check that the committed one is fresh.

    python -m tools.generate_openapi            # rewrite service/web/openapi.json
    python -m tools.generate_openapi --check    # compare only; exit 1 when it differs

Methods are those of Connect: `POST /package.Service/Method` with the JSON form of the request. The service
answers the file at `/openapi.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from tools.contract import (
    ENUM_VALUES,
    FILE_ENUMS,
    FILE_MESSAGES,
    FILE_SERVICES,
    MESSAGE_ENUMS,
    MESSAGE_FIELDS,
    MESSAGE_NESTED,
    PACKAGE,
    ROOT,
    SERVICE_METHODS,
    Comments,
    Rules,
    compiled,
    contract,
    of_contract,
    rules_of,
)

TARGET = ROOT / "service" / "web" / "openapi.json"
ERROR = "connect.Error"

_KINDS = FieldDescriptorProto
_SCALARS: dict[int, dict[str, Any]] = {
    _KINDS.TYPE_STRING: {"type": "string"},
    _KINDS.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    _KINDS.TYPE_BOOL: {"type": "boolean"},
    _KINDS.TYPE_DOUBLE: {"type": "number", "format": "double"},
    _KINDS.TYPE_FLOAT: {"type": "number", "format": "float"},
    _KINDS.TYPE_INT32: {"type": "integer", "format": "int32"},
    _KINDS.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    # JSON has no integers of 64 bits.
    _KINDS.TYPE_INT64: {"type": "string", "format": "int64"},
    _KINDS.TYPE_UINT64: {"type": "string", "format": "uint64"},
    _KINDS.TYPE_FIXED64: {"type": "string", "format": "uint64"},
}
_WELL_KNOWN: dict[str, dict[str, Any]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Duration": {"type": "string", "pattern": r"^-?[0-9]+(\.[0-9]{1,9})?s$"},
    ".google.protobuf.FieldMask": {
        "type": "string",
        "description": "Paths in camelCase, separated by commas.",
    },
    ".google.protobuf.Struct": {"type": "object"},
    ".google.protobuf.Empty": {"type": "object"},
    ".google.protobuf.Any": {"type": "object", "properties": {"@type": {"type": "string"}}},
    ".google.protobuf.DoubleValue": {"type": "number"},
    ".google.protobuf.BoolValue": {"type": "boolean"},
    ".google.protobuf.StringValue": {"type": "string"},
    ".google.protobuf.Int32Value": {"type": "integer"},
    ".google.protobuf.Int64Value": {"type": "string", "format": "int64"},
}
_CONSTRAINTS = {
    "bool.const": "const",
    "double.gt": "exclusiveMinimum",
    "double.gte": "minimum",
    "double.lte": "maximum",
    "int32.gte": "minimum",
    "int32.lte": "maximum",
    "map.max_pairs": "maxProperties",
    "repeated.max_items": "maxItems",
    "repeated.min_items": "minItems",
    "string.max_bytes": "maxLength",
    "string.max_len": "maxLength",
    "string.min_bytes": "minLength",
}
"""Words of JSON Schema for rules of protovalidate."""
_ERROR_SCHEMA = {
    "type": "object",
    "description": (
        "A refusal. `details` has a `google.rpc.ErrorInfo` with the reason, and where fields are at fault a"
        " `google.rpc.BadRequest`."
    ),
    "properties": {
        "code": {"type": "string", "description": "The canonical code, such as `invalid_argument`."},
        "message": {"type": "string"},
        "details": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "type": {"type": "string", "description": "Full name of the message in `value`."},
                    "value": {"type": "string", "contentEncoding": "base64"},
                    "debug": {"type": "object", "description": "The JSON form of the message."},
                },
            },
        },
    },
}


def document(files: Sequence[FileDescriptorProto]) -> dict[str, Any]:
    """The description of all services in these files."""
    schemas: dict[str, Any] = {ERROR: _ERROR_SCHEMA}
    paths: dict[str, Any] = {}
    tags = []
    for file in files:
        comments = Comments(file)
        for index, message in enumerate(file.message_type):
            schemas.update(_messages(message, PACKAGE, comments, (FILE_MESSAGES, index)))
        for index, enum in enumerate(file.enum_type):
            schemas[f"{PACKAGE}.{enum.name}"] = _enum(enum, comments, (FILE_ENUMS, index))
        for index, service in enumerate(file.service):
            tags.append({"name": service.name, "description": comments.at(FILE_SERVICES, index)})
            paths.update(_service(service, comments, index))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Milepost",
            "version": "v1",
            "description": (
                "The methods of `milepost.v1` over HTTP, by the Connect protocol with JSON. Fields that have"
                " their default value are left out of answers."
            ),
        },
        "security": [{}, {"apiKey": []}],
        "tags": sorted(tags, key=lambda tag: tag["name"]),
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {"apiKey": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _service(service: ServiceDescriptorProto, comments: Comments, index: int) -> Iterator[tuple[str, Any]]:
    for number, method in enumerate(service.method):
        comment = comments.at(FILE_SERVICES, index, SERVICE_METHODS, number)
        yield f"/{PACKAGE}.{service.name}/{method.name}", {"post": _operation(service.name, method, comment)}


def _operation(service: str, method: MethodDescriptorProto, comment: str) -> dict[str, Any]:
    is_stream = method.client_streaming or method.server_streaming
    content = "application/connect+json" if is_stream else "application/json"
    frames = (
        "\n\nA stream of Connect: a byte of flags and the length in four bytes precede each message. The last"
        " one (flag 2) has the error, if any."
        if is_stream
        else ""
    )
    return {
        "operationId": f"{service}_{method.name}",
        "tags": [service],
        "description": comment + frames,
        "parameters": [
            {
                "name": "Connect-Timeout-Ms",
                "in": "header",
                "description": "Deadline of the call, in milliseconds from now.",
                "schema": {"type": "integer"},
            }
        ],
        "requestBody": {"required": True, "content": {content: {"schema": _reference(method.input_type)}}},
        "responses": {
            "200": {"description": "OK", "content": {content: {"schema": _reference(method.output_type)}}},
            "default": {
                "description": "A refusal.",
                "content": {"application/json": {"schema": _reference(f".{ERROR}")}},
            },
        },
    }


def _messages(
    message: DescriptorProto, outside: str, comments: Comments, path: tuple[int, ...]
) -> Iterator[tuple[str, Any]]:
    """The schemas of a message and of those inside it, by full name."""
    name = f"{outside}.{message.name}"
    maps = {f".{name}.{nested.name}": nested for nested in message.nested_type if nested.options.map_entry}
    schema: dict[str, Any] = {"type": "object"}
    if described := _described(message, comments, path):
        schema["description"] = described
    rules = {field.name: rules_of(field) for field in contract().FindMessageTypeByName(name).fields}
    schema["properties"] = {
        field.json_name: _field(field, maps, rules[field.name], comments.at(*path, MESSAGE_FIELDS, index))
        for index, field in enumerate(message.field)
    }
    if required := [field.json_name for field in message.field if rules[field.name].get("required")]:
        schema["required"] = required
    schema["additionalProperties"] = False
    yield name, schema
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _messages(nested, name, comments, (*path, MESSAGE_NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield f"{name}.{enum.name}", _enum(enum, comments, (*path, MESSAGE_ENUMS, index))


def _described(message: DescriptorProto, comments: Comments, path: tuple[int, ...]) -> str:
    """The comment of a message, and which of its fields exclude each other."""
    parts = [comments.at(*path)]
    for index, _ in enumerate(message.oneof_decl):
        fields = [
            f"`{field.json_name}`"
            for field in message.field
            if field.HasField("oneof_index") and field.oneof_index == index and not field.proto3_optional
        ]
        if fields:
            parts.append(f"At most one of {', '.join(fields)}.")
    return "\n\n".join(part for part in parts if part)


def _field(
    field: FieldDescriptorProto, maps: dict[str, DescriptorProto], rules: Rules, comment: str
) -> dict[str, Any]:
    if field.type_name in maps:
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": _value(maps[field.type_name].field[1])
            | constraints(_inside(rules, "map.values.")),
        }
        if keys := constraints(_inside(rules, "map.keys.")):
            schema["propertyNames"] = keys
    elif field.label == FieldDescriptorProto.LABEL_REPEATED:
        items = _value(field) | constraints(_inside(rules, "repeated.items."))
        schema = {"type": "array", "items": items}
    else:
        schema = _value(field)
    schema |= constraints(rules)
    return schema | {"description": comment} if comment else schema


def _inside(rules: Rules, above: str) -> Rules:
    return {path.removeprefix(above): rule for path, rule in rules.items() if path.startswith(above)}


def constraints(rules: Rules) -> dict[str, Any]:
    """What JSON Schema can say of the rules of a field: not more than they do.

    A text has at most as many characters as bytes. Numbers of 64 bits and durations are strings in JSON.
    """
    found = {_CONSTRAINTS[path]: rule for path, rule in rules.items() if path in _CONSTRAINTS}
    if pattern := rules.get("string.pattern"):
        form = pattern.removeprefix("^").removesuffix("$")
        found["pattern"] = f"^(?:{form})?$" if "ignore" in rules else pattern
    if rules.get("required"):
        if any(path.startswith("string.") for path in rules):
            found["minLength"] = 1
        elif "repeated.max_items" in rules:
            found.setdefault("minItems", 1)
    return dict(sorted(found.items()))


def _value(field: FieldDescriptorProto) -> dict[str, Any]:
    if field.type in (FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.TYPE_ENUM):
        return dict(_WELL_KNOWN.get(field.type_name) or _reference(field.type_name))
    return dict(_SCALARS[field.type])


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...]) -> dict[str, Any]:
    values = "\n".join(
        f"- `{value.name}`: {comments.at(*path, ENUM_VALUES, index)}"
        for index, value in enumerate(enum.value)
    )
    return {
        "type": "string",
        "enum": [value.name for value in enum.value],
        "description": f"{comments.at(*path)}\n\n{values}".strip(),
    }


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name.removeprefix('.')}"}


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; the exit status, 1 when the check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the OpenAPI description of the contract.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    files = of_contract(compiled())
    text = json.dumps(document(files), indent=1, ensure_ascii=False) + "\n"
    if not options.check:
        TARGET.write_text(text, encoding="utf-8")
        print(f"{TARGET}: {len(text):,} characters")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET.name} is outdated: run `make protos` and commit the result", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
