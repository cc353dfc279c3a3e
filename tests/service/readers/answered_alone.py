"""Which calls reach the writer, and which a reader answers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import Message

from milepost.v1 import audience_service_pb2 as pb
from tests.harness import Serving, Stubs, eventually
from tests.service.readers.asking import GOLD, OTHERS

ENGINE_METHODS = {
    "CheckMembership": ("members", "check"),
    "BatchCheckMembership": ("members", "batch_check"),
    "ListMembers": ("members", "list_members"),
    "ExportMembers": ("members", "export"),
    "CountAudience": ("sizes", "count"),
    "EstimateAudience": ("sizes", "estimate"),
}
"""What the writer's handlers ask of the engine."""


class WriterCalls:
    """Counts what reaches the writer, by method."""

    def __init__(self, service: Serving) -> None:
        self.made: Counter[str] = Counter()
        for method, (part, name) in ENGINE_METHODS.items():
            owner: Any = getattr(service.application.engine, part)
            setattr(owner, name, self._counted(method, getattr(owner, name)))

    def _counted(self, method: str, ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            self.made[method] += 1
            return ask(*args, **kwargs)

        return asked

    def alone(self, method: str, ask: Callable[[], Any]) -> Any:
        """What `ask` returns, asked again and again until a reader has answered it alone."""

        def once() -> tuple[Any] | None:
            before = self.made[method]
            answer = ask()
            return (answer,) if self.made[method] == before else None

        answered = eventually(once)
        assert answered is not None
        return answered[0]


def wait_until_sizes_are_answered(service: Serving, calls: WriterCalls) -> None:
    """Waits until readers answer counts and estimates of both audiences alone."""
    for name in (GOLD, OTHERS):
        calls.alone("CountAudience", partial(count, service, name))
        calls.alone("EstimateAudience", partial(estimate, service, name))


@contextmanager
def connections(service: Serving, number: int) -> Iterator[list[Stubs]]:
    """Several connections, which the kernel spreads over the readers."""
    made = [Stubs(service.address) for _ in range(number)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def count(stubs: Stubs, name: str = GOLD, at_least: str = "") -> int:
    """CountAudience."""
    return stubs.audiences.CountAudience(pb.CountAudienceRequest(name=name, at_least=at_least)).users


def estimate(stubs: Stubs, name: str = GOLD, **fields: Any) -> pb.EstimateAudienceResponse:
    """EstimateAudience."""
    return stubs.audiences.EstimateAudience(pb.EstimateAudienceRequest(name=name, **fields))


def page(stubs: Stubs, name: str = GOLD, **fields: Any) -> pb.ListMembersResponse:
    """ListMembers."""
    return stubs.audiences.ListMembers(pb.ListMembersRequest(parent=name, **fields))


def export(stubs: Stubs, name: str = GOLD) -> list[str]:
    """ExportMembers: all ids."""
    request = pb.ExportMembersRequest(name=name)
    return [user for part in stubs.audiences.ExportMembers(request) for user in part.user_ids]


def without_instants(message: Message) -> bytes:
    """A message without what differs between two answers that mean the same: instants, revisions, durations
    and tokens.
    """
    copy = type(message)()
    copy.CopyFrom(message)
    for field in ("as_of", "revision", "next_page_token", "evaluation"):
        if field in copy.DESCRIPTOR.fields_by_name:
            copy.ClearField(field)
    return copy.SerializeToString(deterministic=True)


def status_of(error: BaseException) -> grpc.StatusCode:
    """The code that a call failed with."""
    assert isinstance(error, grpc.RpcError)
    code = error.code()
    assert isinstance(code, grpc.StatusCode)
    return code
