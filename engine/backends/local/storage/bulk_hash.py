"""XXH3-64 of many short messages at once, with numpy: a call of xxhash for each of a million takes as long as
reading them ten times over.

Messages begin with the same prefix and are grouped by length, so that a step of the hash is one operation on
all of a group. Lengths from `BYTES_MIN` to `BYTES_MAX` are hashed this way, which are the forms of XXH3 for 9
to 16 and for 17 to 128 bytes; others by xxhash, one by one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from engine.backends.local.storage.arrays import Int64s

Uint64s = npt.NDArray[np.uint64]

BYTES_MIN, BYTES_MAX = 9, 128
"""Length of messages, the prefix included, that are hashed together."""

HASHED_AT_ONCE = 1 << 13
"""Messages hashed together: what an operation reads and writes stays in the processor's cache."""

FEW_MESSAGES_MAX = 32
"""Messages of one length up to which each is hashed on its own: the operations take longer."""

_WORD_BYTES = 8
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)
"""Of XXH3: what messages are mixed with."""
_PRIME = np.uint64(0x9E3779B185EBCA87)
_AVALANCHE_PRIME = np.uint64(0x165667919E3779F9)
_MIX_PRIME = np.uint64(0x9FB21C651E98DF25)
_HALF, _LOW_HALF = np.uint64(32), np.uint64(0xFFFF_FFFF)


def hashes_of(prefix: bytes, joined: bytes, ends: Int64s) -> Uint64s:
    """XXH3-64 of `prefix` followed by each of the joined texts. `ends`: where each text ends, after a leading
    0.
    """
    lengths = np.diff(ends)
    found = np.empty(len(lengths), np.uint64)
    padded = joined + bytes(_WORD_BYTES)
    words: Uint64s = np.ndarray((len(joined) + 1,), "<u8", padded, strides=(1,))
    """The eight bytes from each offset on."""
    for length in np.flatnonzero(np.bincount(lengths)).tolist():
        rows = np.flatnonzero(lengths == length)
        size = len(prefix) + length
        if len(rows) <= FEW_MESSAGES_MAX or not BYTES_MIN <= size <= BYTES_MAX:
            digest = xxhash.xxh3_64_intdigest
            found[rows] = [digest(prefix + joined[at : at + length]) for at in ends[rows].tolist()]
            continue
        for start in range(0, len(rows), HASHED_AT_ONCE):
            some = rows[start : start + HASHED_AT_ONCE]
            found[some] = _hashed(_Messages(prefix, words, ends[some]), size)
    return found


def hashes_of_words(words: npt.NDArray[np.uint32], seeds: Uint64s) -> Uint64s:
    """XXH3-64 of the four bytes of each word, little-endian, each with a seed of its own."""
    halves = seeds & _LOW_HALF
    flips = (_secret(8) ^ _secret(16)) - (
        seeds ^ halves.astype(np.uint32).byteswap().astype(np.uint64) << _HALF
    )
    doubled = words.astype(np.uint64)
    doubled |= doubled << _HALF
    hashes = doubled ^ flips
    hashes ^= _rotated(hashes, 49) ^ _rotated(hashes, 24)
    hashes *= _MIX_PRIME
    hashes ^= (hashes >> np.uint64(35)) + np.uint64(words.itemsize)
    hashes *= _MIX_PRIME
    hashes ^= hashes >> np.uint64(28)
    return hashes


def _rotated(words: Uint64s, bits: int) -> Uint64s:
    """The words, rotated to the left."""
    return words << np.uint64(bits) | words >> np.uint64(64 - bits)


class _Messages:
    """Messages of one length, read eight bytes at a time."""

    def __init__(self, prefix: bytes, words: Uint64s, starts: Int64s) -> None:
        self._prefix = prefix
        self._words = words
        self._starts = starts
        self._read: dict[int, Uint64s] = {}

    def word(self, at: int) -> Uint64s:
        """The eight bytes at an offset of each message, which end with it at the latest; a single value where
        all messages have the same.
        """
        ahead = len(self._prefix) - at
        if ahead >= _WORD_BYTES:
            return np.frombuffer(self._prefix, "<u8", 1, at)
        if ahead <= 0:
            return self._text_word(-ahead)
        of_prefix = int.from_bytes(self._prefix[at:], "little")
        return self._text_word(0) << np.uint64(8 * ahead) | np.uint64(of_prefix)

    def _text_word(self, at: int) -> Uint64s:
        """The same of the text behind the prefix."""
        found = self._read.get(at)
        if found is None:
            found = self._read[at] = self._words[self._starts + at if at else self._starts]
        return found


def _secret(at: int) -> np.uint64:
    return np.uint64(int.from_bytes(_SECRET[at : at + _WORD_BYTES], "little"))


def _hashed(messages: _Messages, size: int) -> Uint64s:
    """The hashes of messages of that many bytes."""
    if size <= 2 * _WORD_BYTES:
        low = messages.word(0) ^ (_secret(24) ^ _secret(32))
        high = messages.word(size - _WORD_BYTES) ^ (_secret(40) ^ _secret(48))
        return _avalanche(_folded(low, high) + low.byteswap() + high + np.uint64(size))
    total: Uint64s = np.array([size], np.uint64) * _PRIME
    for pair in range((size - 1) // (4 * _WORD_BYTES) + 1):
        from_start, from_end = 2 * _WORD_BYTES * pair, size - 2 * _WORD_BYTES * (pair + 1)
        total = total + _mixed(messages, from_start, 4 * _WORD_BYTES * pair)
        total = total + _mixed(messages, from_end, 4 * _WORD_BYTES * pair + 2 * _WORD_BYTES)
    return _avalanche(total)


def _mixed(messages: _Messages, at: int, secret_at: int) -> Uint64s:
    """Sixteen bytes of each message, mixed with as many of the secret."""
    low = messages.word(at) ^ _secret(secret_at)
    high = messages.word(at + _WORD_BYTES) ^ _secret(secret_at + _WORD_BYTES)
    return _folded(low, high)


def _folded(one: Uint64s, two: Uint64s) -> Uint64s:
    """The two halves of the product of 128 bits, combined by exclusive or."""
    one_low, one_high = one & _LOW_HALF, one >> _HALF
    two_low, two_high = two & _LOW_HALF, two >> _HALF
    carried = one_low * two_low
    carried >>= _HALF
    carried = carried + one_high * two_low
    middle = one_low * two_high
    middle += carried & _LOW_HALF
    middle >>= _HALF
    carried >>= _HALF
    middle += carried
    middle += one_high * two_high
    middle ^= one * two
    return middle


def _avalanche(hashes: Uint64s) -> Uint64s:
    """The last step: every bit of what was mixed changes every bit of the hash."""
    hashes = hashes ^ hashes >> np.uint64(37)
    hashes *= _AVALANCHE_PRIME
    hashes ^= hashes >> _HALF
    return hashes
