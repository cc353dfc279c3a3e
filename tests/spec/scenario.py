"""The scenario of `methods.yaml`: every method of the contract, called with requests that it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from service.server import SERVICE_NAMES
from tests.arrow_requests import arrow_bytes
from tests.connect_channel import ConnectChannel
from tests.harness import CALL_TIMEOUT_S, EVENTUALLY_S, POLL_S, Stubs, bearer, read_refusal, serving
from tests.yaml_files import read_yaml

STEPS: list[dict[str, Any]] = read_yaml(Path(__file__).with_name("methods.yaml"))
ANY = "$any"
OPERATOR = "operator"
"""The name under which the steps save the secret that later ones send."""

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}.{method.name}": method
    for service in map(descriptor_pool.Default().FindServiceByName, SERVICE_NAMES)
    for method in service.methods
}

Before = Callable[[MethodDescriptor, Callable[..., Any], list[Any]], None]
"""Takes a method, what calls it, and its requests: one, or those of a stream."""


class Run:
    """Performs steps on a service."""

    def __init__(self, service: Stubs, before: Before | None = None, channel: Any = None) -> None:
        """`before` is called with each call that will be answered, before it is made. `channel` is what calls
        go through in place of the service's own.
        """
        self.service = service
        self._channel = channel or service.channel
        self._before = before
        self._saved: dict[str, str] = {}

    def saved(self, name: str) -> str:
        """What a step saved under that name."""
        return self._saved[name]

    def perform(self, step: dict[str, Any]) -> list[str]:
        """The differences from what the step expects."""
        deadline = time.monotonic() + EVENTUALLY_S
        while True:
            found = self._once(step)
            if not found or not step.get("eventually") or time.monotonic() > deadline:
                return found
            time.sleep(POLL_S)

    def _once(self, step: dict[str, Any]) -> list[str]:
        wanted = self._filled({key: step[key] for key in ("answer", "answers", "last") if key in step})
        try:
            answers = self._call(METHODS[step["method"]], step)
        except grpc.RpcError as error:
            refusal = read_refusal(error)
            if "refusal" not in step:
                return [f"refused: {refusal.code.name} {refusal.message}"]
            return differences(
                step["refusal"], {"code": refusal.code.name, "reason": refusal.reason}, "refusal"
            )
        if "refusal" in step:
            return [f"not refused: {answers}"]
        for name, path in step.get("save", {}).items():
            value: Any = answers[0]
            for part in path.split("."):
                value = value[part]
            self._saved[name] = value
        if "answers" in wanted:
            return differences(wanted["answers"], answers, "answers")
        if "last" in wanted:
            return differences(wanted["last"], answers[-1], "last")
        return differences([wanted["answer"]], answers, "answer")

    def _call(self, method: MethodDescriptor, step: dict[str, Any]) -> list[dict[str, Any]]:
        """The answers as trees with every field, or as many as the step compares of a stream without end."""
        kind = message_factory.GetMessageClass(method.input_type)
        requests = [self._request(kind, each) for each in step.get("requests", [step.get("request")])]
        streams = f"{'stream' if method.client_streaming else 'unary'}_{_form(method.server_streaming)}"
        call = getattr(self._channel, streams)(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=kind.SerializeToString,
            response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
        )
        if OPERATOR in self._saved:
            call = partial(call, metadata=bearer(self._saved[OPERATOR]))
        if self._before is not None and "refusal" not in step:
            self._before(method, call, requests)
        answer = call(iter(requests) if method.client_streaming else requests[0], timeout=CALL_TIMEOUT_S)
        if not method.server_streaming:
            return [_tree(answer)]
        answers = []
        for each in answer:
            answers.append(_tree(each))
            if "answers" in step and len(answers) == len(step["answers"]):
                answer.cancel()
                break
        return answers

    def _request(self, kind: type[Message], tree: dict[str, Any]) -> Message:
        if "arrow" not in tree:
            return json_format.ParseDict(self._filled(tree), kind())
        return kind(arrow=arrow_of(tree["arrow"]))

    def _filled(self, tree: Any) -> Any:
        """The tree with what stands for another value replaced by it."""
        if isinstance(tree, dict):
            return {key: self._filled(value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self._filled(value) for value in tree]
        if tree == "$now":
            return datetime.now(UTC).isoformat()
        if isinstance(tree, str) and tree.startswith("$") and tree != ANY:
            return self._saved[tree.removeprefix("$")]
        return tree


def arrow_of(columns: dict[str, list[Any]]) -> bytes:
    """Columns of a step as an Arrow stream."""
    arrays = {
        name: pa.array(values, pa.timestamp("us", "UTC") if name == "time" else None)
        for name, values in columns.items()
    }
    return arrow_bytes(pa.RecordBatch.from_pydict(arrays))


def _form(streaming: bool) -> str:
    return "stream" if streaming else "unary"


def _tree(message: Message) -> dict[str, Any]:
    tree: dict[str, Any] = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return tree


def differences(wanted: Any, found: Any, path: str) -> list[str]:
    """One line for each place where `found` lacks or contradicts what is wanted.

    JSON writes 64-bit numbers as strings.
    """
    if wanted == ANY:
        return [] if found else [f"{path}: nothing"]
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [
            line
            for key, value in wanted.items()
            for line in (
                differences(value, found[key], f"{path}.{key}")
                if key in found
                else [f"{path}.{key}: missing among {sorted(found)}"]
            )
        ]
    if isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return [f"{path}: {len(found)} elements, expected {len(wanted)}: {found}"]
        return [
            line
            for index, (each, other) in enumerate(zip(wanted, found, strict=True))
            for line in differences(each, other, f"{path}[{index}]")
        ]
    same = wanted == found or (isinstance(found, str) and str(wanted) == found)
    return [] if same else [f"{path}: {found!r}, expected {wanted!r}"]


@contextmanager
def scenario(directory: Path, before: Before | None = None, **more: Any) -> Iterator[Run]:
    """A run over a new store in `directory`, with `more` settings. With `http_port` its calls are those of
    Connect over HTTP.
    """
    blocked = directory / "outputs" / "a" / "blocked"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file in the place of a directory")
    settings = {"output_dir": directory / "outputs", "backup_dir": directory / "backups", **more}
    with serving(directory / "store", access_log="none", retry_budget_s=0.1, **settings) as service:
        address = service.application.http_address
        yield Run(service, before, None if address is None else ConnectChannel(address))
