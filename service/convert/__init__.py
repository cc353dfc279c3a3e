"""The contract's messages to the engine's records and back, one file per subject.

Nothing here decides anything: a message that has no counterpart among the records (no node chosen, a
timestamp that no calendar has) is refused with the path of the field, everything else is for the engine to
judge.
"""
