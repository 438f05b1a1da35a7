"""The metrics as Hugging Face `evaluate` modules, for `evaluate.combine` and `evaluate.save`. Nothing is downloaded.

Use `evaluate.combine([Accuracy(), F1(), Calibration()])`; for multi-label, pass `config_name="multilabel"` to each.
Predictions are probabilities, `(n, K)`; references are classes `(n,)` or, for `"multilabel"`, 0/1 `(n, K)`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

from .metrics import classification_metrics


class _Module(evaluate.Metric):
    scores: tuple[str, ...] = ()

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in ("default", "multilabel"):
            raise ValueError(f"`config_name` is {self.config_name!r}; expected 'default' or 'multilabel'.")
        number = datasets.Value("int32")
        several = self.config_name == "multilabel"
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").strip(),
            citation="",
            inputs_description="\npredictions: probabilities (n, K); references: classes (n,), or 0/1 (n, K).",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Sequence(number) if several else number,
                }
            ),
        )

    def _compute(
        self, predictions: Any, references: Any, thresholds: list[float] | None = None, min_labels: int = 0
    ) -> dict[str, float]:
        probabilities, labels = np.asarray(predictions), np.asarray(references)
        several = self.config_name == "multilabel"
        found = classification_metrics(probabilities, labels, several, thresholds, min_labels)
        return {name: found[name] for name in self.scores}


class Accuracy(_Module):
    """Share of rows with the correct class; multi-label: with exactly the correct set of classes."""

    scores = ("accuracy",)


class F1(_Module):
    """Macro and micro F1."""

    scores = ("macro_f1", "micro_f1")


class Calibration(_Module):
    """Log loss (nats), Brier score and expected calibration error (15 bins of equal mass)."""

    scores = ("log_loss", "brier", "ece")
