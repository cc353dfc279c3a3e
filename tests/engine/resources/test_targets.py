"""Each text of an output has a limit: the longest is allowed, one byte more is refused."""

from __future__ import annotations

import msgspec
import pytest

from engine.resources.targets import TARGETS, File, Kafka, Nats, Redis, Target, Webhook

SECRET = "whsec_" + "A" * 32
LONGEST: list[tuple[Target, str, int]] = [
    (Webhook("https://h/", SECRET), "url", 2_048),
    (Nats("h:4222", "s"), "servers", 2_048),
    (Nats("h:4222", "s"), "subject", 249),
    (Redis("redis://h/", "s"), "url", 2_048),
    (Redis("redis://h/", "s"), "stream", 249),
    (Kafka("h:9092", "t"), "bootstrap_servers", 2_048),
    (Kafka("h:9092", "t"), "topic", 249),
    (File("p"), "path", 255),
]
BY_FORM = {("webhook", "secret")}
"""Texts whose form allows only some lengths."""


def with_length(target: Target, field: str, length: int) -> Target:
    text = getattr(target, field)
    return msgspec.structs.replace(target, **{field: text + "x" * (length - len(text))})


@pytest.mark.parametrize(("target", "field", "bytes_max"), LONGEST)
def test_longest_text(target: Target, field: str, bytes_max: int) -> None:
    assert list(with_length(target, field, bytes_max).faults()) == []
    (fault,) = with_length(target, field, bytes_max + 1).faults()
    assert fault.field == f"output.{target.kind()}.{field}"
    assert str(bytes_max) in fault.description


def test_every_text_has_a_limit() -> None:
    texts = {
        (struct.kind(), field.name)
        for struct in TARGETS.values()
        for field in msgspec.structs.fields(struct)
        if field.type is str
    }
    assert {(target.kind(), field) for target, field, _ in LONGEST} | BY_FORM == texts


@pytest.mark.parametrize(
    ("path", "descriptions"),
    [
        ("/".join(["f"] * 16), []),
        ("/".join(["f"] * 17), ["has 17 folders; at most 16 are allowed"]),
        ("/".join(["f" * 255] * 4), []),
        ("/".join(["f" * 255] * 4) + "/g", ["is longer than 1024 bytes"]),
        ("\u00e9" * 128, ["has a folder with more than 255 bytes"]),
        ("f/" * 1_500, ["is longer than 1024 bytes", "has 1500 folders; at most 16 are allowed"]),
    ],
)
def test_paths(path: str, descriptions: list[str]) -> None:
    assert [fault.description for fault in File(path).faults()] == descriptions
