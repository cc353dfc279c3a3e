"""Converts messages of the contract into the engine's records and back, one file per subject.

There is no logic here. A message without a counterpart (no node chosen, a timestamp out of range) is refused
with the path of the field; everything else is for the engine to decide.
"""
