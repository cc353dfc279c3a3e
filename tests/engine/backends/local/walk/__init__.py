"""Random walks: every operation on a store, in any order, compared with the oracle throughout.

- `growing`: a world that grows by one operation at a time
- `store`: operations on the store: checkpoints, crashes, restarts, backups
- `questions`: questions, and the oracle's answers
- `chapter`: one store from its first operation to its last; `campaign` plays many from a seed
"""
