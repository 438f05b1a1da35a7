"""One run over labelled texts: what every source answered, and what is true."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from ...pipelines.formatting import source_names
from ...routing.decisions import widen
from ...routing.run_options import Routing
from ..comparison import Source, truth_matrix

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

    from ...configuration import LabelFusionConfig
    from ...pipelines.inference_result import Inference
    from ...training.data import LabelledTexts

FUSION, ENCODER = "Fusion", "Encoder alone"


@dataclass(frozen=True)
class Measurement:
    """The answers of all sources for n labelled texts. K classes: those of the model, then those that it does not know.

    Args:
        config: The model's config.
        table: The texts and labels.
        classes: Names of the K classes.
        truth: bool `(n, K)`.
        result: The answers, with scores and costs.
        sources: Fusion, encoder and LLMs, with decisions; the fusion alone if the model has no LLM.
        routing: Policy and limits of the run.
        seconds: Duration of the run.
        training: The report of `fit`; empty if there is none.
    """

    config: "LabelFusionConfig"
    table: "LabelledTexts"
    classes: list[str]
    truth: NDArray[np.bool_]
    result: "Inference"
    sources: list[Source]
    routing: Routing
    seconds: float
    training: dict[str, Any]

    @classmethod
    def of(cls, clf: "AutoFusionClassifier", data: Any, routing: Routing, llm_scores: Any = None) -> Self:
        """Run a classifier over labelled data, as for `fit`."""
        config, table = clf.model_.config, clf._prepare_measured(data)
        assert table.labels is not None
        classes = [*config.label_names, *table.unseen]
        started = time.perf_counter()
        result = clf._answer(table, routing, llm_scores)
        seconds = time.perf_counter() - started
        truth, sources = truth_matrix(table.labels, len(classes)), named_sources(result, config, len(classes))
        return cls(config, table, classes, truth, result, sources, routing, seconds, clf.report_)

    def __len__(self) -> int:
        return len(self.truth)

    @property
    def labels(self) -> NDArray[Any]:
        """int64 `(n,)`, or 0/1 `(n, K)`."""
        assert self.table.labels is not None
        return self.table.labels

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """bool `(n,)`: rows that the fusion has wrong."""
        return ~self.sources[0].right(self.truth)

    @property
    def class_rows(self) -> NDArray[np.int64] | None:
        """int64 `(K,)`: training rows of each class; None if the model does not tell."""
        known = self.training.get("class_rows")
        if not isinstance(known, list) or len(known) != self.config.num_labels:
            return None
        return np.array(known + [0] * len(self.table.unseen), dtype=np.int64)

    def row(self, i: int | np.integer) -> int:
        """Index in the data of the i-th row: rows without a text may have been left out."""
        return int(i if self.table.rows is None else self.table.rows[i])

    def names(self, chosen: NDArray[np.bool_]) -> list[str]:
        """Names of the classes of one row, bool `(K,)`."""
        return [self.classes[k] for k in np.flatnonzero(chosen)]


def named_sources(result: "Inference", config: "LabelFusionConfig", num_classes: int) -> list[Source]:
    """Fusion, encoder and LLMs as sources. Classes unknown to the model get no probability.

    Without an LLM, the fusion is the encoder, and there is this source alone.
    """
    settings = (config.multi_label, config.decision_rule)
    sources = [Source.make(FUSION, result.probabilities, *settings)]
    if config.num_providers:
        sources.append(Source.make(ENCODER, result.encoder_probabilities, *settings))
    for p, name in enumerate(source_names(config)):
        sources.append(Source.make(name, result.llm_scores[:, p], config.multi_label))
    for source in sources:
        source.probabilities = widen(source.probabilities, num_classes)
        source.decided = widen(source.decided, num_classes)
    return sources
