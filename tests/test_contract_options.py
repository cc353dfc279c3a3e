"""The options of the contract say what its comments and the service say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, MethodOptions

from service.readers.routes import CONTRACT_FILES
from tests.harness import Serving, refusal_of, serving
from tests.spec.scenario import METHODS
from tools.contract import RULES_FILE, compiled, of_contract, without_rules

ROOT = Path(__file__).resolve().parent.parent

# Their stubs do not say that these are extensions.
BEHAVIOUR: Any = field_behavior_pb2.field_behavior
RESOURCE: Any = resource_pb2.resource
REFERENCE: Any = resource_pb2.resource_reference
HTTP_RULE: Any = annotations_pb2.http
BEHAVIOURS = {
    "Required.": field_behavior_pb2.REQUIRED,
    "Output only.": field_behavior_pb2.OUTPUT_ONLY,
    "Resource name": field_behavior_pb2.IDENTIFIER,
}
VERBS = ("get", "put", "post", "delete", "patch")
MESSAGES, FIELDS = 4, 2
"""Numbers of the fields that the path of a comment goes through."""


@pytest.fixture(scope="module")
def files() -> list[FileDescriptorProto]:
    return of_contract(compiled())


def test_every_file_has_the_packages_of_other_languages(files: list[FileDescriptorProto]) -> None:
    for file in files:
        options = file.options
        assert (options.go_package, options.java_package) == ("milepost/v1;milepostv1", "milepost.v1")
        assert (options.csharp_namespace, options.java_multiple_files) == ("Milepost.V1", True)


def test_the_behaviour_of_a_field_is_what_its_comment_says(files: list[FileDescriptorProto]) -> None:
    wrong = []
    for file in files:
        comments = {
            tuple(each.path): each.leading_comments.strip() for each in file.source_code_info.location
        }
        for i, message in enumerate(file.message_type):
            for j, field in enumerate(message.field):
                comment = comments.get((MESSAGES, i, FIELDS, j), "")
                said = {behaviour for words, behaviour in BEHAVIOURS.items() if comment.startswith(words)}
                if comment.endswith("Immutable."):
                    said.add(field_behavior_pb2.IMMUTABLE)
                if field.name == "etag":
                    # The service sets it, and callers send it back.
                    said.discard(field_behavior_pb2.OUTPUT_ONLY)
                if said != set(field.options.Extensions[BEHAVIOUR]):
                    wrong.append(f"{message.name}.{field.name}: {comment}")
    assert wrong == []


def test_without_rules_the_contract_has_every_other_option_and_no_import_for_them() -> None:
    ruled = {file.name: file for file in of_contract(compiled())}
    plain = {file.name: file for file in of_contract(without_rules(compiled()))}
    assert ruled.keys() == plain.keys()
    assert any(RULES_FILE in file.dependency for file in ruled.values())
    for name, file in plain.items():
        assert RULES_FILE not in file.dependency
        for before, message in zip(ruled[name].message_type, file.message_type, strict=True):
            assert message.options == before.options
            for field_before, field in zip(before.field, message.field, strict=True):
                known = [option for option, _ in field_before.options.ListFields()]
                assert [option for option, _ in field.options.ListFields()] == known
                assert len(field.options.SerializeToString()) == sum(map(len, _options(field)))


def _options(field: Any) -> Iterator[bytes]:
    """What of a field's options is known here, as bytes."""
    for extension, value in field.options.ListFields():
        alone = type(field.options)()
        if extension.is_extension and extension.is_repeated:
            alone.Extensions[extension].extend(value)
        elif extension.is_extension:
            alone.Extensions[extension].CopyFrom(value)
        else:
            setattr(alone, extension.name, value)
        yield alone.SerializeToString()


# --- resources ---


def resources() -> dict[str, list[str]]:
    """The patterns of each type of resource."""
    found = {}
    for message in messages():
        resource = message.GetOptions().Extensions[RESOURCE]
        if resource.type:
            assert resource.type == f"milepost/{message.name}"
            assert message.fields_by_name["name"] is not None
            found[resource.type] = list(resource.pattern)
    return found


def messages() -> Iterator[Descriptor]:
    files = {file.name: file for file in CONTRACT_FILES}
    pending = list(files.values())
    while pending:
        for needed in pending.pop().dependencies:
            if needed.name.startswith("milepost/") and needed.name not in files:
                files[needed.name] = needed
                pending.append(needed)
    for file in files.values():
        yield from file.message_types_by_name.values()


def test_references_name_resources_of_the_contract() -> None:
    known = resources()
    assert len(known) == 10
    references = {
        f"{message.full_name}.{field.name}": field.GetOptions().Extensions[REFERENCE].type
        for message in messages()
        for field in message.fields
    }
    named = {where: type_ for where, type_ in references.items() if type_}
    assert len(named) > 60
    assert {type_ for type_ in named.values() if type_ not in known} == set()
    assert named["milepost.v1.GetJourneyRequest.name"] == "milepost/Journey"


# --- rules of HTTP ---


def bindings(method: MethodDescriptor) -> list[tuple[str, str, str]]:
    """Verb, path and body of each rule."""
    rule = method.GetOptions().Extensions[HTTP_RULE]
    found = []
    for each in (rule, *rule.additional_bindings):
        verb = each.WhichOneof("pattern")
        if verb is not None:
            found.append((verb, getattr(each, verb), each.body))
    return found


def test_every_method_that_can_have_a_rule_of_http_has_one() -> None:
    without = [name for name, method in METHODS.items() if not bindings(method)]
    assert without == [name for name, method in METHODS.items() if method.client_streaming]


def test_the_rules_of_http_name_fields_and_differ() -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, method in METHODS.items():
        for verb, path, body in bindings(method):
            assert verb in VERBS
            for variable in re.findall(r"\{([\w.]+)", path):
                field = field_at(method.input_type, variable)
                assert field.type == FieldDescriptor.TYPE_STRING, f"{name}: {variable}"
            assert body in ("", "*") or body in method.input_type.fields_by_name, f"{name}: {body}"
            # What a gateway sees: the place of each variable, not its name.
            place = (verb, re.sub(r"\{[\w.]+(=([^}]*))?\}", lambda found: found[2] or "*", path))
            assert place not in seen, f"{name} and {seen.get(place)}: {place}"
            seen[place] = name


def field_at(message: Descriptor, path: str) -> FieldDescriptor:
    first, _, rest = path.partition(".")
    field = message.fields_by_name[first]
    if not rest:
        return field
    assert field.message_type is not None
    return field_at(field.message_type, rest)


# --- what the service does ---


def test_reads_are_marked_as_in_the_published_service_config() -> None:
    config: dict[str, Any] = json.loads(
        (ROOT / "clients" / "python" / "milepost" / "service_config.json").read_text(encoding="utf-8")
    )
    names = [name for each in config["methodConfig"] for name in each["name"]]
    read = {f"{name['service'].rpartition('.')[2]}.{name['method']}" for name in names} & METHODS.keys()
    marked = {
        name
        for name, method in METHODS.items()
        if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    assert marked == {name for name in read if not METHODS[name].server_streaming}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("options"), memory=True, access_log="none") as made:
        yield made


def required(message: Descriptor) -> set[str]:
    return {
        field.name
        for field in message.fields
        if field_behavior_pb2.REQUIRED in field.GetOptions().Extensions[BEHAVIOUR]
    }


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, method in METHODS.items()
        if required(method.input_type) and not (method.client_streaming or method.server_streaming)
    ],
)
def test_the_service_refuses_a_request_without_its_required_fields(service: Serving, name: str) -> None:
    method = METHODS[name]
    call: Any = service.channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")
    refusal = refusal_of(call, b"")
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT, refusal
    at_fault = {re.split(r"[.\[]", field)[0] for field in refusal.violations}
    choices = {choice.name for choice in method.input_type.oneofs}
    assert at_fault <= required(method.input_type) | choices, refusal.violations
