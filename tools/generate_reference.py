"""Generate the reference pages of the contract, or check that the committed ones are fresh.

    python -m tools.generate_reference            # rewrite docs/reference
    python -m tools.generate_reference --check    # compare only; exit 1 and name every page that differs

A page for each service, one for the messages that several methods share, one for the reasons of errors. They
say what is in the contract: comments, rules of protovalidate, rules of HTTP, and which methods only read. The
scopes that keys need are those of the service.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from google.api import annotations_pb2
from google.protobuf.descriptor import (
    Descriptor,
    EnumDescriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from service.auth.methods import rule_of
from tools.contract import (
    ENUM_VALUES,
    FILE_ENUMS,
    FILE_MESSAGES,
    FILE_SERVICES,
    MESSAGE_FIELDS,
    MESSAGE_ONEOFS,
    MICROS_PER_SECOND,
    PACKAGE,
    ROOT,
    SERVICE_METHODS,
    Comments,
    Rules,
    compiled,
    contract,
    must_have_one,
    of_contract,
    rules_of,
)

TARGET = ROOT / "docs" / "reference"
MESSAGES, ERRORS, INDEX = "messages.md", "errors.md", "README.md"
REASONS = "ErrorReason"
MADE = "<!-- Made by `make protos` from protos/milepost/v1. -->\n"
ID = "[a-z][a-z0-9-]{0,62}"
NUMBER = "[1-9][0-9]{0,11}"
HTTP_RULE: Any = annotations_pb2.http
CODES = [code.name for code in grpc.StatusCode]
UNITS = (("days", 86_400), ("hours", 3_600), ("minutes", 60), ("seconds", 1))

_SCALARS = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FIXED64: "fixed64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_UINT64: "uint64",
}


_PARTS = (("repeated.items.", "each "), ("map.keys.", "keys "), ("map.values.", "values "), ("", ""))
"""How rules of elements begin, and words for it."""


class Reference:
    """Makes the pages."""

    def __init__(self, files: list[FileDescriptorProto]) -> None:
        self._files = files
        self._comments: dict[str, str] = {}
        for file in files:
            self._comments |= dict(_comments(file))
        services = [service for file in files for service in self._described(file).services_by_name.values()]
        self._services: list[ServiceDescriptor] = sorted(services, key=lambda service: service.name)
        self._own: dict[str, str] = {}
        """The pages of messages that one method takes or answers, by name."""
        for service in self._services:
            for method in service.methods:
                for message in (method.input_type, method.output_type):
                    self._own[message.full_name] = page_of(service)

    def pages(self) -> dict[str, str]:
        """The text of each page, by its file name."""
        pages = {INDEX: self._index(), MESSAGES: self._messages(), ERRORS: self._errors()}
        return pages | {page_of(service): self._service(service) for service in self._services}

    def _described(self, file: FileDescriptorProto) -> Any:
        return contract().FindFileByName(file.name)

    # --- pages ----------------------------------------------------------------------------------------------

    def _index(self) -> str:
        lines = [
            "# The contract",
            MADE,
            f"Every method of `{PACKAGE}`, by service. [Messages](messages.md) are those that several methods"
            " share, [errors](errors.md) the reasons for which calls fail.",
            "",
            "A limit is that of a service by default; [operations](../operations.md) has the settings that"
            " change some. The `.proto` files have them as rules of"
            " [protovalidate](https://protovalidate.com).",
        ]
        for service in self._services:
            page = page_of(service)
            lines += ["", f"## [{service.name}]({page})", "", self._comments[service.full_name], ""]
            lines += ["| method | |", "|---|---|"]
            for method in service.methods:
                first = cell(self._comments[method.full_name]).partition(". ")[0].rstrip(".") + "."
                lines.append(f"| [{method.name}]({page}#{method.name.lower()}) | {first} |")
        return text(lines)

    def _service(self, service: ServiceDescriptor) -> str:
        lines = [f"# {service.name}", MADE, self._comments[service.full_name]]
        for method in service.methods:
            lines += ["", f"## {method.name}", "", self._comments[method.full_name], ""]
            lines += self._facts(service, method)
            for message in (method.input_type, method.output_type):
                lines += ["", *self._message(message, "###", page_of(service))]
        return text(lines)

    def _facts(self, service: ServiceDescriptor, method: MethodDescriptor) -> Iterator[str]:
        yield f"- gRPC, and over HTTP: `POST /{service.full_name}/{method.name}`, {kind_of(method)}"
        rule = method.GetOptions().Extensions[HTTP_RULE]
        bound = [
            f"`{verb.upper()} {getattr(each, verb)}`"
            for each in (rule, *rule.additional_bindings)
            if (verb := each.WhichOneof("pattern"))
        ]
        if bound:
            yield f"- Rule of HTTP, for gateways: {' or '.join(bound)}"
        needed = rule_of(f"/{service.full_name}/{method.name}")
        scope = f"`{needed.scope}`" if needed.scope else "any"
        other = f", without a name `{needed.without_name}`" if needed.without_name else ""
        yield f"- Scope of the key: {scope}{other}"
        if method.GetOptions().idempotency_level == method.GetOptions().NO_SIDE_EFFECTS:
            yield "- Only reads"
        codes = [f"`{code}`" for code in CODES if re.search(rf"\b{code}\b", self._comments[method.full_name])]
        beside = f"{', '.join(codes)}, and " if codes else ""
        yield f"- Errors: {beside}[those of every method](errors.md)"

    def _messages(self) -> str:
        lines = ["# Messages", MADE, "What the requests and answers of several methods have in them."]
        described = [self._described(file) for file in self._files]
        messages = {name: each for file in described for name, each in file.message_types_by_name.items()}
        enums = {name: each for file in described for name, each in file.enum_types_by_name.items()}
        for _, message in sorted(messages.items()):
            if message.full_name not in self._own:
                lines += ["", *self._message(message, "##", MESSAGES)]
        lines += ["", "# Enums"]
        for name, enum in sorted(enums.items()):
            if name != REASONS:
                lines += ["", f"## {name}", "", self._comments[enum.full_name], "", *self._values(enum)]
        return text(lines)

    def _errors(self) -> str:
        enum = contract().FindEnumTypeByName(f"{PACKAGE}.{REASONS}")
        lines = [
            "# Errors",
            MADE,
            self._comments[enum.full_name],
            "",
            "| reason | code | |",
            "|---|---|---|",
        ]
        for value in enum.values[1:]:
            code, _, rest = self._of_value(value.name).partition(". ")
            lines.append(f"| `{value.name.removeprefix('ERROR_REASON_')}` | {code} | {cell(rest)} |")
        return text(lines)

    # --- their parts ----------------------------------------------------------------------------------------

    def _message(self, message: Descriptor, level: str, page: str) -> Iterator[str]:
        yield f"{level} {message.name}"
        yield ""
        yield self._comments[message.full_name]
        if not message.fields:
            return
        yield ""
        yield "| field | type | limits | |"
        yield "|---|---|---|---|"
        for field in message.fields:
            type_ = self._type(field, page)
            comment = cell(self._comments[field.full_name])
            yield f"| `{field.name}` | {type_} | {cell(limits(rules_of(field)))} | {comment} |"
        for choice in message.oneofs:
            names = ", ".join(f"`{field.name}`" for field in choice.fields)
            number = "Exactly" if must_have_one(choice) else "At most"
            yield ""
            yield f"{number} one of {names}. {self._comments[choice.full_name]}"

    def _type(self, field: FieldDescriptor, page: str) -> str:
        inside = field.message_type
        if inside is not None and inside.GetOptions().map_entry:
            key, value = inside.fields
            return f"map of {self._type(key, page)} to {self._type(value, page)}"
        named = inside or field.enum_type
        type_ = _SCALARS[field.type] if named is None else self._linked(named, page)
        return f"list of {type_}" if field.is_repeated else type_

    def _linked(self, named: Descriptor | EnumDescriptor, page: str) -> str:
        if not named.full_name.startswith(f"{PACKAGE}."):
            return named.name
        target = ERRORS if named.name == REASONS else self._own.get(named.full_name, MESSAGES)
        anchor = "errors" if named.name == REASONS else named.name.lower()
        return f"[{named.name}]({'' if target == page else target}#{anchor})"

    def _values(self, enum: EnumDescriptor) -> Iterator[str]:
        yield "| value | number | |"
        yield "|---|---|---|"
        for value in enum.values:
            yield f"| `{value.name}` | {value.number} | {cell(self._of_value(value.name))} |"

    def _of_value(self, name: str) -> str:
        """The comment of a value of an enum. They have no names of their own below it."""
        return self._comments[f"{PACKAGE}.{name}"]


def _comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """The comment of each element, by full name."""
    comments = Comments(file)
    for i, service in enumerate(file.service):
        name = f"{PACKAGE}.{service.name}"
        yield name, comments.at(FILE_SERVICES, i)
        for j, method in enumerate(service.method):
            yield f"{name}.{method.name}", comments.at(FILE_SERVICES, i, SERVICE_METHODS, j)
    for i, message in enumerate(file.message_type):
        name = f"{PACKAGE}.{message.name}"
        yield name, comments.at(FILE_MESSAGES, i)
        for j, field in enumerate(message.field):
            yield f"{name}.{field.name}", comments.at(FILE_MESSAGES, i, MESSAGE_FIELDS, j)
        for j, oneof in enumerate(message.oneof_decl):
            yield f"{name}.{oneof.name}", comments.at(FILE_MESSAGES, i, MESSAGE_ONEOFS, j)
    for i, enum in enumerate(file.enum_type):
        yield f"{PACKAGE}.{enum.name}", comments.at(FILE_ENUMS, i)
        for j, value in enumerate(enum.value):
            yield f"{PACKAGE}.{value.name}", comments.at(FILE_ENUMS, i, ENUM_VALUES, j)


def page_of(service: ServiceDescriptor) -> str:
    """The file name of a service's page: `account-service.md`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", service.name).lower() + ".md"


def kind_of(method: MethodDescriptor) -> str:
    """What goes each way."""
    match method.client_streaming, method.server_streaming:
        case False, False:
            return "one request, one answer"
        case False, True:
            return "one request, a stream of answers"
        case True, False:
            return "a stream of requests, one answer"
    return "a stream each way"


def limits(rules: Rules) -> str:
    """The rules of a field in words."""
    parts = ["required"] if rules.get("required") else []
    left = dict(rules)
    for above, of_what in (
        ("repeated.items.", "each "),
        ("map.keys.", "keys "),
        ("map.values.", "values "),
        ("", ""),
    ):
        inside = {path: left.pop(path) for path in rules if path in left and path.startswith(above)}
        by_rule = {path.rpartition(".")[2]: (path.rpartition(".")[0], rule) for path, rule in inside.items()}
        parts += [of_what + part for part in _in_words(by_rule)]
    return ", ".join(parts)


def _in_words(rules: dict[str, tuple[str, Any]]) -> Iterator[str]:
    for names, unit in (
        (("min_bytes", "max_bytes"), " bytes"),
        (("min_len", "max_len"), " characters"),
        (("min_items", "max_items"), " elements"),
        (("min_pairs", "max_pairs"), " entries"),
        (("gte", "lte"), ""),
    ):
        low, high = (rules.get(name) for name in names)
        if low or high:
            yield _between(*(None if each is None else amount(*each) for each in (low, high))) + unit
    if "gt" in rules:
        yield f"more than {amount(*rules['gt'])}"
    if "finite" in rules:
        yield "finite"
    if "const" in rules:
        yield str(rules["const"][1]).lower()
    if "pattern" in rules:
        yield f"`{shape(rules['pattern'][1])}`"


def _between(low: str | None, high: str | None) -> str:
    if low is None:
        return f"at most {high}"
    return f"at least {low}" if high is None else f"{low} to {high}"


def amount(kind: str, value: Any) -> str:
    """A number, or a duration with its unit."""
    if not kind.endswith("duration"):
        return f"{int(value):,}" if value == int(value) else str(value)
    for unit, seconds in UNITS:
        if value and value % (seconds * MICROS_PER_SECOND) == 0:
            return f"{value // (seconds * MICROS_PER_SECOND):,} {unit}"
    return f"{value / MICROS_PER_SECOND:g} s"


def shape(pattern: str) -> str:
    """A pattern with the parts that are ids written as such."""
    return pattern.removeprefix("^").removesuffix("$").replace(ID, "{id}").replace(NUMBER, "{number}")


def cell(comment: str) -> str:
    """A comment for a table."""
    return comment.replace("\n\n", " ").replace("|", "\\|")


def text(lines: list[str]) -> str:
    """A page of these lines."""
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; the exit status, 1 when the check finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the reference pages of the contract.")
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    options = parser.parse_args(arguments)
    pages = Reference(of_contract(compiled())).pages()
    committed = {path.name: path.read_text(encoding="utf-8") for path in TARGET.glob("*.md")}
    differing = sorted(
        name for name in pages.keys() | committed.keys() if pages.get(name) != committed.get(name)
    )
    if options.check:
        for name in differing:
            print(f"differs from its .proto: docs/reference/{name}", file=sys.stderr)
        if differing:
            print("run `make protos` and commit the result", file=sys.stderr)
        return 1 if differing else 0
    TARGET.mkdir(exist_ok=True)
    for name in differing:
        if name in pages:
            (TARGET / name).write_text(pages[name], encoding="utf-8")
        else:
            (TARGET / name).unlink()
    print(f"{len(pages)} pages in {TARGET}, {len(differing)} changed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
