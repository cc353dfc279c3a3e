"""Members that a reader answers: pages of lists, and exports.

An export is of the members as they were published last when it began. They do not change, so it holds nothing
that others wait for. Users who are erased meanwhile are left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc

from engine.audiences.member_tokens import MemberTokens, Place
from engine.audiences.members import EXPORT_PAGE_USERS
from engine.backends.base import ServedMembers
from engine.errors import InvalidInput
from engine.resources.paging import Pages, page_size_of
from milepost.v1 import audience_service_pb2 as pb
from service.convert.members import export_message, list_message
from service.readers.answering import (
    AUDIENCE_SERVICE,
    Answering,
    AnswerStream,
    HandOn,
    HandOnStream,
    Running,
)
from service.reading import RequestReader
from service.slots import Slots
from service.stopping import Stopping

LIST_METHOD = f"{AUDIENCE_SERVICE}ListMembers"
EXPORT_METHOD = f"{AUDIENCE_SERVICE}ExportMembers"
SETTLED_S_MAX = 0.25
"""How long an export waits for a moment without dirty users: there is one after most rounds. If there is
none, the export is handed on.
"""
SETTLED_PAUSE_S = 0.005


class MemberAnswers:
    """Answers ListMembers and ExportMembers."""

    def __init__(
        self, answering: Answering, reader: RequestReader, pages: Pages, exports: Slots, stopping: Stopping
    ) -> None:
        """`exports`: those that run here at a time; others are handed on."""
        self._answering = answering
        self._served = answering.served
        self._tokens = MemberTokens(pages)
        self._exports = exports
        self._stopping = stopping
        self._read_list = reader.of(LIST_METHOD, pb.ListMembersRequest.FromString)
        self._read_export = reader.of(EXPORT_METHOD, pb.ExportMembersRequest.FromString)

    # --- lists ----------------------------------------------------------------------------------------------

    def list(self, hand_on: HandOn) -> HandOn:
        """The behaviour of ListMembers."""
        return self._answering.unary(LIST_METHOD, self._list, hand_on)

    def _list(self, request: bytes, context: grpc.ServicerContext) -> bytes | None:
        asked = self._read_list(request)
        if not isinstance(asked, pb.ListMembersRequest) or not self._answering.is_for_now(asked):
            return None
        name = asked.parent
        try:
            size = page_size_of(asked.page_size)
            place = self._tokens.place(name, None, asked.page_token) if asked.page_token else Place("", 0)
        except InvalidInput:
            return None
        as_of = place.as_of if asked.page_token else None
        page = self._answering.admitted(name, lambda: self._served.page(name, place.after, size, as_of))
        if page is None:
            return None
        token = self._tokens.token(name, None, Place(page.next_after, page.as_of))
        revision = self._answering.revisions.token(page.revision)
        return list_message(page.user_ids, token, page.as_of, revision).SerializeToString()

    # --- exports --------------------------------------------------------------------------------------------

    def export(self, hand_on: HandOnStream) -> AnswerStream:
        """The behaviour of ExportMembers."""
        return self._answering.stream(EXPORT_METHOD, self._export, hand_on)

    def _export(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes] | None:
        asked = self._read_export(request)
        if not isinstance(asked, pb.ExportMembersRequest) or not self._answering.is_for_now(asked):
            return None
        running = self._answering.begin(asked.name, self._exports)
        if running is None:
            return None
        try:
            members = self._settled(asked.name, context)
        except BaseException:
            running.end()
            raise
        if members is None:
            running.end()
            return None
        return self._pages(members, running)

    def _settled(self, name: str, context: grpc.ServicerContext) -> ServedMembers | None:
        """The members in a moment without dirty users; None when there is none soon."""
        latest = time.monotonic() + min(SETTLED_S_MAX, context.time_remaining() / 2)
        while (members := self._served.members(name)) is None:
            if time.monotonic() >= latest or not self._served.serves(name):
                return None
            time.sleep(SETTLED_PAUSE_S)
        return members

    def _pages(self, members: ServedMembers, running: Running) -> Iterator[bytes]:
        """The messages of an export. Raises what ends it: its key does, or the grace period of a stop."""
        after, token = "", self._answering.revisions.token
        try:
            while True:
                page = members.page(after, EXPORT_PAGE_USERS)
                yield export_message(page.user_ids, page.as_of, token(page.revision)).SerializeToString()
                self._stopping.refuse_late()
                running.check()
                after = page.next_after
                if not after:
                    return
        finally:
            running.end()
