"""How an LLM behind an API is queried, and how its replies are parsed, whichever provider serves it; see `registry`."""
