"""The unit of work of `labelfusion score`: an Arrow table in, the same table with the column `llm_scores` out."""

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...scoring.factory import build_scorer
from ...scoring.reasons import Missing, add_reason
from ...scoring.session.runner import score_texts
from ..inputs import column_texts, read_inputs
from .partition import SCORE_COLUMN, Counts

if TYPE_CHECKING:
    import pyarrow as pa

    from ...scoring.session.dollar_budget import Budget


@dataclass(frozen=True)
class ScoreWork:
    """Asks LLMs for the scores of tables. Plain data, as `PredictWork`.

    Args:
        providers: P declarations, as dicts.
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may apply.
        class_descriptions: `{class name: description}`.
        text_column: Column with the texts.
        empty_texts: `"error"`, or `"skip"`: a text that is missing, empty or blank gets no scores.
        scoring: Options of `scoring.build_scorer`, such as `store`.
        metadata: Key-value metadata of the result's schema; the table's own names its old columns.
        prior_texts: From these, local models without a prior estimate it: the same for every partition.
        text_pair_column: Column with the second texts of pairs; None: `text_pair`, if there is one.
    """

    providers: list[dict[str, Any]]
    labels: list[str]
    multi_label: bool = False
    class_descriptions: dict[str, str] | None = None
    text_column: str = "text"
    empty_texts: str = "error"
    scoring: dict[str, Any] = field(default_factory=dict, repr=False)  # the store's URL may hold a password
    metadata: dict[str, str] = field(default_factory=dict)
    prior_texts: list[str] = field(default_factory=list)
    text_pair_column: str | None = None

    def open(self) -> "ScoreWorker":
        """Make the scorers."""
        return ScoreWorker(self)


class ScoreWorker:
    """Scores one table after the other.

    Args:
        work: What to do.

    Raises:
        ValueError: For a declaration that contradicts itself.
    """

    def __init__(self, work: ScoreWork) -> None:
        self.work = work
        self.scorers = [
            build_scorer(provider, work.labels, work.multi_label, work.class_descriptions, **work.scoring)
            for provider in work.providers
        ]
        for scorer in self.scorers if work.prior_texts else []:
            if getattr(scorer, "prior", True) is None:
                scorer.fit_prior(work.prior_texts)  # type: ignore[attr-defined]

    def classify(self, table: "pa.Table", budget: "Budget | None" = None) -> "tuple[pa.Table, Counts]":
        """Score the rows of a table.

        Args:
            table: Any columns, with the text column among them.
            budget: Limit in US dollars that partitions may share.

        Returns:
            The table with `llm_scores`, a list of P lists of K probabilities a row, null for a missing answer; and what
            it has taken.

        Raises:
            ValueError: For texts or columns that do not fit. Nothing has been queried then.
            ScoringError: If an LLM cannot be queried at all (no key, unknown model).
        """
        import pyarrow as pa

        found = column_texts(table, self.work.text_column, self.work.text_pair_column)
        if SCORE_COLUMN in table.column_names:
            raise ValueError(f"The table has a column {SCORE_COLUMN!r} already: remove it.")
        texts = [text for text, _ in read_inputs(found, None, self.work.empty_texts)]
        rows = [row for row, text in enumerate(texts) if text is not None]
        cells: list[list[Any]] = [[None] * len(self.scorers) for _ in texts]
        missing: dict[int, Missing] = {}
        counts = Counts(rows=len(texts))
        asked = [text for text in texts if text is not None]
        batches = score_texts(self.scorers, asked, max_cost_usd=budget)[1] if asked else []
        for p, batch in enumerate(batches):
            for i in map(int, batch.mask.nonzero()[0]):
                cells[rows[i]][p] = [round(float(score), 6) for score in batch.scores[i]]
            for i, reason in batch.errors.items():
                add_reason(missing, rows[i], reason)
            counts.asked += batch.usage.requests
            counts.cost_usd += batch.usage.cost_usd
        counts.missing = len(missing)
        counts.still_open = sum(not reason.is_final for reason in missing.values())
        counts.reasons = dict(Counter(map(str, missing.values())))
        kind = pa.list_(pa.list_(pa.float32()))
        scored = table.append_column(pa.field(SCORE_COLUMN, kind), pa.array(cells, kind))
        return scored.replace_schema_metadata(self.work.metadata), counts
