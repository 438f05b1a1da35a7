"""`labelfusion train`: from labelled data to a saved model with its card and report."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.formulas import add_escape_formulas, escape_formula
from ..options import (
    BF16,
    add_annotators,
    add_card_metadata,
    add_columns,
    add_max_cost,
    names,
    provider,
    read_descriptions,
    table_layout,
    without_loading_bars,
)

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ...training.data import LabelledTexts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("data", metavar="DATA", help="labelled CSV, TSV, JSONL, JSON or Parquet file, or Hub id[:split]")
    add("--output-dir", required=True, metavar="DIR", help="folder of the model, its card and its report")
    add("--eval", metavar="DATA", help="more labelled data; it is fitted on as well, out of sample like the rest")
    add("--test", metavar="DATA", help="held-out data that nothing is fitted on; the report is measured on it")
    add("--encoder", default="roberta-base", help="Hub id, folder or embedded encoder (default: %(default)s)")
    add(
        "--llm",
        action="append",
        type=provider,
        metavar="MODEL",
        help="model string, a provider's fields as JSON, `recorded` or `none`; repeatable (default: the scores that "
        "the data bring; nothing is queried)",
    )
    add(
        "--review",
        metavar="FILE",
        help="list suspected wrong training labels (encoder and LLM agree against them) in a CSV or JSONL file",
    )
    add_escape_formulas(parser)
    add("--overwrite", action="store_true", help="write into DIR even if it holds other things than a model")
    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--labels", type=names, metavar="A,B,C", help="class names in order (default: those of the data)")
    add("--multi-label", action="store_true", help="several classes may apply to a text")
    add("--label-columns", type=names, metavar="A,B,C", help="0/1 columns, one a class, instead of `label` or `labels`")
    add_columns(group)
    add_annotators(group)
    add(
        "--class-descriptions",
        "--descriptions",
        metavar="FILE.yaml",
        help="lines of `class name: description` for the LLM",
    )
    add = parser.add_argument_group("training").add_argument
    add(
        "--encoder-training",
        default="auto",
        choices=["auto", "probe", "contrastive", "full", "lora"],
        help="probe: linear head, seconds; contrastive: for few rows; full: fine-tuning; lora: fine-tuning in less "
        "memory, with PEFT; auto: what is better within --max-train-tokens",
    )
    add(
        "--max-train-tokens",
        type=int,
        default=500_000,
        help="bound of the encoder's training, in tokens through the trained layers (default: %(default)s)",
    )
    add("--max-train-minutes", type=float, help="stop the encoder's training then, and keep it frozen (default: never)")
    add("--num-train-epochs", type=int, help="most epochs of fine-tuning (default: 3, or 5 for up to 1,000 rows)")
    add(
        "--trained-layers",
        type=float,
        help="share of the layers, from the top, that is fine-tuned (default: 1, all; on a CPU 0.4)",
    )
    add(
        "--no-extra-sources",
        dest="extra_sources",
        action="store_false",
        help="encoder alone, without words and labelled neighbours beside it",
    )
    add("--learning-rate", type=float, help="peak learning rate of the encoder (default: by its size)")
    add("--batch-size", type=int, default=32, help="texts in one forward pass (default: %(default)s)")
    add("--bf16", action="store_true", help=BF16)
    add("--train-batch-size", type=int, default=16, help="rows in one training step (default: %(default)s)")
    add("--max-length", type=int, help="tokens kept of a text (default: as many as the encoder allows)")
    add(
        "--fusion",
        default="mlp",
        choices=["mlp", "pool", "weighted", "vote", "routing", "encoder", "llm"],
        help="how the sources are combined; encoder, llm: one alone (default: %(default)s)",
    )
    add(
        "--calibration",
        default="auto",
        choices=["auto", "none", "temperature", "vector", "isotonic"],
        help="the most flexible calibration that may be fitted; auto: what held-out rows show to help "
        "(default: %(default)s)",
    )
    add(
        "--threshold-metric",
        default="accuracy",
        choices=["accuracy", "micro_f1", "macro_f1"],
        help="multi-label: what the thresholds are tuned for (accuracy: exact match)",
    )
    add("--device", help="torch device (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="seed of everything random (default: %(default)s)")
    group = parser.add_argument_group("cost")
    add = group.add_argument
    add(
        "--query-price",
        type=float,
        default=0.02,
        help="for `--llm-policy auto`: by how much a query must raise the expected number of right answers; 0.02: one "
        "more right answer in 50 queries (default: %(default)s)",
    )
    add(
        "--max-scored-rows",
        type=int,
        default=1000,
        help="maximum number of rows sent to the LLM (default: %(default)s)",
    )
    add_max_cost(group)
    add("--no-cache", action="store_true", help="neither read nor write the store of paid answers")
    add = parser.add_argument_group("publishing").add_argument
    add("--push-to-hub", metavar="REPO", help="push the model there (user/name)")
    add("--private", action="store_true", default=None, help="make a new repository private")
    add_card_metadata(parser)
    add(
        "--track-emissions",
        metavar="COUNTRY",
        help="measure energy and carbon of the training with CodeCarbon, for the card; three letters: the power grid",
    )


@without_loading_bars()
def run(args: argparse.Namespace) -> int:
    """Train, save, report and, if asked, push."""
    from labelfusion import AutoFusionClassifier

    from ...evaluation.reports.report import FILES
    from ...scoring.budget import as_budget
    from ..cards.emissions import measured
    from ..io.model_folder import check_model_target
    from .evaluate import shown_name

    folder = Path(args.output_dir)
    if args.review and Path(args.review).suffix.lower() not in (".csv", ".jsonl"):
        raise ValueError(f"`--review` is {args.review!r}; expected a name that ends in .csv or .jsonl.")
    check_model_target(folder, args.overwrite)
    train, more, test = _read(args)
    args.max_cost_usd = as_budget(args.max_cost_usd)  # fitting and `--test` share it
    folder.mkdir(parents=True, exist_ok=True)
    clf = AutoFusionClassifier(
        encoder=args.encoder,
        llm=_llms(args.llm, train.llm_scores is not None),
        labels=args.labels,
        multi_label=args.multi_label,
        label_columns=args.label_columns,
        text_column=args.text_column,
        text_pair_column=args.text_pair_column,
        label_column=args.label_column,
        empty_texts=args.empty_texts,
        annotators=args.annotators,
        class_descriptions=read_descriptions(args.class_descriptions) if args.class_descriptions else None,
        cache=not args.no_cache,
        progress=True,
        **{name: getattr(args, name) for name in _PASSED},
    )
    with measured(args.track_emissions) as emissions:
        clf.fit(train, eval_data=more)
    if emissions:
        clf.report_["emissions"] = emissions
    clf.report_["data"] = shown_name(args.data)  # for the card
    for name in FILES:  # of an earlier model in the folder
        (folder / "evaluation" / name).unlink(missing_ok=True)
    clf.save_pretrained(folder)
    try:
        _report(clf, args, folder, train.count, test)
    except BaseException:
        print(f"The model is trained and saved in {folder}; what failed came after that.", file=sys.stderr)
        raise
    return 0


def _report(
    clf: "AutoFusionClassifier", args: argparse.Namespace, folder: Path, num_train: int, test: "LabelledTexts | None"
) -> None:
    """Write the reports after the model is saved."""
    from ...evaluation.reports.training_report import training_summary
    from ..cards.model_card import update_card
    from ..publish.hub import push_folder
    from .evaluate import evaluate

    summary = training_summary(clf)
    (folder / "training_report.md").write_text(summary, encoding="utf-8")
    print("\n" + summary)
    if args.review:
        found = write_review(clf, Path(args.review), num_train, args.escape_formulas)
        print(f"{found} suspected labels: {args.review}.")
    if test is not None:
        limit = args.max_cost_usd
        evaluate(clf, test, str(folder), folder / "evaluation", args.seed, name=args.test, max_cost_usd=limit)
    update_card(folder, args.push_to_hub, license=args.license, language=args.language)
    print(f"Saved to {folder}.")
    if args.push_to_hub:
        print(f"Pushed to {push_folder(folder, args.push_to_hub, private=args.private)}")


_PASSED = (
    "encoder_training",
    "max_train_tokens",
    "max_train_minutes",
    "extra_sources",
    "num_train_epochs",
    "trained_layers",
    "learning_rate",
    "batch_size",
    "bf16",
    "train_batch_size",
    "max_length",
    "fusion",
    "calibration",
    "threshold_metric",
    "query_price",
    "max_scored_rows",
    "max_cost_usd",
    "device",
    "seed",
)


def write_review(clf: "AutoFusionClassifier", path: Path, num_train: int, escape_formulas: bool = False) -> int:
    """Write the suspected labels, without texts; returns their number.

    `row` counts the rows of the file from 0, a header aside; `data` is `train` or `eval`.
    """
    import pandas as pd

    columns = ["data", "row", "given", "suggested", "encoder_given", "encoder_suggested", "llm_given", "llm_suggested"]
    found = [
        {"data": "train", **e} if e["row"] < num_train else {"data": "eval", **e, "row": e["row"] - num_train}
        for e in clf.suspected_labels()
    ]
    frame = pd.DataFrame(found, columns=columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".csv":
        for name in ("given", "suggested"):
            cells = [json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for v in frame[name]]
            frame[name] = [escape_formula(cell) for cell in cells] if escape_formulas else cells
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    return len(found)


def _read(args: argparse.Namespace) -> "tuple[LabelledTexts, LabelledTexts | None, LabelledTexts | None]":
    """The data of DATA, `--eval` and `--test`: all are checked before the training.

    Raises:
        ValueError: For invalid data; names the file.
    """
    from ...training.data import prepare

    found: list[LabelledTexts | None] = []
    layout = table_layout(args)
    for source, option in ((args.data, "DATA"), (args.eval, "--eval"), (args.test, "--test")):
        if source is None:
            found.append(None)
            continue
        first = found[0] if found else None
        scores = first.llm_scores if first is not None else None
        data = prepare(
            source,
            classes=args.labels if first is None else first.classes,
            multi_label=args.multi_label,
            # A text that is measured counts once, with the class that most annotators gave.
            layout=replace(layout, annotators="majority") if option == "--test" else layout,
            num_providers=None if scores is None else scores.shape[1],
            unseen_classes=option == "--test",
        )
        found.append(data)
    train, more, test = found
    assert train is not None
    return train, more, test


def _llms(given: list[Any] | None, has_scores: bool) -> Any:
    """The classifier's `llm` argument; `recorded` alone stands for all providers with scores in the data."""
    if given is None:
        given = ["recorded"] if has_scores else ["none"]
        if not has_scores:
            print("No LLM: the data bring no `llm_scores`, and there is no --llm. The encoder learns alone.")
    if given == ["none"]:
        return None
    if "none" in given:
        raise ValueError("`--llm none` stands alone.")
    return given[0] if given == ["recorded"] else given
