"""`labelfusion explain`: why texts get their classes, on the terminal, as JSON or as a picture."""

import argparse
import json
from typing import Any

from ..options import add_encoding, add_llm_policy, add_max_cost, without_loading_bars


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("model", metavar="DIR", help="folder or Hub id of a model")
    add("texts", metavar="TEXT", nargs="+", help="a text, in quotes")
    add("--text-pair", metavar="TEXT", nargs="+", help="the second text of each, for a model of pairs of texts")
    add("--examples", metavar="DATA", help="labelled data, such as the training data, to show the nearest texts of")
    add("--nearest", type=int, default=3, metavar="N", help="nearest texts to show (default: %(default)s)")
    add("--label", metavar="CLASS", help="class to explain (default: the predicted one)")
    add("--no-words", action="store_true", help="do not measure words, which takes a forward pass for each")
    add("--json", action="store_true", help="print one line of JSON for each text")
    add("--plot", metavar="FILE.png", help="also draw the explanation of one text")
    add_llm_policy(parser)
    add_max_cost(parser)
    add_encoding(parser)


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Explain, print and draw."""
    from ..options import load_classifier

    if args.plot and len(args.texts) > 1:
        raise ValueError(f"`--plot` draws one text; {len(args.texts)} are given.")
    texts: list[Any] = args.texts
    if args.text_pair is not None:
        if len(args.text_pair) != len(texts):
            raise ValueError(f"`--text-pair` has {len(args.text_pair)} texts for {len(texts)}; give one for each.")
        texts = [{"text": text, "text_pair": other} for text, other in zip(texts, args.text_pair, strict=True)]
    encoding = {name: getattr(args, name) for name in ("batch_size", "bf16", "backend", "device")}
    clf = load_classifier(args.model, **encoding)
    clf.progress = False
    asking = {"llm_policy": args.llm_policy, "max_cost_usd": args.max_cost_usd}
    shown = {"nearest": args.nearest, "words": not args.no_words, "label": args.label}
    for i, found in enumerate(clf.explain(texts, args.examples, **shown, **asking)):
        if args.json:
            print(json.dumps(found.to_dict(), ensure_ascii=False))
        else:
            print(("\n" if i else "") + repr(found))
        if args.plot:
            found.plot(args.plot)
    return 0
