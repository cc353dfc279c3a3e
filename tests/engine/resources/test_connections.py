"""Outputs and connections: validation, states, credits and cursors."""

from __future__ import annotations

import base64
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from engine.errors import AlreadyExists, FailedPrecondition, InvalidInput, LimitExceeded, NotFound
from engine.resources.records import (
    Account,
    Connection,
    ConnectionState,
    Cursor,
    Output,
    etag_of,
)
from engine.resources.targets import File, Kafka, Nats, Redis, Target, Webhook
from tests.engine.site import ACCOUNT, OUTPUT, Site, did

SECRET = "whsec_" + base64.b64encode(b"0" * 24).decode()


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (Webhook("https://example.org/hook", SECRET), []),
        (Webhook("ftp://example.org", SECRET), ["output.webhook.url"]),
        (Webhook("https://", "whsec_AAAA"), ["output.webhook.url", "output.webhook.secret"]),
        (Webhook("https://example.org:70000", SECRET), ["output.webhook.url"]),
        (Webhook("http://[", "secret"), ["output.webhook.url", "output.webhook.secret"]),
        (Nats("nats://h:4222", "changes"), []),
        (Nats("", ""), ["output.nats.servers", "output.nats.subject"]),
        (Redis("redis://h:6379/0", "changes"), []),
        (Redis("http://h", "", -1), ["output.redis.url", "output.redis.stream", "output.redis.max_length"]),
        (Kafka("h:9092", "changes"), []),
        (Kafka("", ""), ["output.kafka.bootstrap_servers", "output.kafka.topic"]),
        (File("a/b"), []),
        (File(""), ["output.file.path"]),
        (File("/etc"), ["output.file.path"]),
        (File("a/../../b"), ["output.file.path"]),
        (File("a\0b"), ["output.file.path"]),
    ],
)
def test_invalid_outputs_are_refused(site: Site, target: Target, fields: list[str]) -> None:
    record = Output(name="", target=target)
    if not fields:
        created = site.engine.connections.create_output(ACCOUNT, "out", record)
        assert site.engine.connections.opened(created).target == target
        return
    with pytest.raises(InvalidInput) as refused:
        site.engine.connections.create_output(ACCOUNT, "out", record)
    assert [v.field for v in refused.value.violations] == fields


def test_an_output_keeps_a_path_that_would_be_refused_now(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "exports\u202e"
    with monkeypatch.context() as patch:
        patch.setattr(File, "_path_faults", lambda _: ())
        created = site.engine.connections.create_output(ACCOUNT, "old", Output(name="", target=File(old)))
    larger = msgspec.structs.replace(created, target=File(old, max_bytes=65_536))
    updated = site.engine.connections.update_output(larger, {"target"})
    assert updated.target == File(old, max_bytes=65_536)
    for path in (f"more{old}", "a\nb"):
        moved = msgspec.structs.replace(created, target=File(path))
        with pytest.raises(InvalidInput, match="bidirectional marks"):
            site.engine.connections.update_output(moved, {"target"})
    too_small = msgspec.structs.replace(created, target=File(old, max_bytes=1))
    with pytest.raises(InvalidInput, match="65536 to"):
        site.engine.connections.update_output(too_small, {"target"})


def test_output_with_connections_is_not_deleted(site: Site) -> None:
    connection = site.connect(site.add("one", did("a")))
    with pytest.raises(FailedPrecondition) as refused:
        site.engine.connections.delete_output(OUTPUT)
    assert refused.value.reason == "OUTPUT_IN_USE"
    assert refused.value.metadata == {"connections": connection.name}
    site.engine.connections.delete_connection(connection.name)
    site.engine.connections.delete_output(OUTPUT)
    with pytest.raises(NotFound):
        site.engine.connections.get_output(OUTPUT)


def test_a_connection_needs_an_audience_and_an_output(site: Site) -> None:
    record = Connection(
        name="",
        audience=f"{ACCOUNT}/audiences/none",
        output="accounts/rival/outputs/file",
        batch_changes=-1,
        batch_age=-1,
        identities=("",),
    )
    with pytest.raises(InvalidInput) as refused:
        site.engine.connections.create_connection(ACCOUNT, "c", record)
    assert [v.field for v in refused.value.violations] == [
        "connection.audience",
        "connection.output",
        "connection.batching.max_changes",
        "connection.batching.max_age",
        "connection.identities[0]",
    ]


def test_created_connection_is_always_inactive(site: Site) -> None:
    milestone = site.add("one", did("a"))
    record = Connection(
        name="", audience=milestone.audience, output=OUTPUT, state=ConnectionState.ACTIVE, delivered=99
    )
    created = site.engine.connections.create_connection(ACCOUNT, "c", record, "r1")
    assert (created.state, created.delivered) == (ConnectionState.INACTIVE, 0)
    assert site.engine.connections.create_connection(ACCOUNT, "c", record, "r1") == created
    with pytest.raises(AlreadyExists):
        site.engine.connections.create_connection(ACCOUNT, "c", record)
    assert not site.engine.audiences.activated(milestone.audience)


def test_lists_by_audience_and_output(site: Site) -> None:
    one, two = site.add("one", did("a")), site.add("two", did("b"))
    site.connect(one, "first")
    site.connect(two, "second")
    listed = site.engine.connections.list_connections(ACCOUNT, audience=two.audience)
    assert [c.name for c in listed.items] == [f"{ACCOUNT}/connections/second"]
    listed = site.engine.connections.list_connections(ACCOUNT, output=OUTPUT)
    assert [c.name.rpartition("/")[2] for c in listed.items] == ["first", "second"]
    assert site.engine.connections.list_connections(ACCOUNT, output="accounts/x/outputs/o").items == ()


def test_states(site: Site) -> None:
    connections = site.engine.connections
    milestone = site.add("one", did("a"))
    name = site.connect(milestone).name
    assert connections.activate(name).state is ConnectionState.ACTIVE
    with pytest.raises(FailedPrecondition) as refused:
        connections.resume(name)
    assert refused.value.reason == "CONNECTION_STATE"
    assert refused.value.metadata == {"state": "ACTIVE"}
    assert connections.mark_faulted(name, "503 for an hour").fault == "503 for an hour"
    assert not site.engine.audiences.activated(milestone.audience)
    assert site.engine.live.calculated(milestone.audience)
    with pytest.raises(FailedPrecondition) as refused:
        connections.activate(name)
    assert refused.value.metadata == {"state": "FAULTED"}
    resumed = connections.resume(name)
    assert (resumed.state, resumed.fault) == (ConnectionState.ACTIVE, "")
    assert connections.deactivate(name).state is ConnectionState.INACTIVE
    assert connections.deactivate(name).state is ConnectionState.INACTIVE
    assert not site.engine.live.calculated(milestone.audience)
    connections.mark_faulted(name, "too late")
    assert connections.get_connection(name).state is ConnectionState.INACTIVE


def test_credits(site: Site) -> None:
    connections = site.engine.connections
    site.engine.accounts.update_account(
        Account(name=ACCOUNT, active_audience_limit=2), {"active_audience_limit"}
    )
    parent = site.add("parent", did("a"))
    child = site.add("child", did("b"), parent.name)
    other = site.add("other", did("c"))
    # 1. An activated audience uses one credit; its ancestors none.
    site.connect(child, "to-child")
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 1
    assert site.engine.live.calculated(parent.audience)
    assert not site.engine.audiences.activated(parent.audience)
    # 2. A second connection of the same audience uses none.
    site.connect(child, "to-child-too")
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 1
    site.connect(other, "to-other")
    # 3. Without a credit nothing changes.
    with pytest.raises(LimitExceeded) as refused:
        site.connect(parent, "to-parent")
    assert refused.value.reason == "NO_AUDIENCE_CREDIT"
    assert refused.value.metadata == {"limit": "2"}
    waiting = f"{ACCOUNT}/connections/to-parent"
    assert connections.get_connection(waiting).state is ConnectionState.INACTIVE
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 2
    # 4. The credit returns with the last connection of an audience, not before.
    connections.deactivate(f"{ACCOUNT}/connections/to-child")
    with pytest.raises(LimitExceeded):
        connections.activate(waiting)
    connections.deactivate(f"{ACCOUNT}/connections/to-child-too")
    assert connections.activate(waiting).state is ConnectionState.ACTIVE
    # 5. A faulted connection has given its credit back and needs one again.
    connections.mark_faulted(waiting, "gone")
    connections.activate(f"{ACCOUNT}/connections/to-child")
    with pytest.raises(LimitExceeded):
        connections.resume(waiting)


def test_credits_under_concurrency(site: Site) -> None:
    """Callers activate, pause, fault, resume and deactivate at the same time; the limit always holds."""
    connections, limit, callers, rounds = site.engine.connections, 3, 6, 40
    site.engine.accounts.update_account(
        Account(name=ACCOUNT, active_audience_limit=limit), {"active_audience_limit"}
    )
    names = []
    for number in range(callers):
        milestone = site.add(f"m{number}", did(f"e{number}"))
        record = Connection(name="", audience=milestone.audience, output=OUTPUT)
        names.append(connections.create_connection(ACCOUNT, f"c{number}", record).name)
    started = threading.Barrier(callers)

    def calls(number: int) -> tuple[int, int]:
        """How often the caller got a credit, and how often it was refused."""
        source, got, refused = random.Random(number), 0, 0
        started.wait()
        for _ in range(rounds):
            name = source.choice(names)
            act = source.choice(
                (connections.activate, connections.resume, connections.deactivate, connections.pause)
            )
            try:
                got += act(name).state is ConnectionState.ACTIVE
            except LimitExceeded:
                refused += 1
            except FailedPrecondition:
                # Another caller has changed its state.
                connections.mark_faulted(name, "gone")
            assert site.engine.accounts.active_audience_count(ACCOUNT) <= limit
        return got, refused

    with ThreadPoolExecutor(callers) as threads:
        outcomes = list(threads.map(calls, range(callers)))
    assert sum(got for got, _ in outcomes) > 0
    for name in names:
        connections.deactivate(name)
    assert site.engine.accounts.active_audience_count(ACCOUNT) == 0
    # All credits are back, and no more.
    for name in names[:limit]:
        assert connections.activate(name).state is ConnectionState.ACTIVE
    with pytest.raises(LimitExceeded):
        connections.activate(names[limit])


def test_cursor_only_advances_and_keeps_the_etag(site: Site) -> None:
    connections = site.engine.connections
    connection = site.connect(site.add("one", did("a")))
    etag = etag_of(connection)
    moved = connections.advance(connection.name, Cursor("e", 5), activation=1)
    assert moved is not None
    assert moved.cursor == Cursor("e", 5)
    assert etag_of(moved) == etag
    back = connections.advance(connection.name, Cursor("e", 3), activation=1)
    assert back is not None
    assert back.delivered == 5
    site.engine.close()
    site.open()
    assert site.engine.connections.get_connection(connection.name).cursor == Cursor("e", 5)
    # In another epoch the numbers mean something else.
    renewed = site.engine.connections.advance(connection.name, Cursor("f", 3, ""), activation=1)
    assert renewed is not None
    assert renewed.cursor == Cursor("f", 3, "")


def test_cursor_of_an_earlier_activation_is_ignored(site: Site) -> None:
    connections = site.engine.connections
    old = site.connect(site.add("one", did("a")))
    connections.deactivate(old.name)
    connections.activate(old.name)
    late = connections.advance(old.name, Cursor("e", 40), activation=old.activation)
    assert late is not None
    assert late.delivered == 0
    assert connections.advance("accounts/acme/connections/none", Cursor("e", 1), activation=1) is None
