"""How a model is fitted: the options of the recipe, of fine-tuning and of contrastive training."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..modeling_labelfusion.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification

ENCODER_TRAINING = ("auto", "probe", "contrastive", "full")


@dataclass
class FinetuneOptions:
    """How the encoder is fine-tuned.

    Args:
        num_train_epochs: Most epochs; held-out rows say after which to stop. Default: 3, or 5 for up to 1,000 rows.
        learning_rate: Peak learning rate of the encoder. Default: 2e-5, or 1e-4 for encoders below 50M parameters.
        batch_size: Rows a step.
        trained_layers: Share of the encoder's layers, from the top, that is trained. Default: all of them, but 0.4 on
            a CPU, less than half of the time.
        max_length: Tokens kept of a text. Default: as many as tokenizer and encoder allow.
        seed: Seed of the shuffling and dropout.
        progress: Show progress bars.
        trainer_args: More arguments for `TrainingArguments`, such as `bf16` or `report_to`.
    """

    num_train_epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    trained_layers: float | None = None
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    trainer_args: dict[str, Any] | None = None


@dataclass
class ContrastiveOptions:
    """How the encoder is trained contrastively.

    Args:
        max_steps: Most steps.
        learning_rate: Peak learning rate. Default: 2e-4, or 4e-5 for encoders of 50M parameters or more.
        batch_size: Texts in one step.
        temperature: Of the similarities; small: the closest wrong pairs count most.
        trained_layers: Share of the encoder's layers, from the top, that is trained.
        max_length: Tokens kept of a text. Default: as many as tokenizer and encoder allow.
        seed: Seed of batches and dropout.
    """

    max_steps: int = 100
    learning_rate: float | None = None
    batch_size: int = 32
    temperature: float = 0.1
    trained_layers: float = 0.5
    max_length: int | None = None
    seed: int = 0


@dataclass
class FitOptions:
    """How a model is fitted.

    Args:
        encoder_training: `"probe"` keeps the encoder frozen; `"contrastive"` trains its upper layers contrastively, for
            30 to 1,000 rows, see `contrastive`; `"full"` fine-tunes it; `"auto"` tries the former where rows are that
            few, then fine-tuning, each if its estimated time stays below `max_train_minutes`, and keeps what is better
            on held-out rows.
        max_train_minutes: Bound of contrastive training, and of fine-tuning with `"auto"`: fewer steps, epochs and
            folds, or none.
        extra_sources: Let inner layers (`pooling_layers`), words and labelled neighbours (`LexicalHead`, `KernelHead`)
            complement the encoder's last layer, the heads with stacking weights from out-of-fold outputs. The kernel
            head keeps embeddings of training texts.
        calibration: `"auto"` gives the encoder's side, each LLM and the answer as much as held-out rows show to help.
            `"none"` and `"temperature"` go no further; with rows enough, `"vector"` is a scale and bias for each class
            of the encoder's side, `"isotonic"` maps graded LLM scores and the answer, beside temperatures. Multi-label,
            `"auto"` may add a `LabelSetHead`.
        threshold_metric: Multi-label: what the thresholds are tuned for, `"accuracy"` (exact match), `"micro_f1"` or
            `"macro_f1"`.
        finetune: Options of the fine-tuning.
        batch_size: Texts in one forward when encoding.
        bf16: Encode in bfloat16, see `encode_texts`.
        seed: Seed of folds and training.
        progress: Show progress bars.
    """

    encoder_training: str = "auto"
    max_train_minutes: float = 5.0
    extra_sources: bool = True
    calibration: str = "auto"
    threshold_metric: str = "accuracy"
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    batch_size: int = 32
    bf16: bool = False
    seed: int = 0
    progress: bool = False

    def text_encoder(
        self, model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase"
    ) -> TextEncoder:
        """The model with its tokenizer, as these options encode texts."""
        return TextEncoder(model, tokenizer, self.batch_size, self.finetune.max_length, self.bf16, self.progress)
