"""Revision tokens name a state of one store, and only the store can make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.resources.signing import Signer
from service.convert.revisions import Revisions, revision_token
from tests.documents import FewDocuments

LATEST = 2**40
SIGNER = Signer.of_store(FewDocuments())
REVISIONS = Revisions("s1", SIGNER, lambda: LATEST)
OTHERS = Revisions("s1", Signer.of_store(FewDocuments()), lambda: LATEST)


def refuse(token: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        REVISIONS.revision(token)
    assert refusal.value.reason == "INVALID_REVISION"
    assert [violation.field for violation in refusal.value.violations] == ["at_least"]


@given(st.integers(0, LATEST))
def test_a_token_names_its_revision(revision: int) -> None:
    assert REVISIONS.revision(REVISIONS.token(revision)) == revision


def test_empty_token_requires_nothing() -> None:
    assert REVISIONS.revision("") == 0


@pytest.mark.parametrize(
    "token", ["s1.1", "s1", "s1.", "s1.xyz", "s1.1.1", "s1.-1", ".1", "s1." + "f" * 17, "s1.1." + "0" * 32]
)
def test_unsigned_token_is_refused(token: str) -> None:
    refuse(token)


@given(st.integers(0, LATEST), st.data())
def test_changed_token_is_refused(revision: int, data: st.DataObject) -> None:
    token = REVISIONS.token(revision)
    place = data.draw(st.integers(0, len(token) - 1))
    put = data.draw(st.text(max_size=3).filter(lambda text: text != token[place]))
    refuse(token[:place] + put + token[place + 1 :])


def test_token_of_another_store_is_refused() -> None:
    refuse(OTHERS.token(1))
    refuse(revision_token("s2", 1, SIGNER))


def test_revision_later_than_the_latest_is_refused() -> None:
    refuse(REVISIONS.token(LATEST + 1))
