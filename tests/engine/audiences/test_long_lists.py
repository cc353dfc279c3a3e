"""Long lists of values: where few users have the field, what they have is read. The answer is the same."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.backends.local.query import field_predicate
from engine.criteria.model import UserAttribute
from engine.criteria.operators import In
from engine.values import Value
from tests.engine.site import NOW, Site

USERS = 400
VALUES = 300


def drawn(random_: random.Random) -> Value:
    text = f"v{random_.randrange(2 * VALUES)}" + "x" * random_.choice((0, 0, 0, 500))
    return random_.choice((text, text, True, False, 1.0, (text, "other"), (), "line\nbreak", ""))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("min_", [0, 1 << 30], ids=["read", "looked up"])
def test_a_long_list_passes_what_its_values_pass_alone(
    tmp_path: Path, seed: int, min_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    print(f"seed {seed}")
    monkeypatch.setattr(field_predicate, "POINTS_BESIDE_USERS_MIN", min_)
    random_ = random.Random(seed)
    site = Site(tmp_path)
    values = {f"u{number}": drawn(random_) for number in range(USERS)}
    for user, value in values.items():
        site.update(user, {"k": value})
    operands = tuple(drawn(random_) for _ in range(VALUES))
    whole = site.add("whole", UserAttribute(key="k", test=In(values=operands)))
    assert site.members(whole) == {user for user, value in values.items() if passes(value, operands)}
    # Some values are gone, others have come, and some are not in the index yet.
    for user in random_.sample(sorted(values), 50):
        values[user] = drawn(random_)
        site.update(user, {"k": values[user]}, time=NOW + 1)
    assert site.members(whole) == {user for user, value in values.items() if passes(value, operands)}
    site.engine.close()


def passes(value: Value, operands: tuple[Value, ...]) -> bool:
    """The meaning of `in`: an equal operand of the same kind, or a list with an element that is one."""
    equal = any(type(value) is type(operand) and value == operand for operand in operands)
    return equal or (isinstance(value, tuple) and any(element in operands for element in value))
