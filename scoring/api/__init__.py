"""`APIScorer`: an LLM behind an API, each distinct query paid once."""
