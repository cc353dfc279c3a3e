"""The methods for outputs and connections, against a real service."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from google.protobuf.duration_pb2 import Duration

from milepost import Client, errors, make_event
from milepost.criteria import event
from milepost.outputs import KINDS, FileOutput, OutputKind, WatchOutput, kind_of, output_of
from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import MembershipSnapshot, ProgressMark
from milepost.v1.connection_pb2 import (
    CHANGE_KIND_ENTERED,
    CONNECTION_STATE_ACTIVE,
    CONNECTION_STATE_FAULTED,
    CONNECTION_STATE_INACTIVE,
    Batching,
)
from tests.harness import Serving, eventually

NOW = datetime.now(UTC)
TARGET = "buyers/bought"
SECRET = "whsec_" + "c2VjcmV0" * 4


def test_every_kind_of_the_contract_is_offered() -> None:
    assert [kind.DESCRIPTOR for kind in get_args(OutputKind)] == list(KINDS.values())
    assert [kind_of(output_of(kind())) for kind in get_args(OutputKind)] == list(KINDS)


@pytest.fixture
def buyers(client: Client) -> Client:
    """A client whose account has an audience: ann has bought."""
    web = client.ensure_input("shop", "web")
    client.ingest_events([make_event("ann", "buy", NOW)], input=web.name)
    client.ensure_journey("buyers")
    client.ensure_milestone("buyers", "bought", criteria=event("buy").happened())
    return client


# --- outputs ---


def test_an_output_is_created_read_changed_listed_and_deleted(client: Client) -> None:
    made = client.create_output("files", FileOutput(path="exports"), display_name="Files")
    assert (made.name, made.display_name, made.file.path) == (
        f"{client.account_name}/outputs/files",
        "Files",
        "exports",
    )
    # An update changes what is given, and the whole address when a kind is.
    moved = client.update_output("files", kind=FileOutput(path="elsewhere"))
    assert (moved.display_name, moved.file.path) == ("Files", "elsewhere")
    named = client.update_output("files", display_name="Exports")
    assert (named.display_name, named.file.path) == ("Exports", "elsewhere")
    assert client.get_output("files") == named
    tested = client.test_output("files")
    assert (tested.delivered, tested.error, tested.http_status) == (True, "", 0)
    assert tested.event_id.startswith("test-")
    client.create_output("consumers", WatchOutput())
    assert [kind_of(each) for each in client.list_outputs()] == ["watch", "file"]
    with pytest.raises(errors.Aborted):
        client.delete_output("files", etag=moved.etag)
    client.delete_output("files", etag=named.etag)
    assert [kind_of(each) for each in client.list_outputs()] == ["watch"]


def test_an_output_is_brought_into_the_form_asked_for(client: Client) -> None:
    first = client.ensure_output("out", FileOutput(path="a"))
    assert (first.display_name, first.file.path) == ("out", "a")
    assert client.ensure_output("out", FileOutput(path="a")) == first
    moved = client.ensure_output("out", FileOutput(path="b"), display_name="Out")
    assert (moved.display_name, moved.file.path) == ("Out", "b")
    # A kind without fields differs from another kind, and equals itself.
    watched = client.ensure_output("out", WatchOutput())
    assert (watched.display_name, kind_of(watched)) == ("Out", "watch")
    assert client.ensure_output("out", WatchOutput()) == watched
    assert client.get_output("out") == watched


# --- connections ---


def test_a_connection_is_created_read_changed_listed_and_deleted(buyers: Client) -> None:
    client = buyers
    for output in ("files", "more"):
        client.create_output(output, FileOutput(path=output))
    made = client.create_connection("first", target=TARGET, output="files", identities=["email"])
    assert (made.name, made.state, list(made.identities)) == (
        f"{client.account_name}/connections/first",
        CONNECTION_STATE_INACTIVE,
        ["email"],
    )
    assert made.audience == client.get_milestone(TARGET).audience
    other = client.create_connection(target=TARGET, output="more")
    assert {each.name for each in client.list_connections()} == {made.name, other.name}
    assert [each.name for each in client.list_connections(output="more")] == [other.name]
    assert len(list(client.list_connections(target=TARGET))) == 2
    batching = Batching(max_changes=7, max_age=Duration(seconds=2))
    changed = client.update_connection("first", attributes=["plan"], batching=batching)
    assert (list(changed.identities), list(changed.attributes), changed.batching) == (
        ["email"],
        ["plan"],
        batching,
    )
    assert list(client.update_connection("first", identities=[]).identities) == []
    with pytest.raises(errors.Aborted):
        client.update_connection("first", attributes=[], etag=made.etag)
    with pytest.raises(errors.FailedPrecondition):
        client.delete_output("files")
    client.delete_connection("first")
    with pytest.raises(errors.NotFound):
        client.get_connection("first")
    client.delete_output("files")


def test_a_connection_is_brought_into_the_form_asked_for(buyers: Client) -> None:
    client = buyers
    client.ensure_output("files", FileOutput(path="files"))
    first = client.ensure_connection("c", target=TARGET, output="files")
    asked = client.ensure_connection(
        "c", target=TARGET, output="files", identities=["email"], batching=Batching(max_changes=9)
    )
    assert (list(asked.identities), asked.batching.max_changes) == (["email"], 9)
    assert asked.batching.max_age == first.batching.max_age
    assert client.ensure_connection("c", target=TARGET, output="files", identities=["email"]) == asked
    assert client.ensure_connection("c", target=TARGET, output="files") == asked
    client.ensure_output("others", FileOutput(path="others"))
    with pytest.raises(errors.InvalidArgument, match="'output' cannot be changed"):
        client.ensure_connection("c", target=TARGET, output="others")


def test_a_connection_is_activated_and_deactivated(buyers: Client, service: Serving) -> None:
    client = buyers
    client.ensure_output("files", FileOutput(path="files"))
    client.ensure_connection("c", target=TARGET, output="files")
    active = client.activate_connection("c")
    assert (active.state, active.activation) == (CONNECTION_STATE_ACTIVE, 1)
    assert client.get_account().active_audience_count == 1
    written = service.outputs / client.account_id / "files" / "c.ndjson"
    assert eventually(lambda: written.exists() and written.read_text().count('"subject":"ann"')) == 1
    with pytest.raises(errors.Aborted):
        client.deactivate_connection("c", etag="other")
    assert client.deactivate_connection("c").state == CONNECTION_STATE_INACTIVE
    assert client.get_account().active_audience_count == 0


def test_a_faulted_connection_is_resumed(buyers: Client, service: Serving) -> None:
    client = buyers
    blocked = service.outputs / client.account_id / "blocked"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file in the place of a directory")
    client.ensure_output("blocked", FileOutput(path="blocked"))
    client.ensure_connection("c", target=TARGET, output="blocked")
    with pytest.raises(errors.FailedPrecondition):
        client.resume_connection("c")
    client.activate_connection("c")
    eventually(lambda: client.get_connection("c").state == CONNECTION_STATE_FAULTED)
    blocked.unlink()
    assert client.resume_connection("c").state == CONNECTION_STATE_ACTIVE
    assert eventually(lambda: (blocked / "c.ndjson").exists())


def test_a_connection_is_paused_resumed_and_replayed(buyers: Client, service: Serving) -> None:
    client = buyers
    client.ensure_output("files", FileOutput(path="files"))
    client.ensure_connection(
        "c",
        target=TARGET,
        output="files",
        hashed_identities=["email"],
        hashed_attributes=["plan"],
        kinds=[CHANGE_KIND_ENTERED],
    )
    client.activate_connection("c")
    eventually(lambda: client.get_connection("c").delivered_sequence == 1)
    delivered = client.get_connection("c").delivery
    assert (delivered.pending_changes, delivered.failures, delivered.last_error) == (0, 0, "")
    assert delivered.last_success_time.seconds >= NOW.timestamp() - 1
    assert client.pause_connection("c").paused
    with pytest.raises(errors.Aborted):
        client.resume_connection("c", etag="other")
    assert not client.resume_connection("c").paused
    assert client.replay_connection("c", since=NOW - timedelta(days=1)).activation == 2
    written = service.outputs / client.account_id / "files" / "c.ndjson"
    eventually(lambda: written.read_text().count('"subject":"ann"') == 2)
    assert client.replay_connection("c").activation == 3
    eventually(lambda: written.read_text().count('"subject":"ann"') == 3)
    client.deactivate_connection("c")
    with pytest.raises(errors.FailedPrecondition):
        client.pause_connection("c")


# --- consuming without a broker ---


def users_of(updates: Iterator[object]) -> tuple[list[str], int]:
    """The users that entered until a progress mark, and its cursor."""
    users: list[str] = []
    for update in updates:
        if isinstance(update, MembershipSnapshot):
            users += update.user_ids
        elif isinstance(update, MembershipChange):
            users.append(update.user_id)
        elif isinstance(update, ProgressMark):
            return users, update.cursor
    raise AssertionError("the watch ended")


def test_a_watch_continues_after_what_was_acknowledged(buyers: Client) -> None:
    client = buyers
    client.ensure_output("consumers", WatchOutput())
    client.ensure_connection("c", target=TARGET, output="consumers")
    activation = client.activate_connection("c").activation
    watch = client.watch_connection("c", progress_interval=timedelta(seconds=1))
    assert users_of(iter(watch)) == (["ann"], 1)
    watch.acknowledge()
    watch.close()
    assert client.get_connection("c").delivered_sequence == 1
    # Acknowledging again, and without a watch, changes nothing; a cursor never sent is refused.
    assert (
        client.acknowledge_changes("c", 1, epoch=watch.epoch, activation=activation).delivered_sequence == 1
    )
    with pytest.raises(errors.InvalidArgument):
        client.acknowledge_changes("c", 2, epoch=watch.epoch, activation=activation)
    client.ingest_events([make_event("bob", "buy", NOW)], input="shop/web")
    again = client.watch_connection("c")
    assert users_of(iter(again)) == (["bob"], 2)
    again.close()
