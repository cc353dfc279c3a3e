"""Plans in a line of text, for fixtures.

    (& a (| b 0) (- U a))

`&`, `|` and `-` are Intersection, Union and Difference; `U` is the universe of two inputs and `V` that of one
of them; `0` is no one; `e`, `f`, `g` are events through both inputs, `v` an event through V's; `s` a
sequence; any other word is a user attribute of that key. Equal sub-expressions are one step; commas separate
roots.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from engine.criteria.model import Exists
from engine.plan.model import (
    AttributeMatch,
    Difference,
    Empty,
    EventMatch,
    EventSelection,
    Intersection,
    Interval,
    Plan,
    SequenceMatch,
    Step,
    Union,
    Universe,
    encode_step,
    operands_of,
)
from tests.engine.plan.worlds import IOS, WEB

SOME = (Interval(low=1.0),)
LEAVES: dict[str, Step] = {
    "U": Universe(inputs=(IOS, WEB)),
    "V": Universe(inputs=(WEB,)),
    "0": Empty(),
    "v": EventMatch(selection=EventSelection(inputs=(WEB,), name="v"), intervals=SOME),
    "s": SequenceMatch(steps=(EventSelection(inputs=(IOS, WEB)), EventSelection(inputs=(IOS, WEB)))),
    **{
        name: EventMatch(selection=EventSelection(inputs=(IOS, WEB), name=name), intervals=SOME)
        for name in ("e", "f", "g")
    },
}
GROUPS: dict[str, type[Intersection] | type[Union]] = {"&": Intersection, "|": Union}
SIGNS: dict[type[Step], str] = {Intersection: "&", Union: "|", Difference: "-"}


def leaf(word: str) -> Step:
    return LEAVES.get(word) or AttributeMatch(
        workspaces=("accounts/a/workspaces/w",), key=word, test=Exists()
    )


class _Reader:
    def __init__(self, *, shared: bool) -> None:
        self.steps: list[Step] = []
        self._shared = shared
        self._known: dict[bytes, int] = {}

    def add(self, step: Step) -> int:
        key = encode_step(step)
        if not self._shared or key not in self._known:
            self.steps.append(step)
            self._known[key] = len(self.steps) - 1
        return self._known[key]

    def read(self, words: Iterator[str]) -> int | None:
        """The next expression; None at a closing bracket."""
        word = next(words)
        if word == ")":
            return None
        if word != "(":
            return self.add(leaf(word))
        sign = next(words)
        operands = []
        while (operand := self.read(words)) is not None:
            operands.append(operand)
        if sign == "-":
            return self.add(Difference(minuend=operands[0], subtrahend=operands[1]))
        return self.add(GROUPS[sign](operands=tuple(operands)))


def parse(text: str, *, shared: bool = True) -> Plan:
    """The plan written as `text`; unless `shared`, every word is a separate step."""
    reader = _Reader(shared=shared)
    roots = []
    for expression in text.split(","):
        root = reader.read(iter(re.findall(r"[()]|[^\s()]+", expression)))
        assert root is not None
        roots.append(root)
    return Plan(account="accounts/a", as_of=0, steps=tuple(reader.steps), roots=tuple(roots))


def render(plan: Plan) -> str:
    """The plan as `parse` reads it."""
    names = {encode_step(step): name for name, step in LEAVES.items()}

    def expression(index: int) -> str:
        step = plan.steps[index]
        if type(step) in SIGNS:
            return f"({SIGNS[type(step)]} {' '.join(map(expression, operands_of(step)))})"
        return names.get(encode_step(step)) or str(getattr(step, "key", step))

    return ", ".join(map(expression, plan.roots))
