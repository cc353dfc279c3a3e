"""Delivery of membership changes to outputs: at least once, in order, from a durable cursor.

The dispatcher keeps one sender for each connection that delivers. A sender reads the connection's changes
from the engine, makes CloudEvents of them, and gives them to a sink, one for each kind of output (`sinks`).
`retry` says how often and how long a failed batch is tried again.
"""
