"""A brute-force oracle of the criteria language, written from the specification alone.

It looks at every event of every user for every criterion, in plain Python, and shares nothing with the engine
but the structs that describe data and criteria. What the engine answers must equal what the oracle answers.

- `world`: what happened, and the journeys asked about
- `evaluate`: who is in which milestone; `values`, `times` and `history` are its parts
- `generate`: random worlds that hit the edges on purpose; `strategies` draws them with Hypothesis
- `engine_side`: the same world in the engine; `differences` compares the two
- `campaign`: many worlds in a row, from a seed
"""
