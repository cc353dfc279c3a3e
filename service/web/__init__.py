"""The contract over HTTP: Connect with JSON or Protocol Buffers, and gRPC-Web.

`listener.py` is the server, `protocol.py` a connection, `front.py` and `guard.py` what is checked before a
request is read, `request_body.py` how long its body may take, `endpoints.py` an endpoint for each method,
`bodies.py` JSON and Protocol Buffers, `calls.py` the calls of the gRPC server. The only package that imports
connectrpc, starlette and uvicorn (extra `http`).
"""

from __future__ import annotations

import importlib

NEEDED = ("connectrpc", "starlette", "uvicorn")


def missing() -> str:
    """How to install what HTTP needs; "" when all is there."""
    for module in NEEDED:
        try:
            importlib.import_module(module)
        except ImportError:
            return f"{module} is not installed: pip install 'milepost-server[http]'"
    return ""
