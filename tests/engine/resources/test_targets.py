"""Each text of an output has a limit: the longest is allowed, one byte more is refused."""

from __future__ import annotations

import msgspec
import pytest

from engine.resources.targets import (
    TARGETS,
    ContentMode,
    File,
    Kafka,
    Nats,
    Redis,
    Target,
    Webhook,
)

SECRET = "whsec_" + "A" * 32
CREDENTIALS = "-----BEGIN NATS USER JWT-----\n-----BEGIN USER NKEY SEED-----\n"
CERTIFICATE = "-----BEGIN CERTIFICATE-----\n"
LONGEST: list[tuple[Target, str, int]] = [
    (Webhook("https://h/", SECRET), "url", 2_048),
    (Nats("nats://h", "s"), "servers", 2_048),
    (Nats("nats://h", "s"), "subject", 249),
    (Nats("nats://h", "s", credentials=CREDENTIALS), "credentials", 4_096),
    (Nats("nats://h", "s", ca_certificates=CERTIFICATE), "ca_certificates", 4_096),
    (Redis("redis://h", "s"), "url", 2_048),
    (Redis("redis://h", "s"), "stream", 249),
    (Redis("rediss://h", "s", ca_certificates=CERTIFICATE), "ca_certificates", 4_096),
    (Kafka("h", "t"), "bootstrap_servers", 2_048),
    (Kafka("h", "t"), "topic", 249),
    (Kafka("h", "t", user="u", password="p"), "user", 256),
    (Kafka("h", "t", user="u", password="p"), "password", 4_096),
    (Kafka("h", "t", use_tls=True, ca_certificates=CERTIFICATE), "ca_certificates", 4_096),
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
        ("", ["is required: a relative path"]),
        ("/f", ["must be a relative path: without '/' at the beginning"]),
        ("f/../g", ["must be a relative path without '..'"]),
        ("f\0", ["must have no control characters and bidirectional marks, not U+0000"]),
        ("f\n/g", ["must have no control characters and bidirectional marks, not U+000A"]),
        ("f\x7f", ["must have no control characters and bidirectional marks, not U+007F"]),
        ("f\u202eg", ["must have no control characters and bidirectional marks, not U+202E"]),
        ("\u0645\u06cc\u200c\u062e", []),
        ("f/" * 1_500, ["is longer than 1024 bytes", "has 1500 folders; at most 16 are allowed"]),
    ],
)
def test_paths(path: str, descriptions: list[str]) -> None:
    assert [fault.description for fault in File(path).faults()] == descriptions


def described(target: Target) -> list[tuple[str, str]]:
    return [(fault.field.rpartition(".")[2], fault.description) for fault in target.faults()]


NATS_FORM = "must be nats://host:port or tls://host:port"
REDIS_FORM = "must be redis://host:port or rediss://host:port"


@pytest.mark.parametrize(
    ("servers", "description"),
    [
        ("nats://h", ""),
        ("nats://u:p%2C@h:1,tls://[::1]:2", ""),
        (",".join(["nats://h"] * 16), ""),
        (",".join(["nats://h"] * 17), "has 17 servers; at most 16 are allowed"),
        ("h:4222", NATS_FORM),
        ("nats://", NATS_FORM),
        ("nats://h:0", NATS_FORM),
        ("nats://h:99999", NATS_FORM),
        ("nats://h,", NATS_FORM),
        ("nats://h h", NATS_FORM),
        ("redis://h", NATS_FORM),
        ("nats://h?a=b", "must have no query and no fragment"),
    ],
)
def test_servers_of_nats(servers: str, description: str) -> None:
    assert described(Nats(servers, "s")) == ([("servers", description)] if description else [])


HOSTS = {
    "example.com": True,
    "example.com.": True,
    "a-b_c": True,
    "1.example": True,
    "b\u00fccher.example": True,
    "192.0.2.1": True,
    "[2001:db8::1]": True,
    "0177.0.0.1": False,
    "2130706433": False,
    "0x7f000001": False,
    "0x7f.1": False,
    "127.1": False,
    "127.0.0.0x1": False,
    "127.0.0.1.": False,
    "1.2.3.4.5": False,
    "a..b": False,
    "a%20b": False,
    "a^b": False,
    "[::g]": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_a_name_or_an_address_in_its_usual_form(host: str) -> None:
    """Whatever resolvers make of other forms: an address that is checked is the one that is meant."""
    targets: list[Target] = [
        Webhook(f"https://{host}/path", SECRET),
        Webhook(f"http://user@{host}:8080/", SECRET),
    ]
    if host.isascii():
        targets += [
            Nats(f"nats://{host}", "s"),
            Nats(f"nats://h,tls://u:p@{host}:1", "s"),
            Redis(f"redis://{host}/0", "s"),
            Kafka(f"{host}:9092", "t"),
        ]
    for target in targets:
        assert (list(target.faults()) == []) is HOSTS[host], target


@pytest.mark.parametrize(
    "url",
    [
        "https://h/a b",
        "https://h h/",
        "https://h/\tx",
        "https://h/\n",
        " https://h/",
        "https://h/\u2028",
        "https://h/\x7f",
        "ftp://h/",
        "https:///path",
        "https://h:0/",
        "https://h:x/",
    ],
)
def test_a_webhook_has_a_url_that_can_be_called(url: str) -> None:
    assert [field for field, _ in described(Webhook(url, SECRET))] == ["url"]


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("redis://h", ""),
        ("rediss://u:p@h:1/15", ""),
        ("redis://h/x", "must end with the number of a database, like redis://host:6379/0"),
        ("redis://h?db=1", "must have no query and no fragment"),
        ("http://h", REDIS_FORM),
    ],
)
def test_urls_of_redis(url: str, description: str) -> None:
    assert described(Redis(url, "s")) == ([("url", description)] if description else [])


def test_what_brokers_need_besides_an_address() -> None:
    wildcards = [("subject", "must be names joined by dots, without spaces and wildcards")]
    for subject in ("a.*", "a.>", "a b", "a..b", ".", "a.\n"):
        assert described(Nats("nats://h", subject)) == wildcards, subject
    assert described(Nats("nats://h", "a*.b", ContentMode.BATCHED)) == [
        ("mode", "must be structured or binary: a message has one event")
    ]
    assert described(Nats("nats://h", "a", credentials="x")) == [
        ("credentials", "must be the content of a credentials file of NATS")
    ]
    assert described(Redis("redis://h", "s", -1, "x")) == [
        ("max_length", "must not be negative"),
        ("ca_certificates", "must be certificates in PEM"),
    ]


def test_secrets_go_to_no_other_server() -> None:
    known = Nats("nats://u:p@h", "s", credentials=CREDENTIALS)
    shown = Nats("nats://u:***@h", "t")
    assert shown.with_secrets_of(known) == Nats("nats://u:p@h", "t", credentials=CREDENTIALS)
    moved = Nats("nats://other", "s")
    assert moved.with_secrets_of(known) == moved


def test_what_kafka_needs_besides_an_address() -> None:
    form = [("bootstrap_servers", "must be host:port")]
    for servers in ("kafka://h:9092", "h:0", "h:x", ",", "h h"):
        assert described(Kafka(servers, "t")) == form, servers
    assert described(Kafka("u:p@h:9092", "t")) == [
        ("bootstrap_servers", "must have no user and no password: they have fields of their own")
    ]
    for topic in (".", "..", "a b", "a/b", "é"):
        assert [field for field, _ in described(Kafka("h", topic))] == ["topic"], topic
    together = "is required: a user and a password belong together"
    assert described(Kafka("h", "t", user="u")) == [("password", together)]
    assert described(Kafka("h", "t", password="p")) == [("user", together)]
    assert described(Kafka("h", "t", ca_certificates=CERTIFICATE)) == [("ca_certificates", "needs use_tls")]
    known = Kafka("h", "t", user="u", password="p")
    assert Kafka("h", "s", user="u").with_secrets_of(known) == Kafka("h", "s", user="u", password="p")
    for other in (Kafka("g", "t", user="u"), Kafka("h", "t", user="v")):
        assert other.with_secrets_of(known) == other
