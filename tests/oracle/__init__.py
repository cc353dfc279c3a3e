"""A brute-force oracle of the criteria language, written from the specification alone.

It reads every event of every user for every criterion, in plain Python, and shares nothing with the engine
but the structs of data and criteria. The engine's answers must equal the oracle's.

The oracle
- `world`: operations and journeys; `scene` builds one by hand
- `evaluate`: the users of each milestone; `values`, `times` and `history` are its parts
- `plans`: the sets of a plan, to separate faults of the planner from those of a backend

Random worlds
- `generate`: worlds that hit the edges on purpose, from the pools in `palette`; `strategies` for Hypothesis

The engine
- `trees`: a world's journeys for the planner; `engine_side`: the world in a store
- `differences`: the comparison, in every way the engine can be asked; `strain`: with tiny limits
- `campaign`: many worlds in a row, from a seed; `minimise`: the smallest world that still differs
"""
