"""How requests are read: large ones one at a time, and those that nest too deeply are told the limit."""

from __future__ import annotations

import threading

import pytest
from google.protobuf.message import Message

from engine.errors import InvalidInput
from engine.limits import DEFAULT_LIMITS
from milepost.v1 import audience_service_pb2, ingest_service_pb2, journey_service_pb2
from service.limits import LARGE_MESSAGE_BYTES, MESSAGE_BYTES_MAX
from service.reading import RequestReader, checked

READER = RequestReader(MESSAGE_BYTES_MAX, DEFAULT_LIMITS)
METHOD = "/milepost.v1.Service/Method"


def test_large_messages_are_parsed_one_at_a_time_and_small_ones_meanwhile() -> None:
    at_once: list[int] = []
    running = 0
    small: list[object] = []

    def parse(data: bytes) -> bytes:
        nonlocal running
        if len(data) < LARGE_MESSAGE_BYTES:
            return data
        running += 1
        at_once.append(running)
        # Others come while this one is parsed.
        thread = threading.Thread(target=lambda: small.append(read(b"small")), daemon=True)
        thread.start()
        thread.join(60)
        running -= 1
        return data

    read = READER.of(METHOD, parse)
    large = bytes(LARGE_MESSAGE_BYTES)
    threads = [threading.Thread(target=read, args=(large,), daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert at_once == [1] * 8
    assert small == [b"small"] * 8


def test_a_large_message_that_is_no_message_lets_the_next_one_in() -> None:
    read = READER.of(METHOD, ingest_service_pb2.IngestEventsRequest.FromString)
    bad, good = b"\xff" * LARGE_MESSAGE_BYTES, b"\x22" + b"\xff\xff\x0f" + b"a" * 0x3FFFF
    for _ in range(2):
        with pytest.raises(InvalidInput):
            checked(read(bad))
        assert len(checked(read(good)).request_id) == 0x3FFFF


def nested(levels: int) -> bytes:
    """Criteria of so many levels: `not` in `not`, around everyone."""
    criteria = b"\x12\x00"
    for _ in range(levels - 1):
        criteria = b"\x22" + _length(len(criteria)) + criteria
    return criteria


def _length(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80, number >> 7])


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (audience_service_pb2.EstimateAudienceRequest, (2, 4)),
        (journey_service_pb2.CreateMilestoneRequest, (3, 6)),
    ],
)
def test_criteria_that_no_parser_takes_are_told_their_limit(
    kind: type[Message], fields: tuple[int, int]
) -> None:
    read = READER.of(METHOD, kind.FromString)

    def request(levels: int) -> bytes:
        data = nested(levels)
        for number in reversed(fields):
            data = bytes([number << 3 | 2]) + _length(len(data)) + data
        return data

    checked(read(request(32)))
    with pytest.raises(InvalidInput) as refused:
        checked(read(request(150)))
    [fault] = refused.value.violations
    assert (fault.field, fault.description) == (
        "request",
        "could not be parsed as a message of this method: it is malformed, or nested deeper than the 100"
        " levels of messages that are read; criteria have at most 32 levels",
    )


def test_a_message_that_cannot_nest_says_nothing_about_levels() -> None:
    read = READER.of(METHOD, ingest_service_pb2.IngestEventsRequest.FromString)
    with pytest.raises(InvalidInput) as refused:
        checked(read(b"\xff"))
    assert refused.value.violations[0].description == "could not be parsed as a message of this method"
