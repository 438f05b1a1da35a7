"""`labelfusion evaluate`: compare fusion, encoder and LLMs on labelled data, and write the report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..options import add_columns, add_encoding, add_guarantees, add_llm_policy, add_max_cost, without_loading_bars

if TYPE_CHECKING:
    from ...scoring.budget import Budget


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("model", metavar="DIR", help="folder or Hub id of a model")
    parser.add_argument(
        "data", metavar="DATA", help="labelled CSV, TSV, JSONL, JSON or Parquet file, or Hub id[:split]"
    )
    add_llm_policy(parser)
    add_max_cost(parser)
    add_guarantees(parser)
    parser.add_argument(
        "--tradeoff",
        action="store_true",
        help="query the LLMs about every text; show accuracy against cost and latency for every share of queries",
    )
    parser.add_argument(
        "--output-dir", metavar="DIR", help="folder of the report (default: evaluation, inside a model's folder)"
    )
    parser.add_argument("--html", metavar="FILE.html", help="also write one HTML file to look at; it shows texts")
    parser.add_argument("--hide-texts", action="store_true", help="with --html: show no text of the data")
    add_columns(parser, saved=True)
    add_encoding(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default: %(default)s)")


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Evaluate, write the report, print its tables."""
    from ...evaluation.html_report.write_html import check_html_path
    from ...scoring.budget import as_budget
    from ..cards.model_card import update_card
    from ..options import load_classifier

    if args.html is not None:  # before anything is paid for
        check_html_path(args.html)
    columns = {name: getattr(args, name) for name in ("text_column", "text_pair_column", "label_column", "empty_texts")}
    encoding = {name: getattr(args, name) for name in ("batch_size", "bf16", "backend", "device")}
    clf = load_classifier(args.model, **encoding, **columns)
    model = Path(args.model)
    folder = Path(args.output_dir) if args.output_dir else (model if model.is_dir() else Path()) / "evaluation"
    asking = {name: getattr(args, name) for name in ("llm_policy", "max_cost_usd", "target_accuracy", "max_risk")}
    asking["max_cost_usd"] = budget = as_budget(args.max_cost_usd)
    page = {"html": args.html, "texts": not args.hide_texts}
    evaluate(clf, args.data, args.model, folder, seed=args.seed, **page, **asking)
    if args.tradeoff:
        _tradeoff(clf, args, folder, budget)
    if model.is_dir() and folder == model / "evaluation":
        update_card(model)
    return 0


def _tradeoff(clf: Any, args: argparse.Namespace, folder: Path, budget: "Budget | None") -> None:
    from ...evaluation.tradeoff import tradeoff_table

    policy = "auto" if args.llm_policy == "always" else args.llm_policy
    found = clf.tradeoff(args.data, policy, budget, folder=folder, seed=args.seed)
    print(f"\nAccuracy against cost, on {found['rows']} rows:\n\n{tradeoff_table(found)}\n")
    print(f"Trade-off: {folder / 'tradeoff.csv'}" + (f" (cost ${found['cost_usd']:.4f})" if found["cost_usd"] else ""))


def evaluate(
    clf: Any,
    data: Any,
    model: str,
    folder: Path,
    seed: int = 0,
    name: str | None = None,
    html: str | None = None,
    texts: bool = True,
    **asking: Any,
) -> dict[str, Any]:
    """Measure on the data set `data`, write the report into `folder`, print its tables and return it.

    `name` is the displayed name of `data`, by default `data` itself; `html` is a file of the HTML report, with texts of
    the data if `texts`; `asking` holds options of `Routing.parse`.
    """
    from ...evaluation.diagnosis.measurement import Measurement
    from ...evaluation.html_report.write_html import write_html
    from ...evaluation.reports.report import comparisons_table, risk_sentence, sources_table, write_report
    from ...evaluation.reports.report_content import describe
    from ...routing.run_options import Routing

    run = Measurement.of(clf, data, Routing.parse(clf.model_.config, **asking))
    report = describe(run, shown_name(name or data), shown_name(model), seed=seed)
    tables = [sources_table(report), *([comparisons_table(report)] if report["comparisons"] else [])]
    print("\n" + "\n\n".join([f"{report['rows']} rows of {report['data']}", *tables]) + "\n")
    if "risk" in report:
        print(f"{risk_sentence(report)}\n")
    for line in (*report["warnings"], *(f"{piece['fact']} {piece['advice']}" for piece in report["advice"])):
        print(f"- {line}")
    paths = write_report(report, folder)
    print(f"Report: {paths[0]}" + (f" (cost ${report['cost_usd']:.4f})" if report["cost_usd"] else ""))
    if html is not None:
        print(f"HTML:   {write_html(run, report, html, texts)}")
    return report


def shown_name(name: str) -> str:
    """The name of a file or folder without its parent folders, which are private; a Hub id unchanged."""
    path = Path(name)
    return path.resolve().name if path.exists() else name
