"""Where deliveries go: one file for each kind of output."""
