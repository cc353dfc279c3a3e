"""Who calls: the peer of a connection, or the one that a reader names in whose name it calls."""

from __future__ import annotations

import grpc

PEER_KEY = "milepost-peer"
"""Metadata in which a reader names its caller's address. Believed on the writer's own socket only."""
_OWN_SOCKET = "unix:"


def peer_of(context: grpc.ServicerContext) -> str:
    """The caller's address, as `context.peer` gives it."""
    peer: str = context.peer()
    if not peer.startswith(_OWN_SOCKET):
        return peer
    named = (value for key, value in context.invocation_metadata() if key == PEER_KEY)
    return str(next(named, peer))
