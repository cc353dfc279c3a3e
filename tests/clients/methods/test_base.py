"""What the methods of every service build on, against a real service."""

from __future__ import annotations

import pytest

from milepost import Client
from milepost.criteria import event
from milepost.v1.account_service_pb2 import CreateWorkspaceRequest, ListWorkspacesRequest


def test_a_service_that_runs_is_serving(client: Client) -> None:
    assert client.is_serving()
    assert client.wait_until_serving(5.0)
    with Client("127.0.0.1:1", account="acme") as none:
        assert not none.is_serving(0.1)
        assert not none.wait_until_serving(0.1)


def test_a_client_with_another_timeout_answers_the_same(client: Client) -> None:
    assert client.with_timeout(30.0).get_account() == client.get_account()


def test_a_write_gets_a_request_id_and_keeps_its_own(client: Client) -> None:
    request = CreateWorkspaceRequest(parent=client.account_name, workspace_id="shop")
    first = client.write(client.accounts.CreateWorkspace, request)
    assert request.request_id
    assert client.write(client.accounts.CreateWorkspace, request) == first


def test_ids_become_full_names_and_full_names_stay(client: Client) -> None:
    own = client.account_name
    full = {
        client.account_name_of("other"): "accounts/other",
        client.account_name_of(""): own,
        client.workspace_name("shop"): f"{own}/workspaces/shop",
        client.input_name("shop/web"): f"{own}/workspaces/shop/inputs/web",
        client.journey_name("j"): f"{own}/journeys/j",
        client.target_name("j/m"): f"{own}/journeys/j/milestones/m",
        client.target_name("a1"): f"{own}/audiences/a1",
        client.milestone_name("m", "j"): f"{own}/journeys/j/milestones/m",
        client.milestone_name("k/m", f"{own}/journeys/j"): f"{own}/journeys/k/milestones/m",
        client.output_name("files"): f"{own}/outputs/files",
        client.connection_name("c"): f"{own}/connections/c",
    }
    assert [name for name, expected in full.items() if name != expected] == []
    assert client.target_names(["j/m", "a1"]) == [f"{own}/journeys/j/milestones/m", f"{own}/audiences/a1"]
    assert client.input_names(["shop/web"]) == [f"{own}/workspaces/shop/inputs/web"]
    for named in (client.workspace_name, client.input_name, client.target_name, client.output_name):
        assert named("accounts/other/x/y") == "accounts/other/x/y"
    with pytest.raises(ValueError, match="workspace/input"):
        client.input_name("web")
    with pytest.raises(ValueError, match="no account set"):
        Client("127.0.0.1:1").workspace_name("shop")


def test_the_audience_of_a_milestone_is_looked_up(client: Client) -> None:
    client.ensure_journey("j")
    audience = client.ensure_milestone("j", "m", criteria=event("buy").happened()).audience
    assert client.audience_name("j/m") == client.audience_name(audience) == audience


def test_every_page_is_read(client: Client) -> None:
    for number in range(5):
        client.create_workspace(f"w{number}")
    request = ListWorkspacesRequest(parent=client.account_name, page_size=2)
    pages = list(client.pages(client.accounts.ListWorkspaces, request))
    assert [len(page.workspaces) for page in pages] == [2, 2, 1]
    assert len(list(client.list_workspaces())) == 5
    assert request.page_token == ""
