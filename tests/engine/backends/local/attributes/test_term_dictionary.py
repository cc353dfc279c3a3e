"""Strings kept together: every one that contains a literal is found, none is invented."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.backends.local.attributes.term_dictionary import TermDictionaries, TermDictionary

TEXTS = st.lists(st.text(alphabet="ab.é\0", max_size=5), max_size=30, unique=True)
LITERALS = st.text(alphabet="ab.é\0", max_size=3)


@given(TEXTS, TEXTS, LITERALS)
def test_what_contains_the_literal_is_found(first: list[str], later: list[str], literal: str) -> None:
    term_dictionary = TermDictionary(text.encode() for text in first)
    term_dictionary.add(text.encode() for text in later)
    found = sorted(text.decode() for text in term_dictionary.containing(literal.encode()))
    assert found == sorted(text for text in first + later if literal in text)


def test_term_dictionaries_are_built_once_grow_and_are_rejoined_when_scattered() -> None:
    made: list[int] = []

    def stored() -> list[bytes]:
        made.append(1)
        return [b"ann", b"bob"]

    term_dictionaries = TermDictionaries()
    assert set(term_dictionaries.get(b"p", stored).containing(b"")) == {b"ann", b"bob"}
    term_dictionaries.add(b"p", [b"eve"])
    term_dictionaries.add(b"q", [b"nobody asked"])
    assert set(term_dictionaries.get(b"p", stored).containing(b"e")) == {b"eve"}
    assert len(made) == 1
    term_dictionaries.add(b"p", [b"%d" % number for number in range(100)])
    assert set(term_dictionaries.get(b"p", stored).containing(b"")) == {b"ann", b"bob"}
    assert len(made) == 2


def test_the_least_recently_used_dictionary_is_evicted_over_the_budget() -> None:
    made: list[bytes] = []

    def get(prefix: bytes) -> TermDictionary:
        def stored() -> list[bytes]:
            made.append(prefix)
            return [prefix * 50]

        return term_dictionaries.get(prefix, stored)

    term_dictionaries = TermDictionaries(bytes_max=120)
    for prefix in (b"a", b"b", b"a", b"c", b"a", b"b"):
        get(prefix)
    assert made == [b"a", b"b", b"c", b"b"]
