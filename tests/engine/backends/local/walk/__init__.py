"""Random walks: everything that can happen to a store, in any order, held against the oracle all the way.

- `growing`: a world that grows by one operation at a time
- `store`: what happens to the store under it: checkpoints, crashes, restarts, backups
- `questions`: what is asked, and what the oracle says to it
- `chapter`: one store from its first operation to its last; `campaign` plays many from a seed
"""
