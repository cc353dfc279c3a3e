"""Full names of resources from what callers write: ids in the client's account, or names."""

from __future__ import annotations

from collections.abc import Sequence

from milepost import names
from milepost._arguments import require_several


class Naming:
    """Makes full names, with a default account."""

    def __init__(self, account: str) -> None:
        self._account_id = names.last_id(account)

    @property
    def account_id(self) -> str:
        """The account's id; ValueError when the client was made without one."""
        if not self._account_id:
            raise ValueError("no account set: pass Client(target, account=...)")
        return self._account_id

    @property
    def account_name(self) -> str:
        """`accounts/{a}`."""
        return names.account(self.account_id)

    def account_name_of(self, account: str) -> str:
        """The full name of an account given by name or id; empty = the client's."""
        return names.account(names.last_id(account)) if account else self.account_name

    def api_key_name(self, api_key: str) -> str:
        """The full name of an API key given by name or id."""
        return api_key if "/" in api_key else names.api_key(self.account_id, api_key)

    def workspace_name(self, workspace: str) -> str:
        """The full name of a workspace given by name or id."""
        return workspace if "/" in workspace else names.workspace(self.account_id, workspace)

    def input_name(self, input: str) -> str:
        """The full name of an input given by name or as "workspace/input"; ValueError for anything else."""
        if input.startswith("accounts/"):
            return input
        workspace, slash, input_id = input.partition("/")
        if not slash:
            raise ValueError(f"expected an input as workspace/input, got {input!r}")
        return names.input_(self.account_id, workspace, input_id)

    def input_names(self, inputs: Sequence[str]) -> list[str]:
        """The full names of inputs, each as in `input_name`; TypeError for one str."""
        require_several(inputs=inputs)
        return [self.input_name(each) for each in inputs]

    def journey_name(self, journey: str) -> str:
        """The full name of a journey given by name or id."""
        return journey if "/" in journey else names.journey(self.account_id, journey)

    def target_name(self, target: str) -> str:
        """The full name of a milestone ("journey/milestone") or of an audience (an id)."""
        if target.startswith("accounts/"):
            return target
        journey, slash, milestone = target.partition("/")
        if slash:
            return names.milestone(self.account_id, journey, milestone)
        return names.audience(self.account_id, target)

    def target_names(self, targets: Sequence[str]) -> list[str]:
        """The full names of milestones and audiences, each as in `target_name`; TypeError for one str."""
        require_several(targets=targets)
        return [self.target_name(each) for each in targets]

    def milestone_name(self, milestone: str, journey: str) -> str:
        """The full name of a milestone given by its id in the journey, as "journey/milestone", or by name."""
        if "/" in milestone:
            return self.target_name(milestone)
        return names.milestone(self.account_id, names.last_id(journey), milestone)

    def output_name(self, output: str) -> str:
        """The full name of an output given by name or id."""
        return output if "/" in output else names.output(self.account_id, output)

    def connection_name(self, connection: str) -> str:
        """The full name of a connection given by name or id."""
        return connection if "/" in connection else names.connection(self.account_id, connection)
