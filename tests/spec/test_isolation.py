"""A key of one account learns nothing of another: what it names there is answered like what does not exist.

The scenario of `methods.yaml` runs in two accounts at the same time: in `accounts/a` as an operator, and in
`accounts/o` with a key of that account. Before each call of that key, every field of the request that holds a
name is filled with its counterpart in `accounts/a`, which exists, and with the same name in `accounts/z`, an
account that does not. Both must be answered alike. Fields for names that the scenario leaves out are filled
with a name of every kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from engine.limits import DISPLAY_NAME_CHARACTERS_MAX
from engine.resources.records import (
    Account,
    ApiKey,
    Audience,
    Connection,
    Input,
    Journey,
    Milestone,
    Output,
    Record,
    Scope,
    Workspace,
)
from milepost.v1 import account_pb2, account_service_pb2
from service.auth.methods import RULES
from service.convert.text_limits import WRITES
from tests.harness import CALL_TIMEOUT_S, Refusal, Serving, bearer, read_refusal
from tests.spec.scenario import METHODS, OPERATOR, STEPS, Run, scenario
from tests.spec.test_long_texts import Way, texts

THEIRS, MINE, NOBODY_S = "accounts/a", "accounts/o", "accounts/z"
ANSWERS_MAX = 5
"""Messages read of a stream without an end."""
NAMES = """
    name parent audience audiences connection output journey inputs input parent_milestone replaces
    milestone workspace connected_outputs
"""
"""Fields that hold names of resources."""
TEXTS = """
    account_id api_key_id at_least attributes bootstrap_servers ca_certificates column confirmation
    connection_id contains credentials default_name denied_values display_name ends_with epoch
    equals etag event_id event_id_column event_name external_name failure fault from_user_id
    given_values glob greater_or_equal greater_than hashed_attributes hashed_identities id
    identities identity_type ignored_columns input_column input_id journey_id key label last_error
    less_or_equal less_than matches milestone_id name_column of order_by output_id page_token
    password path paths position prefix purpose query regulation request_id revision salt secret servers
    starts_with stream string_value subject time_column time_format time_zone to_user_id topic
    type_column unset_attributes unset_identities url user user_id user_id_column user_ids values
    workspace_id
"""
"""Fields that hold other texts. A field of the contract is in one of these, or the test fails."""
OF_EVENTS = ("events.name", "event.name", "steps.name")
"""Names of events."""
KINDS: tuple[type[Record], ...] = (
    Account,
    Workspace,
    Input,
    Journey,
    Milestone,
    Audience,
    Output,
    Connection,
    ApiKey,
)
REFUSED: dict[str, Any] = {"display_name": "x" * (DISPLAY_NAME_CHARACTERS_MAX + 1), "max_changes": -1}
PASSING = ("revision", "asOf", "elapsed")
"""Fields of an answer that change from call to call, beside times."""

Step = dict[str, Any]

MORE_STEPS: tuple[Step, ...] = (
    {
        "method": "AccountService.UpdateAccount",
        "request": {"account": {"name": MINE, "display_name": "Mine"}},
        "answer": {},
    },
)
"""What the scenario does in no account that both have."""


def translated(tree: Any) -> Any:
    """A step of `accounts/a` for `accounts/o`."""
    if isinstance(tree, dict):
        return {key: translated(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [translated(value) for value in tree]
    return moved(tree, THEIRS, MINE) if isinstance(tree, str) else tree


def moved(name: str, account: str, to: str) -> str:
    """The name in another account. Any other text as it is."""
    return to + name[len(account) :] if name == account or name.startswith(f"{account}/") else name


def is_mine_to_do(step: Step) -> bool:
    """Whether a key of an account may do the step."""
    service, _, method = step["method"].partition(".")
    rule = RULES[f"/milepost.v1.{service}/{method}"]
    names = str(step.get("request", step.get("requests")))
    return rule.scope is not Scope.OPERATOR and bool(rule.names) and "accounts/b" not in names


def named_fields(message: Message, path: str = "") -> Iterator[tuple[str, Message, FieldDescriptor]]:
    """The text fields of a message that hold names in `accounts/o`: path without indices, and where it is."""
    for field, value in message.ListFields():
        inside = f"{path}.{field.name}".removeprefix(".")
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for each in value if field.is_repeated else (value,):
                yield from named_fields(each, inside)
        elif field.type == FieldDescriptor.TYPE_STRING:
            texts = value if field.is_repeated else (value,)
            if any(moved(text, MINE, "") != text for text in texts):
                yield inside, message, field


def fields_for_names(method: MethodDescriptor) -> dict[str, Way]:
    """The fields of a request that can hold names, by path."""
    found = {".".join(field.name for field in way): way for way in texts(method.input_type)}
    return {
        path: way
        for path, way in found.items()
        if way[-1].name in NAMES.split()
        and not path.endswith(OF_EVENTS)
        and not any(field.message_type and field.message_type.GetOptions().map_entry for field in way)
    }


def put(message: Message, way: Way, name: str) -> None:
    """Puts a name into a field of every element on the way to it."""
    *before, last = way
    holders = [message]
    for field in before:
        if field.is_repeated:
            holders = [
                each
                for holder in holders
                for each in (getattr(holder, field.name) or [getattr(holder, field.name).add()])
            ]
        else:
            holders = [getattr(holder, field.name) for holder in holders]
        for holder in holders:
            holder.SetInParent()
    for holder in holders:
        if last.is_repeated:
            getattr(holder, last.name).append(name)
        else:
            setattr(holder, last.name, name)


def spoil(message: Any) -> None:
    """Gives a resource that is written a value that is refused, together with other faults."""
    fields = message.DESCRIPTOR.fields_by_name
    if "batching" in fields:
        message.batching.SetInParent()
    for field, value in message.ListFields():
        if field.message_type is not None and not field.is_repeated:
            spoil(value)
    for name in REFUSED.keys() & fields.keys():
        setattr(message, name, REFUSED[name])


def lasting(tree: Any) -> Any:
    """An answer without what changes from call to call."""
    if isinstance(tree, dict):
        return {
            key: lasting(value)
            for key, value in tree.items()
            if key not in PASSING and not key.endswith(("Time", "etag"))
        }
    return [lasting(value) for value in tree] if isinstance(tree, list) else tree


def renamed(requests: list[Message], paths: set[str], rename: Callable[[str], str]) -> list[Message]:
    """Copies of the requests with other names in these fields."""
    copies = []
    for request in requests:
        copy = type(request)()
        copy.CopyFrom(request)
        for path, message, field in list(named_fields(copy)):
            if path not in paths:
                continue
            value = getattr(message, field.name)
            if field.is_repeated:
                value[:] = map(rename, value)
            else:
                setattr(message, field.name, rename(value))
        copies.append(copy)
    return copies


class Neighbours:
    """Runs the scenario in both accounts and compares what the key is answered."""

    def __init__(self, theirs: Run) -> None:
        self.theirs = theirs
        self.mine = Run(theirs.service, self._ask)
        self.wrong: list[str] = []
        self.asked: dict[str, set[str]] = {}
        """Method → the fields that were filled."""
        self._filled: set[tuple[str, str, type[Record]]] = set()
        self.foreign_tokens: set[str] = set()

    def perform(self, step: Step) -> None:
        """Performs a step in both accounts; what a step deletes in theirs, it deletes last."""
        deletes = step["method"].partition(".")[2].startswith("Delete")
        if not deletes:
            assert self.theirs.perform(step) == []
        if step == STEPS[0] or is_mine_to_do(step):
            self.mine.perform(self._mine(step))
        if deletes:
            assert self.theirs.perform(step) == []
        if OPERATOR in self.theirs._saved and OPERATOR not in self.mine._saved:
            self.mine._saved[OPERATOR] = self._key_of_mine()

    def _mine(self, step: Step) -> Step:
        step = {key: value for key, value in translated(step).items() if key != "eventually"}
        if step["method"] == STEPS[0]["method"]:
            step["request"] = {"account_id": MINE.removeprefix("accounts/")}
        return step

    def _key_of_mine(self) -> str:
        key = account_pb2.ApiKey(scopes=[account_pb2.SCOPE_ADMIN])
        return self.theirs.service.accounts.CreateApiKey(
            account_service_pb2.CreateApiKeyRequest(parent=MINE, api_key=key),
            metadata=bearer(self.theirs._saved[OPERATOR]),
        ).secret

    def _ask(self, method: MethodDescriptor, call: Callable[..., Any], requests: list[Message]) -> None:
        if OPERATOR not in self.mine._saved:
            return
        paths = {path for request in requests for path, _, _ in named_fields(request)}
        asked = self.asked.setdefault(f"{method.containing_service.name}.{method.name}", set())
        for filled in [*({path} for path in paths), paths]:
            asked |= filled
            existing = self._answered(method, call, renamed(requests, filled, self._counterpart))
            missing = self._answered(
                method, call, renamed(requests, filled, lambda name: moved(name, MINE, NOBODY_S))
            )
            self._compare(f"{method.name} {sorted(filled)}", existing, missing)
            if (
                paths
                and filled == paths
                and not (isinstance(existing, Refusal) and self._is_missing(existing))
            ):
                self.wrong.append(f"{method.name}: {existing}")
        for path, way in fields_for_names(method).items():
            if path not in paths:
                self._fill(method, call, requests, path, way)
        if "page_token" in method.input_type.fields_by_name:
            self._ask_for_page(method, call, requests[0])

    def _fill(
        self, method: MethodDescriptor, call: Callable[..., Any], requests: list[Any], path: str, way: Way
    ) -> None:
        """Asks with a name of each kind in a field that the request leaves out."""
        assert isinstance(self.theirs.service, Serving)
        repository = self.theirs.service.application.engine.api_keys._repository
        for kind in KINDS:
            found = repository.scan(kind, THEIRS)
            if not found or (method.full_name, path, kind) in self._filled:
                continue
            self._filled.add((method.full_name, path, kind))
            self.asked[f"{method.containing_service.name}.{method.name}"].add(path)
            answers = []
            for name in (found[-1].name, moved(found[-1].name, THEIRS, NOBODY_S)):
                asked = type(requests[0])()
                asked.CopyFrom(requests[0])
                put(asked, way, name)
                if method.name.startswith(WRITES):
                    spoil(asked)
                answers.append(self._answered(method, call, [asked, *requests[1:]]))
            self._compare(f"{method.name} {path} = {found[-1].name}", *answers)

    def _compare(self, asked: str, existing: Refusal | list[Any], missing: Refusal | list[Any]) -> None:
        if self._anonymous(existing) != self._anonymous(missing):
            self.wrong.append(f"{asked}: {existing} unlike {missing}")

    def _ask_for_page(self, method: MethodDescriptor, call: Callable[..., Any], request: Any) -> None:
        """Another account's token is answered like one that was never given out."""
        [theirs] = renamed([request], {path for path, _, _ in named_fields(request)}, self._counterpart)
        theirs.page_size = 1  # type: ignore[attr-defined]
        token = call(theirs, metadata=bearer(self.theirs._saved[OPERATOR])).next_page_token
        if not token:
            return
        self.foreign_tokens.add(method.name)
        answers = []
        for each in (token, "made-up"):
            asked = type(request)()
            asked.CopyFrom(request)
            asked.page_size, asked.page_token = 1, each
            answers.append(self._answered(method, call, [asked]))
        if answers[0] != answers[1] or not isinstance(answers[0], Refusal):
            self.wrong.append(f"{method.name} with a page token of another account: {answers}")

    def _answered(
        self, method: MethodDescriptor, call: Callable[..., Any], requests: list[Message]
    ) -> Refusal | list[Any]:
        try:
            answer = call(iter(requests) if method.client_streaming else requests[0], timeout=CALL_TIMEOUT_S)
            if not method.server_streaming:
                return [lasting(json_format.MessageToDict(answer))]
            answers = []
            for each in answer:
                answers.append(lasting(json_format.MessageToDict(each)))
                if len(answers) == ANSWERS_MAX:
                    answer.cancel()
                    break
        except grpc.RpcError as error:
            return read_refusal(error)
        return answers

    def _counterpart(self, name: str) -> str:
        """What they have in the place of what is mine. The service chose the ids of audiences."""
        chosen = {mine: self.theirs._saved.get(key, "") for key, mine in self.mine._saved.items()}
        return chosen.get(name) or moved(name, MINE, THEIRS)

    def _anonymous(self, answer: Refusal | list[Any]) -> str:
        """The answer without what tells the accounts apart: their names, and ids that the service chose."""
        text = str(answer).replace(THEIRS, NOBODY_S)
        for run in (self.mine, self.theirs):
            for key, name in run._saved.items():
                if name.startswith("accounts/"):
                    text = text.replace(name.rpartition("/")[2], f"${key}")
        return text

    def _is_missing(self, refusal: Refusal) -> bool:
        return (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")


def test_every_text_of_a_request_is_known_to_be_a_name_or_not() -> None:
    leaves = {way[-1].name for method in METHODS.values() for way in texts(method.input_type)}
    assert leaves - {"backup_id", "value"} == {*NAMES.split(), *TEXTS.split()}


@pytest.mark.parametrize("readers", [0, 1])
def test_a_foreign_key_gets_the_answer_for_what_does_not_exist(tmp_path: Path, readers: int) -> None:
    with scenario(tmp_path, readers=readers) as theirs:
        neighbours = Neighbours(theirs)
        for step in STEPS:
            # Figures of the store are of both accounts.
            if not step["method"].startswith("AdminService."):
                neighbours.perform(step)
        for step in MORE_STEPS:
            neighbours.mine.perform(step)
    assert neighbours.wrong == [], "\n".join(neighbours.wrong)
    for name, method in METHODS.items():
        rule = RULES[f"/milepost.v1.{name.replace('.', '/')}"]
        if rule.names and rule.scope is not Scope.OPERATOR:
            assert neighbours.asked.get(name) == fields_for_names(method).keys(), name
    assert {"ListWorkspaces", "ListJourneys", "ListEventNames"} <= neighbours.foreign_tokens
