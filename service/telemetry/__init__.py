"""What the service tells of itself: metrics of calls, engine and process, traces, and ids of requests."""
