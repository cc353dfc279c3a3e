"""A short campaign of the watch properties; `make watch-properties` runs long ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from milepost.v1.audience_pb2 import MembershipChange
from milepost.v1.audience_service_pb2 import MembershipSnapshot, ProgressMark, SnapshotBegin, SnapshotEnd
from tests.faults.watch_properties import PROPERTIES, WATCHERS, Campaign, Fold, States, digest_of

CHANGES = 2_000


def test_a_watch_keeps_its_properties_over_a_kill_and_a_restore(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = str(pytestconfig.getoption("--hypothesis-seed"))
    campaign = Campaign(tmp_path, changes=CHANGES, kills=1, restores=1, seed=seed)
    checked = campaign.run()
    assert all(checked[name] for name in PROPERTIES), (seed, checked)
    assert all(each.changes >= CHANGES / 2 for each in campaign.folds)
    # Each watcher was refused its cursor of before the restore.
    assert checked["resumable"] >= WATCHERS


# --- the checks ---------------------------------------------------------------------------------------------


def change(sequence: int, user: str, second: int, *, entered: bool = True, last: bool = False) -> object:
    made = MembershipChange(sequence=sequence, user_id=user, entered=entered, last_of_instant=last)
    made.as_of.FromSeconds(second)
    return made


def mark(cursor: int, second: int) -> object:
    made = ProgressMark(cursor=cursor)
    made.as_of.FromSeconds(second)
    return made


def faults(updates: Sequence[object]) -> list[str]:
    """What a follower finds wrong. The audience was empty, then had ann, then ann and bob."""
    states = States()
    states.add(digest_of("ann"))
    states.add(digest_of("ann") ^ digest_of("bob"))
    fold = Fold("watcher 0", states)
    for update in updates:
        fold.take(update, "epoch")
    return [fault.partition(":")[0].rpartition(" ")[2] for fault in fold.faults]


def test_a_watch_that_keeps_its_promises_is_not_faulted() -> None:
    snapshot = [SnapshotBegin(cursor=1), MembershipSnapshot(user_ids=["ann"]), SnapshotEnd(cursor=1)]
    assert faults([*snapshot, mark(1, 5), change(2, "bob", 6, last=True), mark(2, 6)]) == []
    assert faults([change(1, "ann", 5, last=True), change(2, "bob", 6, last=True)]) == []


@pytest.mark.parametrize(
    ("updates", "broken"),
    [
        ([change(1, "ann", 6), change(2, "bob", 5)], "ordered"),
        ([change(1, "ann", 5), change(1, "ann", 5)], "unique"),
        ([change(1, "bob", 5, last=True)], "atomic"),
        ([change(1, "ann", 5, last=True), change(2, "ann", 6, entered=False, last=True)], "atomic"),
        ([change(1, "ann", 5), change(3, "bob", 5)], "reliable"),
        ([mark(0, 6), change(1, "ann", 5)], "bookmarkable"),
        ([mark(0, 6), mark(0, 5)], "bookmarkable"),
    ],
)
def test_a_promise_that_is_broken_is_found(updates: Sequence[object], broken: str) -> None:
    assert faults(updates) == [broken]
