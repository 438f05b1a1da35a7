"""Run coroutines concurrently, and cancel them without losing replies that are being paid for."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

DRAIN_S = 5.0  # how long a stopped run waits for the replies to what it has sent
on_wire: set["asyncio.Task[Any]"] = set()  # tasks with a request that is out, or a reply that is not stored yet


def go_on_wire() -> None:
    """The running task sends a request: from now on, cancelling it waits for the reply."""
    if (task := asyncio.current_task()) is not None:
        on_wire.add(task)


def leave_wire() -> None:
    """The reply is stored, or none will come."""
    on_wire.discard(asyncio.current_task())  # type: ignore[arg-type]


async def gather_or_cancel(coros: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all `coros`. At the first exception, or when cancelled, the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        await end_tasks(tasks)
        raise


async def gather_or_drain(coros: Iterable[Coroutine[Any, Any, T]], halt: Callable[[], None]) -> list[T]:
    """Like `gather_or_cancel`; but when cancelled, those that are on the wire may finish, within `DRAIN_S`.

    Cancelled once more meanwhile, they end at once.

    Args:
        coros: Coroutines.
        halt: Called first: no new request may go out.
    """
    tasks = [asyncio.ensure_future(coro) for coro in coros]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()  # raises what went wrong
        return [task.result() for task in tasks]
    except asyncio.CancelledError:
        halt()
        await end_tasks(task for task in tasks if task not in on_wire)
        if left := [task for task in tasks if not task.done()]:
            await asyncio.wait(left, timeout=DRAIN_S)
        raise
    finally:
        await end_tasks(tasks)


async def end_tasks(tasks: Iterable["asyncio.Future[Any]"]) -> None:
    """Cancel and wait. Their errors are dropped."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
