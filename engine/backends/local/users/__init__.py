"""Users: user id to reference and back, aliases, first and last seen."""
