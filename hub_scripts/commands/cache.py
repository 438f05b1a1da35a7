"""`labelfusion cache`: the store of paid LLM answers."""

import argparse
import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...scoring.store.stored_answers import Store

HELP = (
    "info, clear, export: show, delete, or write out the answers; merge: copy those of other stores into this one; "
    "reset: forget which methods the LLMs were found to offer"
)
STORE_HELP = (
    "the score store: an SQLite file, postgresql://user@host/database, or segments:FOLDER; default: "
    "$LABELFUSION_STORE, or the one in the HF cache folder"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("action", choices=("info", "clear", "export", "merge", "reset"), help=HELP)
    text = "export: OUT.jsonl, default: standard output; merge: the stores to copy from"
    parser.add_argument("places", nargs="*", metavar="PLACE", help=text)
    parser.add_argument("--store", metavar="STORE", help=STORE_HELP)
    parser.add_argument("--model", help="clear: only answers of this model")
    parser.add_argument("--older-than", type=float, metavar="DAYS", help="clear: only answers older than this")
    parser.add_argument("--yes", action="store_true", help="clear: do not ask")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ...scoring.open_store import open_store, store_file
    from ...scoring.store.stored_answers import exported

    if len(args.places) > (1 if args.action == "export" else 0) and args.action != "merge":
        raise ValueError(f"`cache {args.action}` got the places {args.places}; `--store` names the score store.")
    path = store_file(args.store)
    if path is not None and not path.exists() and args.action != "merge":
        print(f"There is no score store yet ({path}).", file=sys.stderr)
        return 0
    store = open_store(args.store)
    if args.action == "info":
        _info(store)
    elif args.action == "export":
        out = args.places[0] if args.places else None
        with open(out, "w", encoding="utf-8") if out else nullcontext(sys.stdout) as file:
            for record in exported(store.records()):
                file.write(json.dumps(record) + "\n")
    elif args.action == "merge":
        _merge(store, args.places)
    elif args.action == "reset":
        print(f"{store.forget_methods()} methods forgotten: `auto` looks for them anew. The answers are kept.")
    elif args.action == "clear":
        return _clear(store, args)
    store.close()
    return 0


def _merge(store: "Store", places: list[str]) -> None:
    from ...scoring.open_store import open_store, store_file

    if not places:
        raise ValueError("`cache merge` needs the stores to copy from: cache merge A.sqlite B.sqlite --store C.sqlite.")
    for place in places:  # before anything is copied
        if (path := store_file(place)) is not None and not path.is_file():
            raise FileNotFoundError(f"There is no score store {place!r}.")
    for place in places:
        source = open_store(place)
        if source.identity == store.identity:
            raise ValueError(f"{source.path} is the store to copy into; give others.")
        read = added = 0
        for records in source.records():
            read += len(records)
            added += store.add_records(records)
        source.close()
        print(f"{source.path}: {read:,} answers, {added:,} of them new in {store.path}.")


def _info(store: "Store") -> None:
    rows = store.info()
    for found in store.methods():
        day = time.strftime("%Y-%m-%d", time.localtime(found["created"]))
        if (scale := {"percent": "per cent", "share": "shares of 1"}.get(found["method"])) is not None:
            print(f"The confidences of {found['model']} are {scale}, found on {day}")
            continue
        print(f"`auto` queries {found['model']} by {found['method']!r}, found on {day}")
    size = f"{Path(store.path).stat().st_size / 1e6:.1f} MB, " if Path(store.path).is_file() else ""
    print(f"{store.path}  {size}{sum(r['answers'] for r in rows):,} answers")
    if not rows:
        return
    print(f"{'model':36} {'method':9} {'answers':>9} {'tokens':>12} {'dollars':>10}  last")
    for r in rows:
        tokens = r["prompt_tokens"] + r["completion_tokens"]
        day = time.strftime("%Y-%m-%d", time.localtime(r["last"]))
        print(f"{r['model'][:36]:36} {r['method']:9} {r['answers']:>9,} {tokens:>12,} {r['cost_usd']:>10.4f}  {day}")


def _clear(store: "Store", args: argparse.Namespace) -> int:
    if not args.yes:
        what = f"of {args.model} " if args.model else ""
        print(f"Delete answers {what}from {store.path}? They were paid for. [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            print("Nothing deleted.")
            return 1
    before = time.time() - args.older_than * 86400 if args.older_than is not None else None
    print(f"{store.clear(args.model, before):,} answers deleted.")
    return 0
