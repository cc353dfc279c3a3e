"""A receiver of webhooks that keeps the members of an audience in a table.

WEBHOOK_SECRET=whsec_... python -m examples.worker.app 8080 members.sqlite

examples/README.md has the steps that make the secret, the output and the connection.

Each request is verified before it is read. Events arrive in order, and some of them again: `source` and `id`
tell which. An event and its effect are written in one transaction, before the answer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

BODY_BYTES_MAX = 8 << 20
ENTERED, EXITED = "milepost.membership.entered", "milepost.membership.exited"
BEGIN, END = "milepost.snapshot.begin", "milepost.snapshot.end"
TABLES = (
    "members (user_id TEXT PRIMARY KEY)",
    "arriving (user_id TEXT PRIMARY KEY)",  # of a snapshot that has not ended
    "snapshot (is_open INTEGER PRIMARY KEY)",  # one row while there is such a snapshot
    "seen (source TEXT, id TEXT, PRIMARY KEY (source, id))",
)


class Members:
    """The members, and the events that were applied."""

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False)
        with self._db:
            for table in TABLES:
                self._db.execute(f"CREATE TABLE IF NOT EXISTS {table}")

    def apply(self, events: list[dict[str, Any]]) -> int:
        """Applies the events that are new, all of them or none. Returns how many were."""
        fresh = 0
        with self._lock, self._db:
            for event in events:
                key = (event["source"], event["id"])
                if self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", key).rowcount:
                    fresh += 1
                    self._change(event)
        return fresh

    def _change(self, event: dict[str, Any]) -> None:
        run = self._db.execute
        if event["type"] == BEGIN:
            run("DELETE FROM arriving")
            run("INSERT OR IGNORE INTO snapshot VALUES (1)")
        elif event["type"] == END:
            # Users who left while nothing was sent are not in the snapshot.
            run("DELETE FROM members")
            run("INSERT INTO members SELECT user_id FROM arriving")
            run("DELETE FROM snapshot")
        elif event["type"] in (ENTERED, EXITED):
            table = "arriving" if run("SELECT 1 FROM snapshot").fetchone() else "members"
            user = (event["subject"],)
            if event["type"] == ENTERED:
                run(f"INSERT OR IGNORE INTO {table} VALUES (?)", user)
            else:
                run(f"DELETE FROM {table} WHERE user_id = ?", user)

    def all(self) -> list[str]:
        """The members, in order."""
        with self._lock:
            return [row[0] for row in self._db.execute("SELECT user_id FROM members ORDER BY user_id")]


def server(port: int, secret: str, members: Members) -> ThreadingHTTPServer:
    """A server for deliveries of a batched webhook output; port 0 picks a free one."""
    webhook = Webhook(secret)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            if length > BODY_BYTES_MAX:
                self._answer(413)
                return
            body = self.rfile.read(length)
            try:
                webhook.verify(body, dict(self.headers), json_parse=False)
            except WebhookVerificationError:
                self._answer(401)
                return
            members.apply(json.loads(body))
            self._answer(204)

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keeps user ids out of the log."""

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    server(int(sys.argv[1]), os.environ["WEBHOOK_SECRET"], Members(sys.argv[2])).serve_forever()
