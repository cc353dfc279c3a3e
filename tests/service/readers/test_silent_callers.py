"""Callers that send a reader no message hold none of its threads, and are refused in the end."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from milepost.v1.account_service_pb2 import ListAccountsRequest
from service.limits import READER_THREADS
from service.readers.checks import CHECK_METHOD
from tests.harness import serving
from tests.service.test_first_message import IDLE_S, Silent

HANDED_ON = "/milepost.v1.AccountService/ListAccounts"


@pytest.mark.parametrize("method", [CHECK_METHOD, HANDED_ON])
def test_silent_calls_hold_no_thread_of_a_reader(tmp_path: Path, method: str) -> None:
    with serving(tmp_path / "store", readers=1, stream_idle_s=IDLE_S, access_log="none") as service:
        service.create_inputs()
        silent = Silent(service, method, 2 * READER_THREADS)
        assert service.accounts.ListAccounts(ListAccountsRequest()).accounts
        end = silent.end()
        assert (end.code, end.reason) == (grpc.StatusCode.ABORTED, "STREAM_IDLE")
        silent.let_go()
