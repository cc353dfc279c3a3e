"""Plans of checks, kept by what they ask: audiences as currently defined."""

from __future__ import annotations

from collections.abc import Sequence

from engine.bounded_cache import BoundedCache
from engine.plan.template import Template, audiences_template
from engine.resources.milestone_tree import Forest
from engine.resources.records import Account, Audience, Input, Journey, Milestone
from engine.resources.repository import Repository

TEMPLATES_BYTES_MAX = 16 << 20
"""Plans of checks that are kept, in bytes of memory."""

_Question = tuple[str, tuple[str, ...]]
"""The account and the audiences asked for."""


class Templates:
    """Compiles the plans of checks and keeps those used last, until a record that they depend on changes.
    Safe to call from several threads; a plan that is kept is found without the repository's lock.
    """

    def __init__(self, repository: Repository, forest: Forest) -> None:
        self._repository = repository
        self._forest = forest
        self._generation = repository.generation_of(Account, Input, Journey, Milestone, Audience)
        self._kept: BoundedCache[_Question, tuple[int, Template]] = BoundedCache(
            "plans of checks", TEMPLATES_BYTES_MAX
        )

    def of(self, account: str, audiences: Sequence[str]) -> Template:
        """The plan with a root for each of the audiences. Raises NotFound."""
        question = account, tuple(audiences)
        kept = self._kept.get(question)
        if kept is not None and kept[0] == self._generation.value:
            return kept[1]
        with self._repository.reading():
            generation = self._generation.value
            template = audiences_template(
                self._forest.account(account), question[1], self._forest.resolver(account)
            )
        self._kept.put(question, (generation, template), template.nbytes)
        return template
