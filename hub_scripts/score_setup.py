"""Builds providers, classes, examples and scorers from the options of `labelfusion score`."""

import argparse
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .io.tables import Table, sample_texts
from .options import from_json, read_descriptions, table_layout

if TYPE_CHECKING:
    from ..configuration import LLMProvider
    from ..scoring.session.scorer import Scorer

PRIOR_TEXTS = 128  # from which a local model estimates its prior

_PROVIDER_OPTIONS = (
    "method", "prompt", "num_examples", "api_base", "api_key_env", "texts_per_request", "max_concurrency", "price",
    "timeout_s", "wait_for_server_s",
)  # fmt: skip


@dataclass
class Task:
    """The classes to score and the providers to query.

    Args:
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may apply.
        providers: P declarations.
        scorers: P scorers.
        guidelines_usd: US dollars spent on LLM-written guidelines, including earlier runs.
    """

    labels: list[str]
    multi_label: bool
    providers: list["LLMProvider"]
    scorers: list["Scorer"]
    guidelines_usd: float = 0.0

    def fit_priors(self, table: Table, text_column: str) -> None:
        """Let local models without a prior estimate it, the same for every chunk; from few texts there is none."""
        texts = self.prior_texts(table, text_column)
        for scorer in self.scorers if texts else []:
            if getattr(scorer, "prior", True) is None:
                scorer.fit_prior(texts)  # type: ignore[attr-defined]

    def prior_texts(self, table: Table, text_column: str) -> list[str]:
        """The texts from which local models without a prior estimate it; none if they are few, or not needed."""
        from ..scoring.local.likelihood_scorer import MIN_PRIOR_TEXTS

        if all(getattr(scorer, "prior", True) is not None for scorer in self.scorers):
            return []
        texts = sample_texts(table, text_column, PRIOR_TEXTS)
        return texts if len(texts) >= MIN_PRIOR_TEXTS else []

    def fingerprint(self, table: Table, args: argparse.Namespace) -> dict[str, Any]:
        """The settings that must match to continue a journal; speed and budget may change."""
        free = (
            *("max_concurrency", "requests_per_minute", "tokens_per_minute", "price"),
            *("timeout_s", "wait_for_server_s", "api_key_env"),
        )
        declared = [{k: v for k, v in p.to_dict().items() if k not in free} for p in self.providers]
        return {
            "input": table.name,
            "input version": table.version(),
            "labels": self.labels,
            "multi_label": self.multi_label,
            "llm": hashlib.sha256(json.dumps(declared, sort_keys=True).encode()).hexdigest(),
            "text_column": args.text_column,
            "empty_texts": args.empty_texts,
            "chunk_size": args.chunk_size,
            "annotators": args.annotators,
            "examples": Table(args.examples).version() if args.examples else None,
        }


def set_up(table: Table, args: argparse.Namespace, kept_guidelines: Path) -> Task:
    """Make providers and scorers from the options.

    Args:
        table: The data.
        args: The options.
        kept_guidelines: File that keeps the guidelines that LLMs write, so that an interrupted run goes on with them.

    Raises:
        ValueError: For options that contradict each other or the data.
    """
    from ..configuration import LLMProvider, ProviderKind
    from ..scoring import build_scorer

    providers = [LLMProvider.from_any(_fields(given, args)) for given in args.llm]
    for provider in providers:
        if provider.kind in (ProviderKind.RECORDED, ProviderKind.CALLABLE):
            raise ValueError(f"`--llm {provider.model}` is no LLM that can be queried.")
    names = [p.name for p in providers]
    if len(set(names)) < len(names):
        raise ValueError(f"`--llm` names an LLM twice: {names}. Give each a `name` in its JSON.")
    labels = _labels(table, args)
    descriptions = class_descriptions(args.descriptions, labels)
    pool = _pool(args, labels)
    providers = [_with_examples(p, labels, pool) for p in providers]
    guidelines_usd = 0.0
    if args.guidelines == "auto" and not args.dry_run:
        kept = _Guidelines(kept_guidelines, args.max_cost_usd)
        providers = [kept.give(p, labels, args.multi_label, descriptions, pool) for p in providers]
        guidelines_usd = kept.spent
    embed = _embedder(args.encoder) if any(p.prompt == "nearest" for p in providers) else None
    scorers = [
        build_scorer(
            provider,
            labels,
            args.multi_label,
            descriptions,
            # Without the store, one in memory still avoids paying twice for equal texts in this run.
            store=":memory:" if args.no_cache else args.store,
            embed=embed,
            pool=pool,
            failure_limit=args.failure_limit,
            progress=False,
        )
        for provider in providers
    ]
    return Task(labels, args.multi_label, providers, scorers, guidelines_usd)


def parse_names(text: str) -> list[str]:
    """`a,b,c` or a JSON list of names."""
    names = from_json(text) if text.lstrip().startswith("[") else [name.strip() for name in text.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(n, str) and n for n in names):
        raise argparse.ArgumentTypeError(f"expected two or more different class names, got {text!r}")
    return names


def parse_price(text: str) -> tuple[float, float]:
    """`IN,OUT` in dollars per million tokens."""
    try:
        given, answered = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected two numbers, such as 0.05,0.4, got {text!r}") from None
    return given, answered


def _fields(given: str | dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """The fields of a provider: its own, else those of the options."""
    fields: dict[str, Any] = {"model": given} if isinstance(given, str) else dict(given)
    for name in _PROVIDER_OPTIONS:
        if getattr(args, name) is not None:
            fields.setdefault(name, getattr(args, name))
    if args.template:
        fields.setdefault("templates", [Path(args.template).read_text(encoding="utf-8")])
    if args.guidelines and args.guidelines != "auto":
        fields.setdefault("guidelines", Path(args.guidelines).read_text(encoding="utf-8"))
    return fields


def _with_examples(
    provider: "LLMProvider", labels: list[str], pool: tuple[list[str], list[Any]] | None
) -> "LLMProvider":
    """The provider with few-shot examples from the pool, if it has none of its own."""
    from ..configuration import LLMProvider
    from ..scoring.prompting.examples import balanced_examples

    if provider.prompt != "few-shot" or provider.examples or pool is None:
        return provider
    examples = balanced_examples(pool, labels, provider.num_examples)
    return LLMProvider.from_any({**provider.to_dict(), "examples": examples})


class _Guidelines:
    """The guidelines that LLMs write, kept in a file with what they have cost.

    Args:
        path: The file.
        max_cost_usd: US dollars that they may cost, all LLMs together; None: no limit.
    """

    def __init__(self, path: Path, max_cost_usd: float | None) -> None:
        from ..scoring.budget import Budget

        self.path = path
        self.kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if "written" not in self.kept:  # or a file that holds the guidelines alone
            self.kept = {"written": self.kept, "spent": 0.0}
        self.budget = Budget(math.inf if max_cost_usd is None else max_cost_usd, self.kept["spent"], self._spend)

    @property
    def spent(self) -> float:
        """US dollars."""
        return self.budget.spent

    def give(
        self,
        provider: "LLMProvider",
        labels: list[str],
        multi_label: bool,
        descriptions: dict[str, str] | None,
        pool: tuple[list[str], list[Any]] | None,
    ) -> "LLMProvider":
        """The provider with the guidelines that it has written, now or before."""
        from ..configuration import LLMProvider
        from ..scoring.guidelines import write_guidelines

        written = self.kept["written"]
        name = str(provider.name)
        if name in written:
            return LLMProvider.from_any({**provider.to_dict(), "guidelines": written[name]})
        try:
            provider, _ = write_guidelines(
                provider, labels, multi_label, descriptions, pool=pool, max_cost_usd=self.budget,
                keep=lambda text: written.update({name: text}),
            )  # fmt: skip
        finally:
            self._spend(self.budget.spent)
        return provider

    def _spend(self, spent: float) -> None:
        self.kept["spent"] = spent
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.tmp")
        draft.write_text(json.dumps(self.kept), encoding="utf-8")
        draft.replace(self.path)  # a kill leaves the old file or the new one


def _labels(table: Table, args: argparse.Namespace) -> list[str]:
    """The class names, in the order in which training will find them in the same data."""
    from ..training.data import find_label_column, read_classes
    from ..training.data.label_cells import is_missing
    from ..training.data.label_encoding import find_classes, to_number

    found = table.class_names(args.label_column)
    column = find_label_column(next(iter(table)).keys(), args.multi_label, args.label_column)
    if args.label_column and column is None:
        raise ValueError(f"{args.input} has no column {args.label_column!r} (`label_column`).")
    if found is None and column is not None:
        raw = read_classes([row.get(column) for row in table], args.multi_label, table.has_cells, args.labels)
        known = [value for value in raw if not is_missing(value)]
        classes = find_classes(known, None, args.multi_label) if known else []
        named = bool(known) and all(isinstance(c, str) and to_number(c) is None for c in classes)
        found = classes if named else None
        if named and args.labels and (unknown := [c for c in classes if c not in args.labels]):
            raise ValueError(
                f"The column {column!r} of {args.input} has classes that `--labels` does not name: {unknown[:5]}. "
                "Name every class, or leave `--labels` out; for other classes than those, remove the column."
            )
    if args.labels is None:
        if found is None:
            raise ValueError(f"{args.input} does not name its classes: give them with `--labels a,b,c`, in order.")
        return found
    return found if found is not None and set(found) == set(args.labels) else args.labels


def class_descriptions(path: str | None, labels: list[str]) -> dict[str, str] | None:
    """The class descriptions in a file, `{class name: description}`.

    Raises:
        ValueError: For a class that is not among `labels`.
    """
    if path is None:
        return None
    found = read_descriptions(path)
    if unknown := sorted(found.keys() - set(labels)):
        raise ValueError(f"{path} describes the unknown classes {unknown}; the classes are {labels}.")
    return found


def _pool(args: argparse.Namespace, labels: list[str]) -> tuple[list[str], list[Any]] | None:
    if args.examples is None:
        return None
    from ..training.data import prepare

    data = prepare(args.examples, classes=labels, multi_label=args.multi_label, layout=table_layout(args))
    return data.texts, data.names()


def _embedder(encoder: str) -> Callable[[list[str]], Any]:
    """Embeddings from an encoder that is loaded at the first use."""
    loaded: list[Any] = []

    def embed(texts: list[str]) -> Any:
        from ..modeling_labelfusion import LabelFusionForSequenceClassification
        from ..modeling_labelfusion.encoding import encode_texts
        from ..modeling_labelfusion.tokenizer_files import load_tokenizer
        from ..scoring.local.embedded import resolve_model

        if not loaded:
            folder = resolve_model(encoder)
            model = LabelFusionForSequenceClassification.from_encoder_pretrained(folder, num_labels=2)
            loaded.extend([model, load_tokenizer(folder)])
        return encode_texts(loaded[0], loaded[1], texts).numpy()

    return embed
