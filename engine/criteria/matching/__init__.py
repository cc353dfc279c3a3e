"""What a test means for one value. Everything that decides a test, wherever the value is stored, decides it
here.

Types never mix: the string "12" is not the number 12, `true` is not 1, and an instant is not a number. A
missing value passes no test (there is nothing to ask). A list passes when some element passes.

To add a test: its struct in `engine.criteria.model`, its meaning in the file of its family here (`equality`,
`ordering`, `text`, `version`, `place`), one line in `compile_test` below, and its paragraph in
docs/criteria.md.
"""

from __future__ import annotations

import functools

import msgspec

from engine.criteria.matching.equality import EXISTS, equals, is_in
from engine.criteria.matching.matcher import Matcher as Matcher
from engine.criteria.matching.ordering import instant_range, number_range
from engine.criteria.matching.place import near
from engine.criteria.matching.text import text
from engine.criteria.matching.version import semver
from engine.criteria.model import Equals, Exists, In, Near, Semver, Text
from engine.criteria.resolved import InstantRange, NumberRange, ResolvedTest

MATCHERS_CACHED_MAX = 1_024

_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder: msgspec.msgpack.Decoder[ResolvedTest] = msgspec.msgpack.Decoder(ResolvedTest)


def compile_test(test: ResolvedTest) -> Matcher:
    """The matcher that decides `test`. Compiled once for equal tests.

    Raises ValueError (BadPattern, BadVersion) for an operand that validation refuses.
    """
    # Cached by its bytes, not by equality: Equals(1.0), Equals(1) and Equals(True) are one key to Python.
    return _compiled(_encoder.encode(test))


@functools.lru_cache(maxsize=MATCHERS_CACHED_MAX)
def _compiled(encoded: bytes) -> Matcher:
    test = _decoder.decode(encoded)
    match test:
        case Exists():
            return EXISTS
        case Equals():
            return equals(test)
        case In():
            return is_in(test)
        case NumberRange():
            return number_range(test)
        case InstantRange():
            return instant_range(test)
        case Text():
            return text(test)
        case Semver():
            return semver(test)
        case Near():
            return near(test)
