"""Providers: endpoints, prices, HTTP errors, transport, consent. Replies are parsed in `scoring.methods`."""
