"""One thin servicer for each service of the contract: convert, ask the engine, convert back."""
