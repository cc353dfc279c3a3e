"""The users of rule tests: their updates and events as messages.

An update or an event is the proto3 JSON mapping of the contract's message, with three conveniences: a time
may be relative (`-3d`), an input is `workspace/input`, and the value of an attribute may be plain (`0.8`,
`email`, `true`, `[a, b]`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from milepost.documents.reading import below
from milepost.rules.model import Change
from milepost.rules.times import time_of
from milepost.rules.tree import TreeReader
from milepost.v1.data_pb2 import Event, UserUpdate
from milepost.values import to_timestamp

UPDATE_FIELDS = (
    "input",
    "time",
    "attributes",
    "unset_attributes",
    "identities",
    "unset_identities",
    "consents",
)
EVENT_FIELDS = ("input", "time", "name", "type", "attributes", "event_id")
USER_FIELDS = (*UPDATE_FIELDS, "events", "updates")


class UserReader:
    """Reads users. `as_of` is what times are relative to, `inputs` are those of the file."""

    def __init__(self, reader: TreeReader, as_of: datetime, inputs: tuple[str, ...]) -> None:
        self._reader = reader
        self._as_of = as_of
        self._inputs = inputs

    def changes(self, user_id: str, tree: Any, path: str) -> Iterator[Change]:
        """What a user sends. A user with nothing at all is one whom an empty update makes known."""
        fields = self._reader.mapping(tree, path, USER_FIELDS)
        input_ = self._input(fields["input"], path) if "input" in fields else None
        own = {"input": input_} | {name: fields[name] for name in UPDATE_FIELDS[1:] if name in fields}
        given = [name for name in own if name not in ("input", "time")]
        if given or not (fields.get("events") or fields.get("updates")):
            yield self._update(user_id, own, path)
        for item, place in self._reader.items(fields.get("updates"), below(path, "updates")):
            update = self._reader.mapping(item, place, UPDATE_FIELDS)
            yield self._update(user_id, {"input": input_, **update}, place)
        for item, place in self._reader.items(fields.get("events"), below(path, "events")):
            event = self._reader.mapping(item, place, EVENT_FIELDS)
            yield self._event(user_id, {"input": input_, **event}, place)

    def _update(self, user_id: str, fields: dict[str, Any], path: str) -> Change:
        time = self._time(fields.pop("time", "0s"), path)
        tree = self._tree(user_id, fields, path)
        message = self._reader.message(tree, UserUpdate, path)
        message.time.CopyFrom(to_timestamp(time))
        return Change(time, message, path)

    def _event(self, user_id: str, fields: dict[str, Any], path: str) -> Change:
        if not fields.get("name"):
            self._reader.fault(below(path, "name"), "is required")
        time = self._time(fields.pop("time", None), path)
        tree = self._tree(user_id, fields, path)
        message = self._reader.message(tree, Event, path)
        message.time.CopyFrom(to_timestamp(time))
        return Change(time, message, path)

    def _tree(self, user_id: str, fields: dict[str, Any], path: str) -> dict[str, Any]:
        """The fields as proto3 JSON."""
        tree = {**fields, "user_id": user_id, "input": self._input(fields.get("input"), path)}
        if "attributes" in fields:
            at = below(path, "attributes")
            attributes = self._reader.mapping(fields["attributes"], at)
            tree["attributes"] = {
                key: self._value(value, below(at, key)) for key, value in attributes.items()
            }
        return tree

    def _input(self, given: Any, path: str) -> str:
        """An input, checked. A file with one input need not name it."""
        listed = ", ".join(self._inputs)
        if given is None and len(self._inputs) == 1:
            return self._inputs[0]
        if given is None:
            self._reader.fault(path, f"needs an `input`, one of {listed}")
        elif given not in self._inputs:
            self._reader.fault(below(path, "input"), f"must be one of {listed}, not {given!r}")
            return self._inputs[0]
        return str(given or "")

    def _time(self, given: Any, path: str) -> datetime:
        at = below(path, "time")
        if given is None:
            self._reader.fault(at, "is required")
            return self._as_of
        try:
            return time_of(given, self._as_of)
        except ValueError as error:
            self._reader.fault(at, str(error))
            return self._as_of

    def _value(self, value: Any, path: str) -> Any:
        """A value as proto3 JSON."""
        if isinstance(value, bool):
            return {"boolValue": value}
        if isinstance(value, int | float):
            return {"numberValue": value}
        if isinstance(value, str):
            return {"stringValue": value}
        if isinstance(value, list):
            return {"listValue": {"values": value}}
        for name in ("time_value", "timeValue"):
            if isinstance(value, dict) and name in value:
                try:
                    return {name: to_timestamp(time_of(value[name], self._as_of)).ToJsonString()}
                except ValueError as error:
                    self._reader.fault(below(path, name), str(error))
                    return {}
        return {} if value is None else value
