"""The methods for accounts, workspaces and inputs, against a real service."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from milepost import Client, errors, make_event
from milepost.v1.account_pb2 import (
    INPUT_KIND_FEED,
    INPUT_KIND_UNSPECIFIED,
    INPUT_KIND_WEB,
    Account,
    AccountQuotas,
    Input,
)
from tests.harness import Serving


def facts(account: Account) -> tuple[str, int, str, timedelta]:
    return (
        account.display_name,
        account.active_audience_limit,
        account.time_zone,
        account.event_retention.ToTimedelta(),
    )


def shown(input: Input) -> tuple[str, str, int]:
    return input.name.partition("/workspaces/")[2], input.display_name, input.kind


# --- accounts ---


def test_an_account_is_created_read_changed_and_listed(client: Client) -> None:
    made = client.create_account("other", display_name="Other", event_retention=timedelta(days=30))
    assert (made.name, *facts(made)) == ("accounts/other", "Other", 100, "UTC", timedelta(days=30))
    changed = client.update_account("other", time_zone="Asia/Tokyo", active_audience_limit=7)
    assert facts(changed) == ("Other", 7, "Asia/Tokyo", timedelta(days=30))
    assert client.get_account("accounts/other") == changed
    cleared = client.update_account("other", display_name="", event_retention=timedelta())
    assert facts(cleared) == ("", 7, "Asia/Tokyo", timedelta())
    assert {"accounts/other", client.account_name} <= {each.name for each in client.list_accounts()}
    with pytest.raises(errors.AlreadyExists):
        client.create_account("other")
    with pytest.raises(errors.Aborted):
        client.update_account("other", display_name="Late", etag=changed.etag)


def test_quotas_are_replaced_together(client: Client) -> None:
    made = client.create_account("limited", quotas=AccountQuotas(journeys_max=7))
    assert (made.quotas.journeys_max, made.quotas.inputs_max) == (7, 1_000)
    changed = client.update_account("limited", quotas=AccountQuotas(inputs_max=8))
    assert (changed.quotas.journeys_max, changed.quotas.inputs_max) == (1_000, 8)


def test_without_a_name_it_is_the_client_s_own_account(service: Serving) -> None:
    with Client(service.address, account="own") as client:
        assert client.create_account(time_zone="Europe/Berlin").name == "accounts/own"
        assert client.update_account(display_name="Own").display_name == "Own"
        assert facts(client.get_account())[::2] == ("Own", "Europe/Berlin")


def test_an_empty_account_is_deleted(client: Client) -> None:
    made = client.create_account("gone")
    with pytest.raises(errors.InvalidArgument, match="must repeat the id of the account, 'gone'"):
        client.delete_account("gone", confirmation="accounts/gone")
    with pytest.raises(errors.Aborted):
        client.delete_account("gone", confirmation="gone", etag="other")
    client.delete_account("accounts/gone", confirmation="gone", etag=made.etag)
    assert "accounts/gone" not in {each.name for each in client.list_accounts()}
    client.ensure_workspace("shop")
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.delete_account(client.account_id, confirmation=client.account_id)
    assert refused.value.metadata == {"workspaces": f"{client.account_name}/workspaces/shop"}


def test_an_account_is_brought_into_the_form_asked_for(service: Serving) -> None:
    with Client(service.address, account="asked") as client:
        assert facts(client.ensure_account()) == ("asked", 100, "UTC", timedelta())
        first = client.ensure_account(
            display_name="Asked", active_audience_limit=3, event_retention=timedelta(days=400)
        )
        assert facts(first) == ("Asked", 3, "UTC", timedelta(days=400))
        # What is not asked for stays, and nothing is written when nothing differs.
        assert client.ensure_account() == first
        assert client.ensure_account(active_audience_limit=3) == first
        assert facts(client.ensure_account(time_zone="UTC", display_name="Other"))[0] == "Other"


def test_a_create_that_is_repeated_with_its_request_id_gives_the_first_answer(client: Client) -> None:
    first = client.create_workspace("shop", request_id="once")
    assert client.create_workspace("shop", request_id="once") == first


# --- workspaces ---


def test_a_workspace_is_created_read_changed_and_listed(client: Client) -> None:
    client.create_workspace("shop", display_name="Shop")
    chosen = client.create_workspace(display_name="Named by the service")
    read = client.get_workspace("shop")
    assert (read.name, read.display_name) == (f"{client.account_name}/workspaces/shop", "Shop")
    assert client.update_workspace("shop", display_name="Store").display_name == "Store"
    listed = {each.name: each.display_name for each in client.list_workspaces()}
    assert listed == {read.name: "Store", chosen.name: "Named by the service"}
    with pytest.raises(errors.Aborted):
        client.update_workspace("shop", display_name="Late", etag=read.etag)


def test_an_empty_workspace_is_deleted(client: Client) -> None:
    client.ensure_input("shop", "web")
    with pytest.raises(errors.FailedPrecondition) as refused:
        client.delete_workspace("shop")
    assert refused.value.reason == "WORKSPACE_NOT_EMPTY"
    client.delete_input("shop/web")
    with pytest.raises(errors.Aborted):
        client.delete_workspace("shop", etag="other")
    client.delete_workspace("shop")
    assert list(client.list_workspaces()) == []


def test_a_workspace_is_brought_into_the_form_asked_for(client: Client) -> None:
    assert client.ensure_workspace("shop").display_name == "shop"
    named = client.ensure_workspace("shop", display_name="Shop")
    assert named.display_name == "Shop"
    assert client.ensure_workspace("shop") == named == client.get_workspace("shop")


# --- inputs ---


def test_an_input_is_created_read_changed_and_listed(client: Client) -> None:
    for workspace in ("shop", "desk"):
        client.create_workspace(workspace)
    client.create_input("shop", "web", display_name="Site", kind=INPUT_KIND_WEB)
    client.create_input("desk", "calls")
    read = client.get_input("shop/web")
    assert shown(read) == ("shop/inputs/web", "Site", INPUT_KIND_WEB)
    assert shown(client.update_input("shop/web", kind=INPUT_KIND_FEED))[1:] == ("Site", INPUT_KIND_FEED)
    cleared = client.update_input(read.name, kind=INPUT_KIND_UNSPECIFIED, display_name="Feed")
    assert shown(cleared)[1:] == ("Feed", INPUT_KIND_UNSPECIFIED)
    assert [shown(each)[0] for each in client.list_inputs()] == ["desk/inputs/calls", "shop/inputs/web"]
    assert [shown(each)[0] for each in client.list_inputs("desk")] == ["desk/inputs/calls"]
    with pytest.raises(errors.Aborted):
        client.update_input("shop/web", display_name="Late", etag=read.etag)
    with pytest.raises(errors.NotFound) as missing:
        client.create_input("none", "web")
    assert missing.value.metadata["resource"] == f"{client.account_name}/workspaces/none"


def test_an_empty_input_is_deleted(client: Client) -> None:
    web = client.ensure_input("shop", "web")
    client.ingest_events([make_event("ann", "buy", datetime.now(UTC))], input=web.name)
    with pytest.raises(errors.FailedPrecondition, match="1 of the account's users belong to it") as refused:
        client.delete_input("shop/web")
    assert (refused.value.reason, refused.value.metadata) == ("INPUT_NOT_EMPTY", {"users": "1"})
    client.delete_users(["ann"])
    with pytest.raises(errors.Aborted):
        client.delete_input(web.name, etag="other")
    client.delete_input("shop/web", etag=web.etag)
    assert list(client.list_inputs()) == []


def test_an_input_is_brought_into_the_form_asked_for(client: Client) -> None:
    assert shown(client.ensure_input("shop", "web")) == ("shop/inputs/web", "web", INPUT_KIND_UNSPECIFIED)
    client.update_workspace("shop", display_name="Shop")
    asked = client.ensure_input("shop", "web", display_name="Site", kind=INPUT_KIND_WEB)
    assert shown(asked) == ("shop/inputs/web", "Site", INPUT_KIND_WEB)
    assert client.ensure_input("shop", "web") == asked
    # What was not passed stays.
    assert client.get_workspace("shop").display_name == "Shop"
