"""The least recently used values make room, and the newest always stays."""

from __future__ import annotations

from engine.bounded_cache import BoundedCache


def test_the_least_recently_used_make_room() -> None:
    cache: BoundedCache[str, int] = BoundedCache("test", 10)
    for name, size in (("a", 4), ("b", 4), ("c", 2)):
        cache.put(name, size, size)
    assert cache.get("a") == 4
    assert (cache.nbytes, cache.has_room(0), cache.has_room(1)) == (10, True, False)
    cache.put("d", 1, 3)
    assert [cache.get(name) for name in "abcd"] == [4, None, 2, 1]
    assert cache.nbytes == 9


def test_a_value_is_replaced_or_dropped_with_its_size() -> None:
    cache: BoundedCache[str, int] = BoundedCache("test", 10)
    cache.put("a", 1, 6)
    cache.put("a", 2, 3)
    cache.put("b", 3, 7)
    assert (cache.get("a"), cache.get("b"), cache.nbytes) == (2, 3, 10)
    cache.drop("a")
    cache.drop("nothing")
    assert (cache.get("a"), cache.nbytes) == (None, 7)
    cache.clear()
    assert (cache.get("b"), cache.nbytes) == (None, 0)


def test_a_value_that_is_too_large_is_kept_alone() -> None:
    cache: BoundedCache[str, int] = BoundedCache("test", 10)
    cache.put("a", 1, 5)
    cache.put("b", 2, 50)
    assert (cache.get("a"), cache.get("b")) == (None, 2)
    cache.limit(60)
    cache.put("a", 1, 5)
    assert (cache.get("a"), cache.get("b")) == (1, 2)
