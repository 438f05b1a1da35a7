"""Where requests go, what they cost, and what a server says: endpoints, prices, errors, transport, consent."""
