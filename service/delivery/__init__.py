"""Delivery of membership changes to outputs: at least once, in order, from a durable cursor.

`events` makes a CloudEvent of a change, `output` says what an output must do, `file` is the one for NDJSON
files, `retry` how often and how long a failed batch is tried again, `worker` moves the changes of one
connection, and `courier` keeps one worker for each connection that delivers.
"""
