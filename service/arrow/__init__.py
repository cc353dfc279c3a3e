"""Arrow streams of events as the engine's columns, for bulk import.

Only this package imports pyarrow, which is optional: import it where it is needed, not at start.
"""
