"""Load harnesses: what a service answers, how fast, and with how many errors, under a mix of calls."""
