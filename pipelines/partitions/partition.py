"""The unit of work on large data: one partition, an Arrow table in and out, with no engine in it.

A `PredictWork` is plain data, so that any engine can send it to another machine. `open` loads the model there, once.
Every row of the table comes out once, in order. Each question is paid at most once, except those on the wire when a
process dies: answers are in the score store before anything else happens with them, and a partition that is begun anew
finds them there.

A share of the texts (`llm_policy=0.2`) is exact over the whole data set, in two passes. `encode` keeps the encoder's
outputs and the gate's values of each partition, `share_of` selects among all of them, and `classify` queries.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...configuration import LabelFusionConfig
from ...modeling_labelfusion import LabelFusionForSequenceClassification
from ...modeling_labelfusion.encoding import TextEncoder, encode_texts
from ...modeling_labelfusion.tokenizer_files import load_tokenizer
from ...routing.gate import gate_values
from ...routing.run_options import Routing
from ...scoring.model_scorers import DeferredScorers
from ...scoring.probabilities import to_probabilities
from ..answer_columns import AnswerColumns
from ..inference import Inference, infer
from ..inputs import Row, column_texts, read_inputs

if TYPE_CHECKING:
    import pyarrow as pa

    from ...scoring.session.dollar_budget import Budget

SCORE_COLUMN = "llm_scores"


@dataclass
class Counts:
    """What a partition has taken.

    Args:
        rows: Rows.
        asked: Texts that an LLM was queried about.
        missing: Rows without an answer that was wanted.
        still_open: Of these, rows that may still get one (`labelfusion score` alone).
        cost_usd: US dollars.
        reasons: `{reason: rows}` of missing answers.
    """

    rows: int = 0
    asked: int = 0
    missing: int = 0
    still_open: int = 0
    cost_usd: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        reasons = dict(self.reasons)
        for reason, count in other.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
        names = ("rows", "asked", "missing", "still_open", "cost_usd")
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in names}, reasons=reasons)


@dataclass
class Encoded:
    """What the first pass of a share knows about a partition.

    Args:
        embeddings: float32 `(m, embedding_size)` of its rows with a text.
        values: float64 `(s,)`: the gate's values of the rows that may be queried, in order.
    """

    embeddings: torch.Tensor
    values: NDArray[np.float64]

    def to_bytes(self) -> bytes:
        """As a safetensors file."""
        from safetensors.torch import save

        return save({"embeddings": self.embeddings, "values": torch.from_numpy(self.values)})

    @classmethod
    def from_file(cls, path: str) -> "Encoded":
        """What `to_bytes` has written."""
        from safetensors.torch import load_file

        tensors = load_file(path)
        return cls(tensors["embeddings"], tensors["values"].numpy())


def values_of(path: str) -> NDArray[np.float64]:
    """The `values` of an `Encoded` in a file, without reading the rest."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return np.asarray(file.get_tensor("values"))


@dataclass(frozen=True)
class Share:
    """The texts of a partition that belong to a share of the whole data set.

    Args:
        above: The gate's value above which all texts are queried.
        equal: Of the texts with exactly this value, the number that are queried, first ones first.
    """

    above: float
    equal: int

    def mask(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """bool `(s,)` for the values of the partition."""
        chosen = values > self.above
        chosen[np.flatnonzero(values == self.above)[: self.equal]] = True
        return chosen


def share_of(values: Sequence[NDArray[np.float64]], share: float) -> list[Share]:
    """Select a share of all texts: the same ones as `routing.policy.select` on a single list.

    Args:
        values: The gate's values of each partition.
        share: In [0, 1].

    Returns:
        What is queried in each partition: `round(share * n)` of all n texts.
    """
    together = np.concatenate([*values, np.zeros(0)])
    count = round(share * len(together))
    if count == 0:
        return [Share(np.inf, 0) for _ in values]
    above = float(np.partition(together, len(together) - count)[len(together) - count])
    left = count - int((together > above).sum())
    shares = []
    for part in values:
        equal = min(left, int((part == above).sum()))
        shares.append(Share(above, equal))
        left -= equal
    return shares


@dataclass(frozen=True)
class PredictWork:
    """Classifies tables with a saved model. Plain data: the model is a folder or Hub id, and loaded by `open`.

    Args:
        model: Folder or Hub id of a model. Every machine must be able to read it.
        classes: K class names as the answers spell them; None: those of the model.
        text_column: Column with the texts. A column `llm_scores` is used as in `pipelines.inference.run`.
        empty_texts: `"error"`, or `"skip"`: a text that is missing, empty or blank gets no answer.
        routing: Options of `Routing.parse` other than the budget (`llm_policy`, `target_accuracy`, `max_risk`, ...).
        encoding: Options of `TextEncoder` (`batch_size`, `max_length`, `bf16`).
        scoring: Options of `scoring.build_scorer`, such as `{"store": "postgresql://team-server/scores"}`.
        device: Torch device; None: a GPU if there is one.
        top_k: See `AnswerColumns`.
        with_sources: See `AnswerColumns`.
        text_pair_column: Column with the second texts of pairs; None: `text_pair`, if there is one.
    """

    model: str
    classes: list[Any] | None = None
    text_column: str = "text"
    empty_texts: str = "error"
    routing: dict[str, Any] = field(default_factory=dict)
    encoding: dict[str, Any] = field(default_factory=dict)
    scoring: dict[str, Any] = field(default_factory=dict, repr=False)  # the store's URL may hold a password
    device: str | None = None
    top_k: int | None = None
    with_sources: bool = False
    text_pair_column: str | None = None

    def open(self) -> "PredictWorker":
        """Load the model."""
        return PredictWorker(self)

    def schema(self, given: "pa.Schema") -> "pa.Schema":
        """The schema of the answers to tables of the schema `given`. Reads the model's config alone."""
        import pyarrow as pa

        config = LabelFusionConfig.from_pretrained(self.model)
        control = Routing.parse(config, **self.routing).control
        classes = self.classes or config.label_names
        return pa.schema(
            [*given, *AnswerColumns(config, classes, self.top_k, self.with_sources, control).arrow_fields()]
        )

    def map_batches(self, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """Classify record batches one by one, for engines that map such functions, as `mapInArrow` of Spark does.

        The model is loaded once in each process. A share as the policy is that of each batch.
        """
        import pyarrow as pa

        key = json.dumps(asdict(self), sort_keys=True, default=str)
        worker = _opened.get(key)
        if worker is None:
            _opened.clear()  # one model in memory
            worker = _opened[key] = self.open()
        for batch in batches:
            yield from worker.classify(pa.Table.from_batches([batch]))[0].to_batches()


_opened: dict[str, "PredictWorker"] = {}  # of `map_batches`


class PredictWorker:
    """A loaded model that classifies one table after the other.

    Args:
        work: What to do.

    Raises:
        ValueError: For invalid options.
        OSError: If there is no such model.
    """

    def __init__(self, work: PredictWork) -> None:
        self.work = work
        device = work.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = LabelFusionForSequenceClassification.from_pretrained(work.model).to(device).eval()
        self.config: LabelFusionConfig = model.config
        self.encoder = TextEncoder(model, load_tokenizer(work.model), **work.encoding)
        self.routing = Routing.parse(self.config, **work.routing)
        classes = work.classes or self.config.label_names
        control = self.routing.control
        self.columns = AnswerColumns(self.config, classes, work.top_k, work.with_sources, control)
        self.scorers = DeferredScorers(self.config, None, {"embed": self._embed, **work.scoring})

    def classify(
        self,
        table: "pa.Table",
        budget: "Budget | None" = None,
        encoded: Encoded | None = None,
        share: Share | None = None,
    ) -> "tuple[pa.Table, Counts]":
        """Classify the rows of a table.

        Args:
            table: Any columns, with the text column among them.
            budget: Limit in US dollars that partitions may share.
            encoded: The result of `encode` for the same table.
            share: With a share as the policy, what is queried here, from `share_of`. Without it, the share of this
                table.

        Returns:
            The table with the columns of `AnswerColumns`, and what it has taken.

        Raises:
            ValueError: For texts, scores or columns that do not fit. Nothing has been queried then.
            ScoringError: If an LLM cannot be queried at all (no key, unknown model).
        """
        import pyarrow as pa

        rows = self._rows(table)
        encoder = self.encoder if encoded is None else Recalled(self.encoder, encoded.embeddings)
        choose = None if encoded is None or share is None else (lambda *_, **__: share.mask(encoded.values))
        found = self._run(rows, encoder, replace(self.routing, budget=budget), choose)
        fields = self.columns.arrow_fields()
        answers = [self._as_cells(answer) for answer in self.columns.rows(found)]
        for kind in fields:
            table = table.append_column(kind, pa.array([answer[kind.name] for answer in answers], kind.type))
        reasons: dict[str, int] = {}
        for reason in found.errors.values():
            reasons[str(reason)] = reasons.get(str(reason), 0) + 1
        asked, cost_usd = int(found.llm_called.sum()), found.total_cost_usd
        counts = Counts(len(found), asked, len(found.errors), 0, cost_usd, reasons)
        return table.replace_schema_metadata(None), counts

    def encode(self, table: "pa.Table") -> Encoded:
        """The first pass of a share: encode the texts, query nothing."""
        if self.routing.speed != "full":
            raise ValueError(
                f"`speed`={self.routing.speed!r} does not go with a share of the texts of several files: its first "
                "pass encodes them all. Give `llm_policy` 'auto', 'never' or 'always', or `speed` 'full'."
            )
        recorder = _Recorder(self.encoder)
        values: list[NDArray[np.float64]] = []

        def choose(logits: NDArray[np.floating], novelty: NDArray[np.floating]) -> NDArray[np.bool_]:
            probs = to_probabilities(logits, self.config.multi_label)
            calibration, multi_label = self.config.calibration, self.config.multi_label
            values.append(gate_values(probs, calibration, multi_label, novelty=novelty)[0])
            return np.zeros(len(logits), dtype=bool)

        self._run(self._rows(table), recorder, self.routing, choose)
        embeddings = torch.cat(recorder.made) if recorder.made else torch.zeros(0, self.config.embedding_size)
        return Encoded(embeddings.contiguous(), np.concatenate([*values, np.zeros(0)]))

    def _run(self, rows: list[Row], encoder: Any, routing: Routing, choose: Any) -> Inference:
        parts = list(infer(encoder, rows, routing, self.scorers, choose))
        return Inference.concatenate(parts or [Inference.empty(self.config)])

    def _rows(self, table: "pa.Table") -> list[Row]:
        texts = column_texts(table, self.work.text_column, self.work.text_pair_column)
        if taken := sorted(set(self.columns.names) & set(table.column_names)):
            raise ValueError(f"The table has the columns {taken} already: rename or drop them.")
        scores = table.column(SCORE_COLUMN).to_pylist() if SCORE_COLUMN in table.column_names else None
        if scores is not None:
            scores = [json.loads(given) if isinstance(given, str) and given else given or None for given in scores]
        return read_inputs(texts, scores, self.work.empty_texts)

    @staticmethod
    def _as_cells(answer: dict[str, Any]) -> dict[str, Any]:
        if "sources" in answer:
            answer["sources"] = json.dumps(answer["sources"], ensure_ascii=False)
        return answer

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings for prompts with the nearest examples."""
        found = encode_texts(self.encoder.model, self.encoder.tokenizer, texts, **self.work.encoding)
        return found.numpy()[:, : self.config.hidden_size]


class _Recorder:
    """An encoder that keeps what it has encoded."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.model, self.batch_size, self.progress = encoder.model, encoder.batch_size, False
        self._encoder = encoder
        self.made: list[torch.Tensor] = []

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        self.made.append(self._encoder(texts))
        return self.made[-1]


class Recalled:
    """An encoder whose outputs are known, for texts in their order."""

    def __init__(self, encoder: TextEncoder, embeddings: torch.Tensor) -> None:
        self.model, self.batch_size, self.progress = encoder.model, encoder.batch_size, False
        self._embeddings = embeddings
        self._place = 0

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """The next `len(texts)` embeddings."""
        start, self._place = self._place, self._place + len(texts)
        return self._embeddings[start : self._place]
