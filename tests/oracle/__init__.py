"""A brute-force oracle of the criteria language, written from the specification alone.

It looks at every event of every user for every criterion, in plain Python, and shares nothing with the engine
but the structs that describe data and criteria. What the engine answers must equal what the oracle answers.

The oracle
- `world`: what happened, and the journeys asked about; `scene` writes one by hand
- `evaluate`: who is in which milestone; `values`, `times` and `history` are its parts
- `plans`: who is in the sets of a plan, to tell the planner's faults from a backend's

Random worlds
- `generate`: worlds that hit the edges on purpose, from the pools in `palette`; `strategies` for Hypothesis

The engine
- `trees`: a world's journeys for the planner; `engine_side`: the world in a store
- `differences`: the comparison, in every way the engine can be asked; `strain`: with tiny limits
- `campaign`: many worlds in a row, from a seed; `minimise`: the smallest world that still differs
"""
