"""Strings kept together: every one that contains a literal is found, none is invented."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.local.vocabulary import Vocabularies, Vocabulary

TEXTS = st.lists(st.text(alphabet="ab.é\0", max_size=5), max_size=30, unique=True)
LITERALS = st.text(alphabet="ab.é\0", max_size=3)


@given(TEXTS, TEXTS, LITERALS)
def test_what_contains_the_literal_is_found(first: list[str], later: list[str], literal: str) -> None:
    vocabulary = Vocabulary(text.encode() for text in first)
    vocabulary.add(text.encode() for text in later)
    found = sorted(text.decode() for text in vocabulary.containing(literal.encode()))
    assert found == sorted(text for text in first + later if literal in text)


def test_vocabularies_are_made_once_grow_and_are_made_anew_when_scattered() -> None:
    made: list[int] = []

    def stored() -> list[bytes]:
        made.append(1)
        return [b"ann", b"bob"]

    vocabularies = Vocabularies()
    assert set(vocabularies.get(b"p", stored).containing(b"")) == {b"ann", b"bob"}
    vocabularies.add(b"p", [b"eve"])
    vocabularies.add(b"q", [b"nobody asked"])
    assert set(vocabularies.get(b"p", stored).containing(b"e")) == {b"eve"}
    assert len(made) == 1
    vocabularies.add(b"p", [b"%d" % number for number in range(100)])
    assert set(vocabularies.get(b"p", stored).containing(b"")) == {b"ann", b"bob"}
    assert len(made) == 2


def test_the_least_used_goes_when_there_are_too_many_bytes() -> None:
    made: list[bytes] = []

    def get(prefix: bytes) -> Vocabulary:
        def stored() -> list[bytes]:
            made.append(prefix)
            return [prefix * 50]

        return vocabularies.get(prefix, stored)

    vocabularies = Vocabularies(bytes_max=120)
    for prefix in (b"a", b"b", b"a", b"c", b"a", b"b"):
        get(prefix)
    assert made == [b"a", b"b", b"c", b"b"]
