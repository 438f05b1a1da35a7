"""`labelfusion push`: publish a model folder, or a data file with its LLM scores, on the Hugging Face Hub."""

import argparse
import os
from pathlib import Path
from typing import Any

from ..options import add_card_metadata


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("source", metavar="DIR", help="folder of a saved model; or a data file (Parquet, JSONL, CSV)")
    parser.add_argument("repo", metavar="REPO", help="user/name of the repository; it is made if there is none")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    visibility.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--token-env",
        default="HF_TOKEN",
        metavar="NAME",
        help="environment variable with the Hub token (default: %(default)s, else the token of `hf auth login`)",
    )
    parser.add_argument(
        "--self-contained",
        action="store_true",
        help="push the code with the model, for users who have not installed labelfusion-transformers",
    )
    parser.add_argument("--commit-message", metavar="TEXT", help="message of the commit")
    add_card_metadata(parser)


def run(args: argparse.Namespace) -> int:
    """Push, and print the address."""
    from ..cards.model_card import update_card
    from ..io.model_folder import check_model_folder
    from ..publish.hub import is_data_folder, push_data, push_folder

    token = os.environ.get(args.token_env)
    if token is None and args.token_env != "HF_TOKEN":
        raise ValueError(f"`--token-env`: there is no environment variable {args.token_env}.")
    private = True if args.private else False if args.public else None
    source = Path(args.source)
    options: dict[str, Any] = {"private": private, "token": token, "commit_message": args.commit_message}
    if source.is_file() or is_data_folder(source):
        if args.self_contained:
            raise ValueError("`--self-contained` is for models; a data set has no code.")
        if args.license or args.language:
            raise ValueError("`--license` and `--language` are for models; write them into the data set's card.")
        url = push_data(source, args.repo, **options)
    else:
        check_model_folder(source)
        if args.license or args.language:
            update_card(source, args.repo, license=args.license, language=args.language)
        url = push_folder(source, args.repo, self_contained=args.self_contained, **options)
    print(f"Pushed to {url}")
    return 0
