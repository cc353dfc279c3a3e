"""One thin servicer per service of the contract: convert, call the engine, convert back."""
