"""The limit on how deep audiences name each other, for those above an edited milestone.

Criteria are checked where they name an audience (`engine.resources.criteria`). But whatever names the edited
milestone's audience gets deeper with it, in its own journey and in others.
"""

from __future__ import annotations

from engine.errors import NotFound
from engine.limits import AUDIENCE_LEVELS_MAX
from engine.plan.tree import JourneyTree, Located, MilestoneKey, audiences_in, levels_of
from engine.resources.milestone_tree import Forest
from engine.resources.records import account_of


def raised_too_far(forest: Forest, edited: JourneyTree) -> tuple[str, ...]:
    """The milestones (names) that would have more levels than before and than are allowed if `edited` were
    saved. Those that had too many already may keep them. Time grows with the milestones of the account when
    the edit raises one that others name, and else with those of the journey and all that they depend on.
    """
    if not any(any(audiences_in(milestone.criterion)) for milestone in edited.milestones):
        return ()
    account = account_of(edited.name)
    after_all = forest.resolver(account, {edited.name: edited})
    before_all = forest.resolver(account)
    try:
        saved = forest.tree(edited.name)
    except NotFound:
        saved = JourneyTree(name=edited.name, inputs=edited.inputs)
    own = _raised(levels_of(_each(saved), before_all), levels_of(_each(edited), after_all))
    if _too_far(own):
        return _too_far(own)
    lasting = {milestone.id for milestone in saved.milestones}
    raised = {milestone for journey, milestone in own if journey == edited.name and milestone in lasting}
    if not forest.named_elsewhere(edited.name, raised):
        return ()
    trees = forest.trees(account)
    before = levels_of([located for tree in trees for located in _each(tree)], before_all)
    changed = (edited if tree.name == edited.name else tree for tree in trees)
    after = levels_of([located for tree in changed for located in _each(tree)], after_all)
    return _too_far(_raised(before, after))


def too_deep(milestones: tuple[str, ...]) -> str:
    """Why an edit is refused that raises these milestones too far."""
    others = f" and {len(milestones) - 1} more" if len(milestones) > 1 else ""
    return (
        f"{milestones[0]}{others} would name audiences over more than {AUDIENCE_LEVELS_MAX} levels, the most "
        "allowed; repeat the criteria of one of the audiences below it instead of naming it"
    )


def _each(tree: JourneyTree) -> list[Located]:
    return [(tree, milestone) for milestone in tree.milestones]


def _raised(before: dict[MilestoneKey, int], after: dict[MilestoneKey, int]) -> dict[MilestoneKey, int]:
    return {key: level for key, level in after.items() if level > before.get(key, 0)}


def _too_far(raised: dict[MilestoneKey, int]) -> tuple[str, ...]:
    return tuple(sorted(milestone for (_, milestone), level in raised.items() if level > AUDIENCE_LEVELS_MAX))
