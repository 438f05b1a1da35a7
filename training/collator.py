"""Builds training batches: padded tokens, `llm_scores` with NaN for missing answers, labels of the right type."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class LabelFusionDataCollator:
    """Pad a list of rows into a batch.

    Rows hold the tokenizer's output (`input_ids`, `attention_mask`, ...), optionally `llm_scores` (providers x classes;
    null for a missing provider or for all), and `label` or `labels` (an index, or a 0/1 vector).

    Args:
        tokenizer: Pads the tokens.
        num_providers: Second axis of `llm_scores`.
        num_labels: Third axis of `llm_scores`.
        multi_label: Whether labels are 0/1 vectors.
        pad_to_multiple_of: For tensor cores.
    """

    tokenizer: "PreTrainedTokenizerBase"
    num_providers: int
    num_labels: int
    multi_label: bool = False
    pad_to_multiple_of: int | None = None

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the batch: int64 tokens, int64 or float32 `labels`, float32 `llm_scores` `(batch, P, K)` if P > 0."""
        rows = [dict(row) for row in rows]
        scores = [row.pop("llm_scores", None) for row in rows]
        labels = [row.pop("labels", row.pop("label", None)) for row in rows]
        names = {"input_ids", "attention_mask", *self.tokenizer.model_input_names}
        tokens = [{k: v for k, v in row.items() if k in names} for row in rows]
        batch = dict(
            self.tokenizer.pad(
                tokens,
                padding=True,
                pad_to_multiple_of=self.pad_to_multiple_of,
                padding_side="right",
                return_attention_mask=True,
                return_tensors="pt",
            )
        )
        if self.num_providers:  # in every batch: several processes must train the same weights
            batch["llm_scores"] = torch.from_numpy(np.stack([self._scores(s) for s in scores]))
        if all(label is not None for label in labels):
            batch["labels"] = torch.from_numpy(self._labels(labels))
        return batch

    def _labels(self, labels: list[Any]) -> np.ndarray:
        try:
            return np.asarray(labels, dtype=np.float32 if self.multi_label else np.int64)
        except (TypeError, ValueError):
            expected = "0/1 vectors, one number a class" if self.multi_label else "indices of classes"
            wrong = next((label for label in labels if isinstance(label, str | list | tuple)), labels[0])
            raise ValueError(
                f"The Trainer takes labels that are {expected}; got {wrong!r}. For names, use the model's own order: "
                "`row['labels'] = model.config.label2id[name]`, or `dataset.cast_column('label', ClassLabel(names))`."
            ) from None

    def _scores(self, scores: Any) -> np.ndarray:
        out = np.full((self.num_providers, self.num_labels), np.nan, dtype=np.float32)
        if scores is None:
            return out
        if len(scores) != self.num_providers:
            raise ValueError(
                f"`llm_scores` has {len(scores)} providers in a row; the config declares {self.num_providers}."
            )
        for p, row in enumerate(scores):
            if row is not None:
                values = np.asarray([np.nan if v is None else v for v in row], dtype=np.float32)
                if values.shape != (self.num_labels,):
                    raise ValueError(f"`llm_scores` has {values.size} scores for {self.num_labels} classes.")
                out[p] = values
        return out
