"""Rate limits: requests and tokens a minute, spread evenly."""

import asyncio
import time


class RateLimit:
    """At most `per_minute` units a minute; `None` is no limit. For use on one event loop."""

    def __init__(self, per_minute: float | None) -> None:
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self.free_at = 0.0

    async def acquire(self, units: float = 1.0) -> None:
        """Wait until `units` more may be used."""
        if self.interval:
            start = max(time.monotonic(), self.free_at)
            self.free_at = start + units * self.interval
            await asyncio.sleep(max(0.0, start - time.monotonic()))
