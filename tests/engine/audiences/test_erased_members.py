"""What erased users leave behind: exits of members, ids that changes name, and nothing else."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from engine.backends.base import UserRecord
from engine.backends.local.backend import LocalBackend
from engine.backends.local.membership import erased
from engine.backends.local.membership.store import INSTANT_STORED_MICROS
from engine.criteria.model import Equals, UserAttribute
from engine.values import MICROS_PER_DAY, MICROS_PER_SECOND
from tests.conformance.as_columns import user_columns_of
from tests.engine.site import ACCOUNT, NOW, WEB, Site, did

MANY = 5_000
WAIT_S = 60.0


def kept(backend: LocalBackend) -> dict[str, dict[int, int]]:
    """The ids of erased users that are kept, and the changes that name them."""
    ids = backend._state.memberships._erased_ids
    return {each.user_id: each.named_through for each in ids._erased.values()}


def test_erased_users_that_were_members_of_nothing_leave_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1. Of many erased users two were members, one is a former member. 2. Only their ids are kept, also in a
    backup. 3. A refresh looks at none of the others.
    """
    gold = site.add("gold", UserAttribute(key="tier", test=Equals("gold")))
    site.connect(gold)
    nobody = [f"nobody-{number}" for number in range(MANY)]
    some = [UserRecord(each, WEB, NOW, {"tier": "gold"}) for each in ("in", "also in", "stays", "was in")]
    site.backend.append_user_columns(
        ACCOUNT, user_columns_of([UserRecord(each, WEB, NOW, {"tier": "tin"}) for each in nobody])
    )
    site.backend.append(ACCOUNT, some)
    site.engine.live.refresh_all()
    site.update("was in", {"tier": "tin"}, time=NOW + 1)
    site.engine.live.refresh_all()
    site.backend.erase(ACCOUNT, [*nobody, "in", "also in", "was in"])
    assert kept(site.backend) == {each: {1: 7} for each in ("in", "also in", "was in")}  # type: ignore[arg-type]
    site.backend.snapshot(tmp_path / "backup")  # type: ignore[attr-defined]
    copied = b"".join(file.read_bytes() for file in (tmp_path / "backup").rglob("data.mdb"))
    assert b"also in" in copied
    assert b"nobody-17" not in copied
    decided: list[Any] = []
    is_named = erased.ErasedIds._is_named

    def counting(self: erased.ErasedIds, *args: Any) -> bool:
        decided.append(args)
        return is_named(self, *args)

    monkeypatch.setattr(erased.ErasedIds, "_is_named", counting)
    site.update("stays", {"tier": "tin"}, time=NOW + 2)
    site.engine.live.refresh_all()
    assert decided == []
    page = site.backend.changes(gold.audience, 4, 10).changes
    assert [(c.user_id, c.entered) for c in page[:1] + page[-1:]] == [("was in", False), ("stays", False)]
    assert {c.user_id for c in page[1:3]} == {"in", "also in"}


def test_changes_name_users_whose_exits_wait(site: Site) -> None:
    """While a round is stored the exits of erased users wait; the changes before them can be read."""
    milestone = site.add("m", did("a"))
    site.connect(milestone)
    site.send([("u", "a"), ("v", "a")])
    site.engine.live.refresh_all()
    backend: Any = site.backend
    memberships = backend._state.memberships
    # An erasure ends with a checkpoint, which waits for the index.
    eraser = threading.Thread(target=lambda: site.backend.erase(ACCOUNT, ["u"]))
    with backend._index_lock:
        with backend._state.locked():
            round_ = memberships.open_round(NOW, 1)
        eraser.start()
        deadline = time.monotonic() + WAIT_S
        while site.backend.profile(ACCOUNT, "u") is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        named = {c.user_id for c in site.backend.changes(milestone.audience, 0, 9).changes}
        assert named == {"u", "v"}
        with backend._state.locked():
            memberships.give_up_round(round_)
    eraser.join(WAIT_S)
    changes = site.backend.changes(milestone.audience, 2, 9).changes
    assert [(c.user_id, c.entered) for c in changes] == [("u", False)]


def test_a_former_member_is_named_until_its_changes_are_trimmed(site: Site) -> None:
    milestone = site.add("m", did("a", days=1))
    site.connect(milestone)
    site.send([("u", "a"), ("v", "a")])
    site.engine.live.refresh_all()
    site.clock.now = NOW + 2 * MICROS_PER_DAY
    site.engine.live.refresh_all()
    site.engine.close()
    site.open()
    # Whom changes name is found again after a start.
    site.backend.erase(ACCOUNT, ["u"])
    assert kept(site.backend) == {"u": {1: 4}}  # type: ignore[arg-type]
    site.backend.trim_changes(milestone.audience, 4)
    assert kept(site.backend) == {}  # type: ignore[arg-type]
    site.backend.erase(ACCOUNT, ["v"])
    assert kept(site.backend) == {}  # type: ignore[arg-type]


def test_an_exit_by_erasure_comes_after_every_mark(site: Site) -> None:
    """Marks go on while nothing changes. An exit that follows is not dated before them, also after a start
    before whose first round the user was erased.
    """
    milestone = site.add("m", did("a"))
    site.connect(milestone)
    site.send([(user, "a") for user in ("u", "v", "w")])
    site.engine.live.refresh_all()
    site.clock.now += 90 * MICROS_PER_SECOND
    site.engine.live.refresh_all()
    assert site.engine.live.reached(milestone.audience) == site.clock.now
    site.backend.erase(ACCOUNT, ["u"])
    assert [c.as_of for c in site.backend.changes(milestone.audience, 3, 9).changes] == [site.clock.now]
    site.clock.now += 90 * MICROS_PER_SECOND
    site.engine.live.refresh_all()
    site.engine.close()
    site.open()
    assert site.engine.live.reached(milestone.audience) == 0
    site.backend.erase(ACCOUNT, ["v"])
    [change] = site.backend.changes(milestone.audience, 4, 9).changes
    # Of the instants before the start only one every ten seconds is stored.
    reached = NOW + 180 * MICROS_PER_SECOND
    assert reached <= change.as_of <= reached + INSTANT_STORED_MICROS
