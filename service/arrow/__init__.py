"""Arrow streams of events as the engine's columns, for import in bulk.

The only room that knows pyarrow, which not every server has: import it where it is needed, not at start.
"""
