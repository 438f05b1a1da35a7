"""`labelfusion serve`: answer over HTTP."""

import argparse
import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration.freed_memory import steady_heap
from ..options import add_encoding, add_llm_policy, add_speed, dollars, share, without_loading_bars

if TYPE_CHECKING:
    from ..serving.day_budget import Days
    from ..serving.http_app import Server
    from ..serving.model_service import ModelService
    from ..serving.server_metrics import ServerMetrics

BUDGET_FILE = "serve-budget.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("model", metavar="DIR", help="folder or Hub id of a model")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all of them (default: %(default)s)")
    add("--port", type=int, default=8000, help="0: any free port, which is printed (default: %(default)s)")
    add_llm_policy(parser)
    add_speed(parser)
    add("--target-accuracy", type=share, metavar="A", help="instead of a policy, see `predict --help`")
    add("--deadline-s", type=float, metavar="S", help="seconds after which a text goes without the LLM's answer")
    text = "US dollars that the LLMs may cost in a day (UTC); then the encoder answers (default: no limit)"
    add("--budget-per-day", type=dollars, metavar="X", help=text)
    text = f"where the money spent today is kept over restarts (default: {BUDGET_FILE} beside the score store)"
    add("--budget-file", metavar="FILE", help=text)
    text = "environment variable with the key that clients must send as `Authorization: Bearer KEY`"
    add("--api-key-env", metavar="NAME", help=text)
    add("--max-texts", type=_positive, default=1000, help="texts in a request (default: %(default)s)")
    add("--max-characters", type=_positive, default=20_000, help="characters of a text (default: %(default)s)")
    add("--max-body-mb", type=_megabytes, default=1.0, metavar="MB", help="size of a request (default: %(default)s)")
    add("--threads", type=_positive, default=64, help="requests that are worked on at once (default: %(default)s)")
    text = "requests that are in the server at once; more are told to try again (default: %(default)s)"
    add("--max-waiting", type=_positive, default=256, metavar="N", help=text)
    text = "seconds that answers under way have after SIGTERM (default: %(default)s)"
    add("--grace-s", type=_positive, default=60, metavar="S", help=text)
    add("--access-log", action="store_true", default=None, help="log route, status and time of each request")
    add_encoding(parser)
    add("--store", metavar="STORE", help="score store, see `cache --help` (default: the one in the HF cache folder)")


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    from ..serving.model_service import EachOnce

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logger, handlers, each_once = logging.getLogger("labelfusion.serve"), logging.root.handlers[:], EachOnce()
    level = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        handler.addFilter(each_once)
    try:
        yield
    finally:  # the handlers may belong to a program that has called `main`
        logger.setLevel(level)
        for handler in handlers:
            handler.removeFilter(each_once)


@_log_to_stderr()
@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        needed = "`labelfusion serve` needs more packages: pip install 'labelfusion-transformers[serve]'"
        raise ImportError(f"{needed} ({error.name} is missing).") from None
    from ..serving import day_budget
    from ..serving.guard import Guard
    from ..serving.http_app import Server, build_app
    from ..serving.request_bodies import Limits
    from ..serving.server_metrics import ServerMetrics

    key = _read_key(args.api_key_env)
    limits = Limits(args.max_texts, args.max_characters, int(args.max_body_mb * 1_000_000))
    listening = _listen(args.host, args.port)
    steady_heap(large=128 << 10, kept=1_000_000)  # it runs for days, and its batches are small
    limit = math.inf if args.budget_per_day is None else args.budget_per_day
    days = day_budget.Days(limit, None if math.isinf(limit) else _budget_file(args))
    metrics = ServerMetrics(days)
    failures: list[Exception] = []

    def failed(error: Exception) -> None:
        failures.append(error)
        runner.should_exit = True

    name = Path(args.model).name
    server = Server(lambda: _load(args, days, metrics), name, metrics, limits, args.threads, failed)
    app = Guard(build_app(server), metrics, limits, key, args.max_waiting, bool(args.access_log))
    options: dict[str, Any] = {"access_log": False, "log_config": None, "server_header": False}
    runner = uvicorn.Server(uvicorn.Config(app, timeout_graceful_shutdown=args.grace_s, backlog=2048, **options))
    place = f"[{args.host}]" if ":" in args.host else args.host
    print(f"Listening on http://{place}:{listening.getsockname()[1]}", flush=True)
    if key is None and args.host not in ("127.0.0.1", "::1", "localhost"):
        _say("no `--api-key-env`: whoever reaches this address can use the server and spend its money.")
    try:
        runner.run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn raises the signal once more, when it has stopped
        pass
    finally:
        _finish(server, days)
    if failures:
        raise failures[0]
    return 0


def _finish(server: "Server", days: "Days") -> None:
    """Keep what is paid. Requests that had not been answered within `--grace-s` end here."""
    from ...scoring.session.background import drain

    working, budget = server.stop(), days.today()
    limit = budget.limit
    if working:
        budget.limit = 0.0  # no more queries
    drain()
    budget.limit = limit
    unanswered = f"; {working} requests were not answered in time" if working else ""
    _say(f"stopped; {budget.told()} today{unanswered}.")
    days.close()
    if working:  # their threads cannot be ended, and Python would wait for them
        sys.stdout.flush()
        os._exit(1)


def _load(args: argparse.Namespace, days: "Days", metrics: "ServerMetrics") -> "ModelService":
    from labelfusion import AutoFusionClassifier

    from ..serving.model_service import ModelService

    given = {name: getattr(args, name) for name in ("batch_size", "bf16", "backend", "device")}
    options = {name: value for name, value in given.items() if value is not None}
    clf = AutoFusionClassifier.from_pretrained(args.model, **options)
    clf._store = args.store  # no argument of the constructor: those are saved, and this may hold a password
    routing = {name: getattr(args, name) for name in ("llm_policy", "target_accuracy", "deadline_s", "speed")}
    service = ModelService(clf, days, routing, metrics.rounds.observe)
    service.prepare()
    _say("ready.")
    return service


def _read_key(variable: str | None) -> str | None:
    """The server's key.

    Raises:
        ValueError: If the variable has none, or one that no header can hold.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError(f"`api_key_env`: the environment variable {variable} must hold a key of ASCII characters.")
    return key


def _listen(host: str, port: int) -> socket.socket:
    """The socket of the server.

    Raises:
        OSError: If the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise OSError(f"`host` {host} with `port` {port} cannot be used: {error}.") from None


def _budget_file(args: argparse.Namespace) -> Path:
    from ...scoring.store.score_store import default_path

    return Path(args.budget_file) if args.budget_file else default_path().with_name(BUDGET_FILE)


def _say(text: str) -> None:
    print(f"labelfusion serve: {text}", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return value


def _megabytes(text: str) -> float:
    value = dollars(text)
    if not 0.001 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"expected megabytes from 0.001 to 1000, got {text!r}")
    return value
