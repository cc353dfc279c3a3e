"""Accounts, workspaces and inputs: ids, masks, etags, repeated requests, pages."""

from __future__ import annotations

import pytest

from engine.errors import AlreadyExists, EtagMismatch, InvalidInput, NotFound
from engine.resources.records import Account, Input, Workspace, etag_of
from tests.engine.site import ACCOUNT, APP, NOW, WEB, WORKSPACE, Site


def test_defaults_and_times_of_an_account(site: Site) -> None:
    account = site.engine.accounts.get_account(ACCOUNT)
    assert account == Account(
        name=ACCOUNT, create_time=NOW, update_time=NOW, active_audience_limit=100, time_zone="UTC"
    )


@pytest.mark.parametrize("bad", ["1st", "Upper", "under_score", "a" * 64, "-x", "é"])
def test_malformed_id_is_refused(site: Site, bad: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        site.engine.accounts.create_account(bad, Account(name=""))
    assert [v.field for v in refused.value.violations] == ["account_id"]


def test_longest_and_shortest_ids_are_accepted(site: Site) -> None:
    for chosen in ("a", "a" * 63, "z9-"):
        assert site.engine.accounts.create_account(chosen, Account(name="")).name == f"accounts/{chosen}"


def test_generated_ids_are_valid_and_unique(site: Site) -> None:
    names = {site.engine.accounts.create_account("", Account(name="")).name for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert site.engine.accounts.get_account(name).name == name


def test_taken_id_and_missing_parent_are_refused(site: Site) -> None:
    with pytest.raises(AlreadyExists) as taken:
        site.engine.accounts.create_account("acme", Account(name=""))
    assert taken.value.metadata == {"resource": ACCOUNT}
    with pytest.raises(NotFound) as missing:
        site.engine.accounts.create_workspace("accounts/nobody", "w", Workspace(name=""))
    assert missing.value.metadata == {"resource": "accounts/nobody"}
    with pytest.raises(NotFound):
        site.engine.accounts.create_input(f"{ACCOUNT}/workspaces/none", "i", Input(name=""))


def test_every_fault_of_an_account_is_reported(site: Site) -> None:
    record = Account(
        name="",
        display_name="x" * 101,
        time_zone="Mars/Olympus",
        event_retention=-1,
        active_audience_limit=-1,
    )
    with pytest.raises(InvalidInput) as refused:
        site.engine.accounts.create_account("bad", record)
    assert [v.field for v in refused.value.violations] == [
        "account.display_name",
        "account.active_audience_limit",
        "account.event_retention",
        "account.time_zone",
    ]
    with pytest.raises(NotFound):
        site.engine.accounts.get_account("accounts/bad")


def test_update_changes_only_the_named_fields(site: Site) -> None:
    site.clock.now += 5
    record = Account(name=ACCOUNT, display_name="Acme", time_zone="Europe/Berlin", active_audience_limit=7)
    updated = site.engine.accounts.update_account(record, {"display_name", "time_zone"})
    assert updated.display_name == "Acme"
    assert updated.time_zone == "Europe/Berlin"
    assert updated.active_audience_limit == 100
    assert (updated.create_time, updated.update_time) == (NOW, NOW + 5)
    with pytest.raises(InvalidInput) as refused:
        site.engine.accounts.update_account(record, {"name"})
    assert [v.field for v in refused.value.violations] == ["update_mask"]


def test_an_etag_that_no_longer_fits(site: Site) -> None:
    before = etag_of(site.engine.accounts.get_account(ACCOUNT))
    record = Account(name=ACCOUNT, display_name="Acme")
    after = etag_of(site.engine.accounts.update_account(record, {"display_name"}, before))
    assert after != before
    with pytest.raises(EtagMismatch) as stale:
        site.engine.accounts.update_account(Account(name=ACCOUNT), {"display_name"}, before)
    assert stale.value.metadata == {"resource": ACCOUNT}
    assert site.engine.accounts.get_account(ACCOUNT).display_name == "Acme"
    assert (
        site.engine.accounts.update_account(Account(name=ACCOUNT), {"display_name"}, after).display_name == ""
    )


def test_repeated_request_returns_the_first_answer_after_a_restart(site: Site) -> None:
    first = site.engine.accounts.create_account("", Account(name="", display_name="One"), "request-1")
    site.clock.now += 10
    again = site.engine.accounts.create_account("", Account(name="", display_name="Two"), "request-1")
    assert again == first
    site.engine.close()
    site.open()
    assert site.engine.accounts.create_account("", Account(name=""), "request-1") == first
    # Another method, or another parent, is another request.
    workspace = site.engine.accounts.create_workspace(first.name, "", Workspace(name=""), "request-1")
    assert workspace.name.startswith(f"{first.name}/workspaces/")
    other = site.engine.accounts.create_workspace(ACCOUNT, "", Workspace(name=""), "request-1")
    assert other.name.startswith(f"{ACCOUNT}/workspaces/")


def test_a_failed_create_is_not_remembered(site: Site) -> None:
    with pytest.raises(AlreadyExists):
        site.engine.accounts.create_account("acme", Account(name=""), "again")
    assert site.engine.accounts.create_account("acme2", Account(name=""), "again").name == "accounts/acme2"


def test_inputs_of_one_workspace_and_of_all(site: Site) -> None:
    site.engine.accounts.create_workspace(ACCOUNT, "club", Workspace(name=""))
    site.engine.accounts.create_input(f"{ACCOUNT}/workspaces/club", "till", Input(name=""))
    till = f"{ACCOUNT}/workspaces/club/inputs/till"
    own = site.engine.accounts.list_inputs(WORKSPACE)
    assert [record.name for record in own.items] == [APP, WEB]
    everything = site.engine.accounts.list_inputs(f"{ACCOUNT}/workspaces/-")
    assert [record.name for record in everything.items] == [till, APP, WEB]


def test_pages_cover_the_list_and_tokens_are_bound_to_the_query(site: Site) -> None:
    for number in range(5):
        site.engine.accounts.create_input(WORKSPACE, f"extra-{number}", Input(name=""))
    names: list[str] = []
    token = ""
    for _ in range(4):
        page = site.engine.accounts.list_inputs(WORKSPACE, page_size=2, page_token=token)
        names += [record.name.rpartition("/")[2] for record in page.items]
        token = page.next_page_token
        if names[-1] == "extra-0":
            # One that comes while the walk is on its way is met when it lies ahead.
            site.engine.accounts.create_input(WORKSPACE, "extra-0b", Input(name=""))
    assert names == ["app", "extra-0", "extra-0b", "extra-1", "extra-2", "extra-3", "extra-4", "web"]
    assert token == ""
    other = site.engine.accounts.list_inputs(WORKSPACE, page_size=2).next_page_token
    for question in (
        lambda t: site.engine.accounts.list_inputs(f"{ACCOUNT}/workspaces/-", page_token=t),
        lambda t: site.engine.accounts.list_accounts(page_token=t),
    ):
        with pytest.raises(InvalidInput) as refused:
            question(other)
        assert refused.value.reason == "INVALID_PAGE_TOKEN"
        assert [v.field for v in refused.value.violations] == ["page_token"]


@pytest.mark.parametrize("token", ["nonsense", "*", "AAAA", "é"])
def test_unknown_page_token_is_refused(site: Site, token: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        site.engine.accounts.list_inputs(WORKSPACE, page_token=token)
    assert refused.value.reason == "INVALID_PAGE_TOKEN"


def test_negative_page_size_is_refused_and_a_large_one_is_capped(site: Site) -> None:
    with pytest.raises(InvalidInput) as refused:
        site.engine.accounts.list_accounts(page_size=-1)
    assert [v.field for v in refused.value.violations] == ["page_size"]
    assert len(site.engine.accounts.list_accounts(page_size=10**6).items) == 1


def test_records_survive_a_restart(site: Site) -> None:
    before = site.engine.accounts.list_inputs(f"{ACCOUNT}/workspaces/-").items
    site.engine.close()
    site.open()
    assert site.engine.accounts.list_inputs(f"{ACCOUNT}/workspaces/-").items == before
