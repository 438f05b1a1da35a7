"""Running scorers: the event loop, the budget, rate limits, progress, deadlines and cancellation."""
