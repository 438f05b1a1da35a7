"""`labelfusion suggest`: choose which texts to label next, and write them as tasks for annotators."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.formulas import add_escape_formulas
from ..options import (
    add_columns,
    add_encoding,
    add_llm_policy,
    add_max_cost,
    load_classifier,
    names,
    without_loading_bars,
)

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier
    from labelfusion.suggestions import Suggestions

FORMATS = {".json": "label-studio", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl"}
SUFFIXES = {"label-studio": (".json",), "argilla": (".json",), "csv": (".csv", ".tsv"), "jsonl": (".jsonl",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("model", metavar="MODEL", nargs="?", help="folder or Hub id of a model; without one, typical texts are chosen")
    add("texts", metavar="TEXTS", help="CSV, TSV, JSON, JSONL or Parquet file, or Hub id[:split]; labels are not read")
    add("--n", type=int, default=50, metavar="N", help="number of texts to label next (default: %(default)s)")
    add("--output", required=True, metavar="FILE", help="where the tasks are written: .json, .jsonl, .csv or .tsv")
    add(
        "--format",
        choices=list(SUFFIXES),
        help="label-studio: tasks, and the labelling interface beside them as .xml; argilla: records of Argilla 2, and "
        "the settings beside them as .settings.json; csv, jsonl: rows with an empty label (default: by FILE's name)",
    )
    add("--labelled", metavar="DATA", help="texts that are labelled already: they are not chosen again")
    add_llm_policy(parser)
    parser.set_defaults(llm_policy="never")
    add_max_cost(parser)
    add_columns(parser, saved=True)
    add_encoding(parser)
    add_escape_formulas(parser)
    add("--overwrite", action="store_true", help="replace FILE if it is there")
    add = parser.add_argument_group("without a model").add_argument
    add("--encoder", metavar="E", help="Hub id, folder or embedded encoder (default: roberta-base)")
    add("--labels", type=names, metavar="A,B,C", help="class names; annotation tools need them")
    add("--multi-label", action="store_true", help="several classes may apply to a text")
    add("--seed", type=int, default=0, help="seed of the clusters (default: %(default)s)")


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Choose the texts and write them."""
    out = Path(args.output)
    style = _check(out, args)
    clf = _classifier(args)
    options = {"llm_policy": args.llm_policy, "max_cost_usd": args.max_cost_usd}
    found = clf.suggest(args.texts, args.n, labelled=args.labelled, **options)
    out.parent.mkdir(parents=True, exist_ok=True)
    written = write(found, out, style, args.escape_formulas)
    print(f"{len(found)} texts to label: {' and '.join(map(str, written))}")
    for task in found.tasks[:3]:
        print(f"  row {task.row}: {'; '.join(task.reasons)}")
    return 0


def write(found: "Suggestions", out: Path, style: str, escape_formulas: bool = False) -> list[Path]:
    """Write suggestions in one of `SUFFIXES`' formats; returns the files."""
    if style == "label-studio":
        tasks, interface = found.label_studio()
        beside = out.with_suffix(".xml")
        beside.write_text(interface, encoding="utf-8")
        return [_write_json(out, tasks), beside]
    if style == "argilla":
        records, settings = found.argilla()
        return [_write_json(out, records), _write_json(out.with_suffix(".settings.json"), settings)]
    from ..io.tables import Writer

    with Writer(out, escape_formulas=escape_formulas) as writer:
        for row in found.rows():
            writer.write(row)
    return [out]


def _write_json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return path


def _check(out: Path, args: argparse.Namespace) -> str:
    """The format of the output; raises for options that do not fit together, before any work."""
    suffix = out.suffix.lower()
    style = args.format or FORMATS.get(suffix)
    if style is None or suffix not in SUFFIXES[style]:
        expected = " or ".join(SUFFIXES[style] if style else FORMATS)
        raise ValueError(f"`output` is {args.output!r}; expected a file that ends in {expected}.")
    if out.exists() and not args.overwrite:
        raise ValueError(f"{out} is there already; `--overwrite` replaces it.")
    if args.model is not None:
        given = [name for name in ("encoder", "labels", "multi_label") if getattr(args, name)]
        if given:
            raise ValueError(f"`{given[0]}` is for a choice without a model; {args.model} has its own.")
    elif style in ("label-studio", "argilla") and not args.labels:
        raise ValueError("`labels` are missing: an annotation tool needs the class names, such as --labels spam,ham.")
    return style


def _classifier(args: argparse.Namespace) -> "AutoFusionClassifier":
    columns = {name: getattr(args, name) for name in ("text_column", "text_pair_column", "label_column", "empty_texts")}
    encoding = {name: getattr(args, name) for name in ("batch_size", "bf16", "backend", "device")}
    given = {name: value for name, value in (columns | encoding).items() if value is not None}
    if args.model is not None:
        return load_classifier(args.model, **given)
    from labelfusion import AutoFusionClassifier

    encoder = {} if args.encoder is None else {"encoder": args.encoder}
    return AutoFusionClassifier(
        **encoder, llm=None, labels=args.labels, multi_label=args.multi_label, seed=args.seed, progress=True, **given
    )
