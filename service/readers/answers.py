"""What a reader answers itself, by method. All other methods are handed on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

from engine.backends.base import ServingReader
from engine.resources.paging import Pages
from service.access_log import CallLog
from service.config import Config
from service.convert.revisions import Revisions
from service.readers.answering import Answering, AnswerStream, HandOn, HandOnStream
from service.readers.checks import BATCH_CHECK_METHOD, CHECK_METHOD, CheckAnswers
from service.readers.keys import ReaderKeys
from service.readers.members import EXPORT_METHOD, LIST_METHOD, MemberAnswers
from service.readers.sizes import COUNT_METHOD, ESTIMATE_METHOD, SizeAnswers
from service.reading import RequestReader
from service.slots import Slots
from service.stopping import Stopping

Answer: TypeAlias = Callable[[HandOn], HandOn]
"""Makes the behaviour of a method from what hands its calls on."""
StreamAnswer: TypeAlias = Callable[[HandOnStream], AnswerStream]
"""The same of a method with a stream of answers."""


class Answers:
    """The answers of a reader, by method."""

    def __init__(
        self,
        served: ServingReader,
        revisions: Revisions,
        keys: ReaderKeys,
        reader: RequestReader,
        pages: Pages,
        log: CallLog,
        config: Config,
        stopping: Stopping,
    ) -> None:
        answering = Answering(served, revisions, keys, log)
        # Its share, as of a key's calls per second: what exceeds it is handed on.
        exports = Slots("export", math.ceil(config.exports_max / config.reader_count))
        checks, sizes = CheckAnswers(answering, reader), SizeAnswers(answering, reader)
        members = MemberAnswers(answering, reader, pages, exports, stopping)
        self.checks: Mapping[str, Answer] = {
            CHECK_METHOD: checks.check,
            BATCH_CHECK_METHOD: checks.batch_check,
        }
        """Answers of microseconds."""
        self.reads: Mapping[str, Answer] = {
            COUNT_METHOD: sizes.count,
            ESTIMATE_METHOD: sizes.estimate,
            LIST_METHOD: members.list,
        }
        """Other answers to calls with one answer."""
        self.streams: Mapping[str, StreamAnswer] = {EXPORT_METHOD: members.export}
        """Streams of answers."""
        self.answered = answering.answered
        self.failed = answering.failed
        """Calls that were answered here, and how long that took."""
