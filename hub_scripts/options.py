"""Options that several commands share."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ..training.data import TableLayout

PARTITION_ROWS = 20_000  # of a run over a folder
BF16 = "run the encoder in bfloat16: about twice as fast on CPUs and GPUs that have it"


class _Teller(logging.Handler):
    """Writes records as lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        from tqdm import tqdm

        tqdm.write(record.getMessage(), file=sys.stderr)


@contextmanager
def told_by_library() -> Iterator[None]:
    """Show the log messages of scoring: the methods that it tries, and why it gives one up."""
    logger, teller = logging.getLogger("labelfusion.scoring"), _Teller(logging.INFO)
    level = logger.level
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(teller)
        logger.setLevel(level)


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Hide Transformers' bars of loading weights, but not those of this package; afterwards all is as it was."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as transformers_logging

    shown, hub_shows_none = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # and the Hub's
            if hub_shows_none:
                disable_progress_bars()


def add_llm_policy(parser: argparse.ArgumentParser) -> None:
    """`--llm-policy`."""
    parser.add_argument(
        "--llm-policy",
        type=llm_policy,
        default="always",
        metavar="POLICY",
        help="texts that are sent to the LLMs: always, never, auto, or a share such as 0.3 (default: %(default)s)",
    )


def add_guarantees(parser: argparse.ArgumentParser) -> None:
    """`--target-accuracy` and `--max-risk`."""
    parser.add_argument(
        "--target-accuracy",
        type=share,
        metavar="A",
        help="instead of a policy: the fewest queries that reached this accuracy on held-out rows, such as 0.9",
    )
    parser.add_argument(
        "--max-risk",
        type=share,
        metavar="R",
        help="abstain on doubtful texts, so that at most this share of all texts gets a wrong answer, such as 0.05",
    )


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """Options of runs over folders."""
    add = parser.add_argument_group("folders", "IN a folder of data files, OUT a folder of Parquet files").add_argument
    add("--engine", choices=("local", "ray"), default="local", help="what does the work (default: %(default)s)")
    add("--address", metavar="ADDRESS", help="ray: the cluster, such as auto (default: one of this machine alone)")
    add("--workers", type=int, metavar="N", help="ray: the most workers, each with the model (default: as many as fit)")
    add(
        "--partition-rows",
        type=int,
        default=PARTITION_ROWS,
        metavar="ROWS",
        help="rows of a partition, the unit of work (default: %(default)s)",
    )


def add_speed(parser: argparse.ArgumentParser) -> None:
    """`--speed`."""
    parser.add_argument(
        "--speed",
        choices=("full", "balanced", "fast"),
        default="full",
        help="balanced, fast: a head without the encoder answers easy texts, at the cost of at most 0.1 or 0.3 points "
        "of accuracy, as expected on held-out rows (default: %(default)s)",
    )


def add_columns(parser: Any, labels: bool = True, saved: bool = False) -> None:
    """`--text-column`, `--label-column` and `--empty-texts`; `saved`: defaults to those of the training data."""
    shown = "that of the training data" if saved else "text"
    parser.add_argument(
        "--text-column",
        default=None if saved else "text",
        metavar="NAME",
        help=f"column with the texts (default: {shown})",
    )
    parser.add_argument(
        "--text-pair-column",
        metavar="NAME",
        help="column with the second texts, if pairs of texts are classified (default: text_pair, if there is one)",
    )
    if labels:
        shown = "that of the training data" if saved else "label or labels"
        parser.add_argument("--label-column", metavar="NAME", help=f"column with the labels (default: {shown})")
    parser.add_argument(
        "--empty-texts",
        choices=("error", "skip"),
        default=None if saved else "error",
        help="rows whose text is missing, empty or blank: error: refuse the data; skip: leave them without an answer",
    )


def read_descriptions(path: str) -> dict[str, str]:
    """Lines of `class name: description` from a YAML or JSON file, with every name kept as written.

    Raises:
        ValueError: For a file of something else.
    """
    import yaml

    text = Path(path).read_text(encoding="utf-8-sig")
    try:
        # YAML would convert `yes` and `01`; the base loader keeps them as text.
        found = json.loads(text) if path.endswith(".json") else yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold lines of `class name: description`.")
    return {str(name): str(description) for name, description in found.items()}


def table_layout(args: argparse.Namespace) -> "TableLayout":
    """The columns that the options name."""
    from ..training.data import TableLayout

    return TableLayout(
        text_column=args.text_column,
        text_pair_column=args.text_pair_column,
        label_column=args.label_column,
        label_columns=getattr(args, "label_columns", None),
        empty_texts=args.empty_texts,
        annotators=getattr(args, "annotators", "majority"),
    )


def add_annotators(parser: Any) -> None:
    """`--annotators`."""
    parser.add_argument(
        "--annotators",
        choices=("majority", "soft"),
        default="majority",
        help="what several annotators of a text give, in the export of an annotation tool: majority: the class with "
        "the most votes, a tie leaves the text out; soft: each vote is a row, "
        "and the votes of a text together weigh as much as one row "
        "(default: %(default)s); test data count a text once, with its majority class",
    )


def add_max_cost(parser: Any) -> None:
    """`--max-cost-usd`."""
    parser.add_argument(
        "--max-cost-usd", type=dollars, metavar="X", help="US dollars that the LLMs may cost; then the encoder answers"
    )


def add_card_metadata(parser: argparse.ArgumentParser) -> None:
    """`--license` and `--language`, which a run cannot infer."""
    parser.add_argument("--license", metavar="ID", help="licence for the model card, as the Hub names it (apache-2.0)")
    parser.add_argument(
        "--language",
        type=lambda text: text.split(",") if "," in text else text,
        metavar="CODE",
        help="language of the texts for the model card, such as en or en,de",
    )


def llm_policy(text: str) -> str | float:
    """`always`, `never`, `auto` or a share."""
    if text in ("always", "never", "auto"):
        return text
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected always, never, auto or a share between 0 and 1, got {text!r}")
    return value


def share(text: str) -> float:
    """A number between 0 and 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value


def dollars(text: str) -> float:
    """A number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected US dollars, 0 or more, got {text!r}")
    return value


def names(text: str) -> list[str]:
    """Comma-separated names; a JSON list where a name holds a comma."""
    found = from_json(text) if text.lstrip().startswith("[") else [part.strip() for part in text.split(",")]
    found = [str(name) for name in found if name != ""]
    if len(found) < 2 or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected two or more different names, such as a,b,c, got {text!r}")
    return found


def provider(text: str) -> str | dict[str, Any]:
    """A model string, or the fields of a provider as JSON (`{"model": ..., "prompt": "few-shot"}`)."""
    return from_json(text) if text.lstrip().startswith("{") else text


def from_json(text: str) -> Any:
    """What an option's JSON holds."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no valid JSON: {error}") from None


def add_encoding(parser: argparse.ArgumentParser) -> None:
    """Options of how a saved model runs."""
    parser.add_argument("--batch-size", type=int, help="texts in one forward pass of the encoder")
    parser.add_argument("--bf16", action="store_true", default=None, help=BF16)
    parser.add_argument(
        "--backend", choices=("torch", "openvino"), help="what runs the encoder; openvino is faster on many CPUs"
    )
    parser.add_argument("--device", help="torch device (default: a GPU if there is one)")


def load_classifier(folder_or_repo: str, **options: Any) -> "AutoFusionClassifier":
    """The saved classifier, with progress bars of its own."""
    from labelfusion import AutoFusionClassifier

    given = {name: value for name, value in options.items() if value is not None}
    return AutoFusionClassifier.from_pretrained(folder_or_repo, progress=True, **given)
