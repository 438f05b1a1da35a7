"""Fine-tuning with a weight for each row."""

from typing import Any

import torch

from ..collator import LabelFusionDataCollator
from ..losses import Weighted, log_loss
from ..trainer import LabelFusionTrainer

WEIGHT_KEY = "weight"


class WeightedRowsCollator(LabelFusionDataCollator):
    """As its base, with a tensor float32 `(batch,)` of the rows' entries `weight`."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Make the batch."""
        return super().__call__(rows) | {WEIGHT_KEY: torch.tensor([float(row[WEIGHT_KEY]) for row in rows])}


class WeightedRowsTrainer(LabelFusionTrainer):
    """Minimises the model's loss on rows without LLM scores, weighted by row."""

    def compute_loss(  # type: ignore[override]
        self, model: torch.nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        """The mean of weight times loss over the batch."""
        targets = Weighted(inputs.pop("labels"), inputs.pop(WEIGHT_KEY))
        outputs, config = model(**inputs), self._config()
        loss = log_loss(outputs.encoder_logits.float(), targets, config.multi_label).mean()
        # Without LLM scores both losses of the model are that of the encoder; multi-label: the mean over the classes.
        loss = loss * (1 + config.encoder_loss_weight) / (config.num_labels if config.multi_label else 1)
        return (loss, outputs) if return_outputs else loss
