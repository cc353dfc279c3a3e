"""Plans over one state of the store."""
