"""One account put together: its users, attributes, events and names."""
