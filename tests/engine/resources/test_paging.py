"""Page tokens are signed: only what the store handed out for a question continues it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.limits import DEFAULT_LIMITS, Limits
from engine.resources.paging import Pages, Question
from engine.resources.signing import Signer
from tests.documents import FewDocuments

QUESTION: Question = ("list_things", "accounts/a")
PAGES = Pages(Signer.of_store(FewDocuments()), DEFAULT_LIMITS.page_token_bytes_max)
Position = tuple[str | int, ...]
POSITIONS = st.lists(st.text() | st.integers(-(2**63), 2**63), max_size=3).map(tuple)


def refuse(question: Question, token: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        PAGES.decode(question, token, Position)
    assert refusal.value.reason == "INVALID_PAGE_TOKEN"
    assert [violation.field for violation in refusal.value.violations] == ["page_token"]


@given(POSITIONS)
def test_a_token_has_its_position(position: Position) -> None:
    assert PAGES.decode(QUESTION, PAGES.encode(QUESTION, position), Position) == position


@given(POSITIONS, st.data())
def test_changed_token_is_refused(position: Position, data: st.DataObject) -> None:
    token = PAGES.encode(QUESTION, position)
    place = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.text(max_size=3).filter(lambda text: text != token[place]))
    refuse(QUESTION, token[:place] + put + token[place + 1 :])


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    refuse(QUESTION, text)


def test_token_of_another_question_or_store_is_refused() -> None:
    refuse(QUESTION, PAGES.encode(("list_things", "accounts/b"), ("x",)))
    refuse(QUESTION, Pages(Signer.of_store(FewDocuments()), 10_000).encode(QUESTION, ("x",)))


def test_secret_is_kept_across_restarts() -> None:
    documents = FewDocuments()
    token = Pages(Signer.of_store(documents), 10_000).encode(QUESTION, ("x",))
    assert Pages(Signer.of_store(documents), 10_000).decode(QUESTION, token, Position) == ("x",)


def test_position_of_another_form_is_refused() -> None:
    refuse(QUESTION, PAGES.encode(QUESTION, {"another": "build"}))


@pytest.mark.parametrize(
    "limits", [DEFAULT_LIMITS, Limits(string_bytes_max=100_000), Limits(name_bytes_max=1)]
)
def test_largest_position_fits_the_limit_of_tokens(limits: Limits) -> None:
    pages = Pages(Signer.of_store(FewDocuments()), limits.page_token_bytes_max)
    names = ("n" * limits.name_bytes_max,) * 4
    position = ("s" * limits.string_bytes_max, *names, "accounts/" + "a" * 250)
    token = pages.encode(QUESTION, position)
    assert pages.decode(QUESTION, token, Position) == position
    assert len(token) <= limits.page_token_bytes_max


def test_longer_token_than_the_limit_is_refused() -> None:
    pages = Pages(Signer.of_store(FewDocuments()), 100)
    with pytest.raises(InvalidInput):
        pages.decode(QUESTION, pages.encode(QUESTION, ("s" * 100,)), Position)
