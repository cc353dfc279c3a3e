"""The store as a whole: documents, copies, figures, closing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.backends.base import Count, Members, Role, StoreVerified, upkeep_of
from engine.errors import FailedPrecondition, StoreUnavailable
from engine.plan.model import Universe
from tests.conformance.site import ACCOUNT, AUDIENCE, INPUTS, JOURNEY, WEB, Site, event, plan_of, update

EVERYONE = plan_of(Universe(inputs=tuple(sorted(INPUTS))))


# --- documents ----------------------------------------------------------------------------------------------


@pytest.mark.needs(Role.DOCUMENTS)
def test_documents_are_kept_in_key_order(site: Site) -> None:
    documents = site.backend.documents
    documents.commit({"j/2": b"two", "j/1": b"one", "k/1": b"other", "j": b"root", "j/é": b"last"})
    for _ in range(2):
        assert list(documents.scan("j/")) == [("j/1", b"one"), ("j/2", b"two"), ("j/é", b"last")]
        assert [key for key, _ in documents.scan("")] == ["j", "j/1", "j/2", "j/é", "k/1"]
        assert list(documents.scan("x")) == []
        assert list(documents.scan("j/", 2)) == [("j/1", b"one"), ("j/2", b"two")]
        assert len(list(documents.scan("j/", 9))) == 3
        site.restart()
        documents = site.backend.documents


@pytest.mark.needs(Role.DOCUMENTS)
def test_commit_writes_and_deletes_atomically(site: Site) -> None:
    site.backend.documents.commit({"a": b"1", "b": b"2"})
    site.backend.documents.commit({"a": b"3"}, deletes=["b", "never"])
    for _ in range(2):
        assert site.backend.documents.get("a") == b"3"
        assert site.backend.documents.get("b") is None
        assert list(site.backend.documents.scan("")) == [("a", b"3")]
        site.restart()


@pytest.mark.needs(Role.DOCUMENTS)
def test_refused_commit_changes_nothing(site: Site) -> None:
    site.backend.documents.commit({"a": b"1"})
    with pytest.raises(ValueError, match="1 to 510 bytes"):
        site.backend.documents.commit({"a": b"2", "x" * 1_000: b""}, deletes=["a"])
    assert site.backend.documents.get("a") == b"1"


# --- copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.needs(Role.UPKEEP, Role.WRITING, Role.PLANS, Role.MEMBERSHIP, Role.DOCUMENTS)
def test_snapshot_is_an_independent_store(site: Site, tmp_path: Path, checkpoint: bool) -> None:
    site.send(event("ada"), update("bob", plan="gold"))
    site.backend.documents.commit({"a": b"1"})
    site.backend.refresh(ACCOUNT, JOURNEY, [AUDIENCE], EVERYONE)
    if checkpoint:
        site.settle()
    site.send(event("cleo"))
    upkeep_of(site.backend).snapshot(tmp_path / "copy")
    site.send(event("dan"))
    copy = site.open_snapshot(tmp_path / "copy")
    try:
        assert set(copy.execute(EVERYONE, Members()).user_ids) == {"ada", "bob", "cleo"}
        assert copy.documents.get("a") == b"1"
        assert set(copy.stored_members(AUDIENCE, Members()).user_ids) == {"ada", "bob"}
        assert copy.append(ACCOUNT, [event("eve")]).revision == 3
        assert copy.store_id == site.backend.store_id
    finally:
        copy.close()
    assert site.users() == {"ada", "bob", "cleo", "dan"}


@pytest.mark.needs(Role.UPKEEP)
def test_a_snapshot_overwrites_nothing(site: Site, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "precious").touch()
    with pytest.raises(FailedPrecondition) as raised:
        upkeep_of(site.backend).snapshot(tmp_path / "copy")
    assert raised.value.reason == "DIRECTORY_NOT_EMPTY"


# --- figures ------------------------------------------------------------------------------------------------


@pytest.mark.needs(Role.WRITING)
def test_figures_follow_the_data(site: Site) -> None:
    site.send(event("ada"), event("ada"), update("bob"))
    site.backend.append("accounts/other", [event("ada")])
    before = site.backend.stats()
    assert (before.users, before.events, before.revision) == (3, 3, 2)
    site.settle()
    after = site.backend.stats()
    assert (after.users, after.events, after.revision) == (3, 3, 2)
    assert 0 <= after.log_bytes < after.disk_bytes
    assert after.store_id == site.backend.store_id


@pytest.mark.needs(Role.UPKEEP, Role.WRITING)
def test_full_figures_agree_with_the_cheap_ones(site: Site) -> None:
    site.send(event("ada"), event("ada"), update("bob"))
    stats, figures = site.backend.stats(), upkeep_of(site.backend).figures()
    assert (figures.users, figures.events, figures.revision) == (2, 2, 1)
    assert (figures.users, figures.events, figures.revision) == (stats.users, stats.events, stats.revision)
    assert figures.store_id == stats.store_id


@pytest.mark.needs(Role.UPKEEP, Role.WRITING)
def test_sound_store_verifies_without_faults(site: Site) -> None:
    site.send(event("ada"), update("bob"))
    *_, last = upkeep_of(site.backend).verify()
    assert isinstance(last, StoreVerified)
    assert (last.faults, last.revision, last.store_id) == (0, 1, site.backend.store_id)


@pytest.mark.needs
def test_a_store_keeps_its_identity(site: Site, tmp_path: Path) -> None:
    store_id = site.backend.store_id
    site.restart()
    assert site.backend.store_id == store_id
    other = site.open_copy(tmp_path / "other")
    assert other.store_id != store_id
    other.close()


# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.needs(Role.WRITING)
def test_one_process_owns_a_store(site: Site) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        site.open_copy(site.directory)
    assert raised.value.reason == "STORE_LOCKED"


@pytest.mark.needs(Role.WRITING, Role.PLANS, Role.USERS, Role.DOCUMENTS)
def test_a_closed_store_refuses_everything(site: Site) -> None:
    site.send(event("ada"))
    site.backend.close()
    site.backend.close()
    with pytest.raises(StoreUnavailable):
        site.send(event("bob"))
    with pytest.raises(StoreUnavailable):
        site.backend.execute(EVERYONE, Count())
    with pytest.raises(StoreUnavailable):
        site.backend.documents.commit({"a": b"1"})
    with pytest.raises(StoreUnavailable):
        site.backend.universe_size(ACCOUNT, [WEB])
