"""How an API is queried for scores, best first: `decision`, `logprob`, `json`, `vote`."""
