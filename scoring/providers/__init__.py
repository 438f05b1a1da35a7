"""Providers: endpoints, prices, HTTP errors, transport, consent. Replies with scores are parsed in `scoring.methods`."""
