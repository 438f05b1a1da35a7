"""The part of the model that is trained beside the encoder, as one module."""

from torch import nn

from ..configuration import LabelFusionConfig
from .baselines import BASELINES, BaselineFusion
from .fusion import FusionMLP, ScorePool

# Names of weights in files from before these modules were inside one.
OLD_NAMES = {r"^(encoder_head|score_pool|fusion_mlp|baseline)\.": r"classifier.\1."}


class ClassificationHead(nn.Module):
    """Linear head of the encoder, and fusion. The model calls its parts.

    The model has it as `classifier`, a name that PEFT knows: for `TaskType.SEQ_CLS` it trains and saves all of it.

    Args:
        config: The model's configuration.
    """

    def __init__(self, config: LabelFusionConfig) -> None:
        super().__init__()
        providers, num_labels = config.num_providers, config.num_labels
        self.encoder_head = nn.Linear(config.pooled_size, num_labels)
        self.score_pool = ScorePool(providers, num_labels)
        self.fusion_mlp: FusionMLP | None = None
        self.baseline: BaselineFusion | None = None
        if config.fusion == "mlp" and providers > 0:
            width = config.fusion_hidden_size
            self.fusion_mlp = FusionMLP(config.hidden_size, providers, num_labels, width, config.fusion_dropout)
        if config.fusion in BASELINES:  # in the place of the pool
            self.baseline = BaselineFusion(config.fusion, providers, num_labels, config.multi_label)
            self.score_pool.requires_grad_(False)

    def fusion_parameters(self) -> list[nn.Parameter]:
        """Those of the fusion that are trained, without the encoder's head."""
        parts = (self.score_pool, self.fusion_mlp, self.baseline)
        return [p for part in parts if part is not None for p in part.parameters() if p.requires_grad]
