"""Delivery of membership changes to outputs: at least once, in order, from a durable cursor.

`events` makes a CloudEvent of a change, `output` says what an output must do, `file` is the one for NDJSON
files, `retry` how often and how long a failed batch is tried again, `sender` moves the changes of one
connection, and `dispatcher` keeps one sender for each connection that delivers.
"""
