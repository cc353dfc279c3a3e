"""One value in the place of several, for every parameter of the clients that takes several. Reflection finds
them, so a new method is tested too.
"""

from __future__ import annotations

import asyncio
import collections.abc
import inspect
import types
import typing
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest

from milepost import AsyncClient, Client, criteria, make_event, make_user_update
from milepost._local import LocalAnswers
from milepost._naming import Naming
from milepost.client.base import ClientBase
from milepost.client.streaming import EventStream
from milepost.v1.data_pb2 import Event
from tests.clients.bridge import async_client
from tests.clients.fake import Fake, serving
from tests.clients.methods.conftest import Kind

SEVERAL = (collections.abc.Sequence, collections.abc.Iterable, collections.abc.AsyncIterable)


def takes_several(annotation: Any) -> bool:
    """Whether a value of that type is several: `Sequence[str]`, `Iterable[Event] | None`."""
    if typing.get_origin(annotation) in SEVERAL:
        return True
    if typing.get_origin(annotation) not in (types.UnionType, typing.Union):
        return False
    return all(takes_several(each) for each in typing.get_args(annotation) if each is not type(None))


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that take several."""
    hints = typing.get_type_hints(function)
    return [name for name in inspect.signature(function).parameters if takes_several(hints.get(name))]


def methods_of(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The public methods of a class, without those that only the other methods use."""
    inner = {name for each in (Naming, ClientBase) for name in vars(each)}
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_") and name not in inner:
            yield name, function


def of_class(kind: type) -> list[tuple[str, str]]:
    return [(name, each) for name, function in methods_of(kind) for each in parameters_of(function)]


def required(function: Callable[..., Any], without: str) -> dict[str, Any]:
    """A value for each other parameter that needs one."""
    return {
        name: ["x"] if name in parameters_of(function) else "x"
        for name, each in inspect.signature(function).parameters.items()
        if each.default is each.empty and name not in ("self", without)
    }


def outcome(made: Any) -> object:
    """What a call comes to, also when it is a generator, or what an asyncio client returns."""
    if inspect.isasyncgen(made) or isinstance(made, collections.abc.AsyncIterator):
        return asyncio.run(anext(made))  # type: ignore[arg-type]
    if isinstance(made, Awaitable):
        return asyncio.run(made)  # type: ignore[arg-type]
    return next(made) if inspect.isgenerator(made) else made


WRONG: list[tuple[object, str]] = [
    ("a/b", "expected several in a list, not str 'a/b': write ['a/b']"),
    (b"a/b", "expected several in a list, not bytes b'a/b'"),
    (5, "expected several in a list, not int 5"),
    ({"a": "b"}, "expected several in a list, not dict {'a': 'b'}"),
    (Event(user_id="ann"), 'expected several in a list, not Event user_id: "ann"'),
]
"""One value, and what is said of it."""


def refused(call: Callable[..., object], function: Callable[..., Any], parameter: str) -> None:
    for value, said in WRONG:
        with pytest.raises(TypeError) as raised:
            outcome(call(**required(function, parameter), **{parameter: value}))
        assert str(raised.value).startswith(f"{parameter}: {said}"), str(raised.value)


@pytest.fixture(params=[Client, async_client], ids=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Kind:
    made: Kind = request.param
    return made


def test_both_clients_take_several_in_the_same_places() -> None:
    found = of_class(Client)
    assert found == of_class(AsyncClient)
    assert len(found) == 31
    assert {("local", "targets"), ("update_journey", "inputs"), ("import_events", "batches")} <= set(found)


@pytest.mark.parametrize(("method", "parameter"), of_class(Client), ids="-".join)
def test_a_client_refuses_one_in_the_place_of_several(kind: Kind, method: str, parameter: str) -> None:
    fake = Fake({})
    with serving(fake) as target, kind(target, account="acme") as client:
        refused(getattr(client, method), getattr(Client, method), parameter)
    assert fake.metadata == []


def test_a_stream_refuses_one_event(kind: Kind) -> None:
    assert of_class(EventStream) == [("send", "events")]
    with serving(Fake({})) as target, kind(target, account="acme") as client:
        stream = client.event_stream(input="shop/web")
        refused(stream.send, EventStream.send, "events")
        with pytest.raises(TypeError, match=r"^events: expected several in a list, not str 'ann'"):
            list(client.stream_events(cast(Any, ["ann"])))


def test_local_checks_refuse_one(kind: Kind) -> None:
    assert of_class(LocalAnswers) == [("check_many", "user_ids"), ("check_many", "targets")]
    with serving(Fake({})) as target, kind(target, account="acme") as client:
        local = client.local(["j/m"])
        for _, parameter in of_class(LocalAnswers):
            refused(local.check_many, LocalAnswers.check_many, parameter)


BUILDERS = [
    (name, parameter)
    for name in criteria.__all__
    if inspect.isfunction(getattr(criteria, name))
    for parameter in parameters_of(getattr(criteria, name))
]
TESTS = [
    (made, function, parameter)
    for made in (criteria.attribute("x"), criteria.event("x").count())
    for name, function in methods_of(type(made))
    for parameter in parameters_of(function)
]


@pytest.mark.parametrize(("name", "parameter"), BUILDERS)
def test_a_builder_refuses_one(name: str, parameter: str) -> None:
    refused(getattr(criteria, name), getattr(criteria, name), parameter)


@pytest.mark.parametrize(("made", "function", "parameter"), TESTS)
def test_a_test_of_a_value_refuses_one(made: object, function: Callable[..., Any], parameter: str) -> None:
    refused(getattr(made, function.__name__), function, parameter)


@pytest.mark.parametrize("make", [make_event, make_user_update])
def test_what_makes_data_refuses_one(make: Callable[..., Any]) -> None:
    for parameter in parameters_of(make):
        refused(make, make, parameter)


def test_the_walk_finds_what_there_is() -> None:
    assert {name for name, _ in BUILDERS} == {"event", "step"}
    assert {(type(made).__name__, function.__name__) for made, function, _ in TESTS} == {
        ("Attribute", "one_of"),
        ("Number", "one_of"),
    }
    assert parameters_of(make_user_update) == ["unset", "consents"]


def test_iterators_and_sets_are_several() -> None:
    assert len(make_user_update("ann", unset=iter(["a", "b"])).unset_attributes) == 2
    assert len(criteria.attribute("x").one_of({"a", "b"}).user_attribute.test.one_of.values) == 2
