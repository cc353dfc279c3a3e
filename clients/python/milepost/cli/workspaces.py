"""`milepost workspace`: groups of inputs. User attributes are stored per workspace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from milepost import names
from milepost.cli.answers import AsJson, Facts, show_many, show_one
from milepost.cli.calling import AccountOptions, Group
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import DisplayName, Etag, WorkspaceName, changes, faults_by_option, given
from milepost.cli.text import moment
from milepost.v1.account_pb2 import Workspace

app = typer.Typer(
    help="Create, list, edit and delete workspaces: groups of inputs, with user attributes of their own.",
    no_args_is_help=True,
    cls=Group,
)


@dataclass(frozen=True)
class WorkspaceFields:
    """What can be chosen of a workspace."""

    display_name: DisplayName = None


@app.command("list")
@grouped
def list_(as_json: AsJson = False, *, account: AccountOptions) -> None:
    """List the account's workspaces."""
    with account.open() as client:
        show_many(
            client.list_workspaces(), ["workspace", "name", "created", "updated"], _row, as_json=as_json
        )


@app.command()
@grouped
def show(workspace: WorkspaceName, as_json: AsJson = False, *, account: AccountOptions) -> None:
    """Show a workspace."""
    with account.open() as client:
        show_one(client.get_workspace(workspace), _facts, as_json=as_json)


@app.command()
@grouped
def create(
    workspace: Annotated[str, typer.Argument(metavar="WORKSPACE", help="Id of the new workspace.")],
    chosen: WorkspaceFields,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Create a workspace."""
    with account.open() as client, faults_by_option():
        made = client.create_workspace(workspace, **given(chosen))
        show_one(made, _facts, as_json=as_json)


@app.command()
@grouped
def edit(
    workspace: WorkspaceName,
    chosen: WorkspaceFields,
    etag: Etag = "",
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Change what is given of a workspace."""
    with account.open() as client, faults_by_option():
        changed = client.update_workspace(workspace, etag=etag, **changes(chosen))
        show_one(changed, _facts, as_json=as_json)


@app.command()
@grouped
def delete(workspace: WorkspaceName, etag: Etag = "", *, account: AccountOptions) -> None:
    """Delete a workspace without inputs, for good."""
    with account.open() as client:
        client.delete_workspace(workspace, etag=etag)
        print(f"deleted {client.workspace_name(workspace)}")


def _row(workspace: Workspace) -> list[str]:
    return [
        names.last_id(workspace.name),
        workspace.display_name,
        moment(workspace.create_time),
        moment(workspace.update_time),
    ]


def _facts(workspace: Workspace) -> Facts:
    return [
        ("workspace", names.last_id(workspace.name)),
        ("name", workspace.display_name),
        ("created", moment(workspace.create_time)),
        ("updated", moment(workspace.update_time)),
    ]
