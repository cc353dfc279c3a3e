"""`milepost explain`: why a user is in an audience or not, and how an audience is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console

from milepost import names
from milepost.cli.answers import AsJson, show_json
from milepost.cli.asking import AsOf
from milepost.cli.calling import AccountOptions
from milepost.cli.documents import show_warnings
from milepost.cli.drafts import CriteriaFile, asked
from milepost.cli.option_groups import grouped
from milepost.cli.parameters import AudienceName
from milepost.cli.text import console, number, show_table
from milepost.cli.tree import branch
from milepost.v1.audience_service_pb2 import (
    CriterionVerdict,
    ExplainAudienceResponse,
    ExplainMembershipResponse,
    MilestoneVerdict,
    PlanStep,
)


@grouped
def explain(
    audience: AudienceName,
    user: Annotated[
        str | None, typer.Argument(metavar="USER", help="A user's id. Without one, the query plan.")
    ] = None,
    criteria: CriteriaFile = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    *,
    account: AccountOptions,
) -> None:
    """Show which criteria let a user into an audience or keep it out; without a user, the query plan.

    A criterion decides when the user would be elsewhere if it alone were otherwise.
    """
    if user is not None and criteria is not None:
        raise typer.BadParameter("explains a plan: leave the user out", param_hint="--criteria")
    with account.open() as client:
        if user is not None:
            verdict = client.explain_membership(user, audience, as_of=as_of)
            if as_json:
                show_json(verdict)
            else:
                _show_verdict(verdict, user, console())
            return
        with asked(client, audience, criteria) as question:
            plan = client.explain_audience(question.target, as_of=as_of)
        if as_json:
            show_json(plan)
        else:
            _show_plan(plan, console())
            show_warnings(plan.warnings, question.where)


# --- a user ---


def _show_verdict(answer: ExplainMembershipResponse, user: str, out: Console) -> None:
    target = names.short_milestone(answer.milestones[-1].milestone)
    print(f"{user} is {'' if answer.member else 'not '}a member of {target}", file=out.file)
    if not answer.in_journey:
        print("nothing came for this user through the journey's inputs", file=out.file)
    rows = [row for milestone in answer.milestones for row in _milestone_rows(milestone, out)]
    print(file=out.file)
    show_table(out, ["criteria", "true", "seen", ""], rows)
    print(f"\nas of {answer.evaluation.as_of.ToJsonString()}", file=out.file)


def _milestone_rows(milestone: MilestoneVerdict, out: Console) -> Iterator[list[str]]:
    taken = f"taken by {names.last_id(milestone.taken_by)}" if milestone.taken_by else ""
    yield [names.short_milestone(milestone.milestone), _yes(milestone.member), "", taken]
    if milestone.HasField("criteria"):
        yield from _criterion_rows(milestone.criteria, (True,), out, is_decisive=True)


def _criterion_rows(
    criterion: CriterionVerdict, last_at: Sequence[bool], out: Console, *, is_decisive: bool
) -> Iterator[list[str]]:
    """A criterion and those inside it. One decides where it and all those above it are decisive."""
    decides = is_decisive and criterion.decisive
    label = f"{criterion.label}: " if criterion.label else ""
    yield [
        f"{branch(last_at, is_terminal=out.is_terminal)}{label}{criterion.description}",
        _yes(criterion.true_for_user),
        criterion.seen,
        "decides" if decides else "",
    ]
    for index, child in enumerate(criterion.children):
        is_last = index == len(criterion.children) - 1
        yield from _criterion_rows(child, (*last_at, is_last), out, is_decisive=decides)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


# --- a plan ---


def _show_plan(answer: ExplainAudienceResponse, out: Console) -> None:
    header = ["step", "operator", "of", "users", "ms", "source", "looked at", "description"]
    show_table(out, header, [_plan_row(step, answer.root) for step in answer.steps], right=(3, 4, 6))
    print(f"\nplan {answer.plan_digest}, as of {answer.evaluation.as_of.ToJsonString()}", file=out.file)


def _plan_row(step: PlanStep, root: int) -> list[str]:
    return [
        f"{step.index}{' *' if step.index == root else ''}",
        step.operator,
        ", ".join(map(str, step.operands)),
        number(step.users),
        f"{step.elapsed.ToMicroseconds() / 1_000:.1f}",
        step.source,
        number(step.looked_at),
        step.description,
    ]
