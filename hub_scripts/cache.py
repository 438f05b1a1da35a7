"""`labelfusion cache`: the store of paid LLM answers."""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..scoring.store.score_store import ScoreStore

HELP = "show, delete, or write out the answers; reset: forget which methods the LLMs were found to offer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("info", "clear", "export", "reset"), help=HELP)
    parser.add_argument("output", nargs="?", metavar="OUT.jsonl", help="for export; default: standard output")
    parser.add_argument("--store", metavar="FILE", help="the score store; default: the one in the HF cache folder")
    parser.add_argument("--model", help="clear: only answers of this model")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="clear: only answers older than this")
    parser.add_argument("--yes", action="store_true", help="clear: do not ask")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..scoring.store.score_store import ScoreStore, default_path

    path = Path(args.store) if args.store else default_path()
    if not path.exists():
        print(f"There is no score store yet ({path}).", file=sys.stderr)
        return 0
    store = ScoreStore(path)
    if args.action == "info":
        _info(store, path)
    elif args.action == "export":
        with open(args.output, "w", encoding="utf-8") if args.output else nullcontext(sys.stdout) as file:
            for record in store.export():
                file.write(json.dumps(record) + "\n")
    elif args.action == "reset":
        print(f"{store.forget_methods()} methods forgotten: `auto` looks for them anew. The answers are kept.")
    else:
        return _clear(store, args)
    return 0


def _info(store: "ScoreStore", path: Path) -> None:
    rows = store.info()
    for found in store.methods():
        day = time.strftime("%Y-%m-%d", time.localtime(found["created"]))
        if (scale := {"percent": "per cent", "share": "shares of 1"}.get(found["method"])) is not None:
            print(f"The confidences of {found['model']} are {scale}, found on {day}")
            continue
        print(f"`auto` queries {found['model']} by {found['method']!r}, found on {day}")
    print(f"{path}  {path.stat().st_size / 1e6:.1f} MB, {sum(r['answers'] for r in rows):,} answers")
    if not rows:
        return
    print(f"{'model':36} {'method':9} {'answers':>9} {'tokens':>12} {'dollars':>10}  last")
    for r in rows:
        tokens = r["prompt_tokens"] + r["completion_tokens"]
        day = time.strftime("%Y-%m-%d", time.localtime(r["last"]))
        print(f"{r['model'][:36]:36} {r['method']:9} {r['answers']:>9,} {tokens:>12,} {r['cost_usd']:>10.4f}  {day}")


def _clear(store: "ScoreStore", args: argparse.Namespace) -> int:
    if not args.yes:
        what = f"of {args.model} " if args.model else ""
        print(f"Delete answers {what}from {store.path}? They were paid for. [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Nothing deleted.")
            return 1
    before = time.time() - args.older_than * 86400 if args.older_than is not None else None
    print(f"{store.clear(args.model, before):,} answers deleted.")
    return 0
