"""Options of the recipe, of fine-tuning and of contrastive training."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..modeling_labelfusion.encoding import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification

ENCODER_TRAINING = ("auto", "probe", "contrastive", "full", "lora")
LOW_RANK = 16
MAX_TRAIN_TOKENS = 500_000
QUERY_PRICE = 0.02


@dataclass
class FinetuneOptions:
    """Options of fine-tuning the encoder.

    Args:
        num_train_epochs: Maximum number of epochs; held-out rows decide when to stop. Default: 3, or 5 for up to 1,000
            rows.
        learning_rate: Peak learning rate of the encoder. Default: 2e-5, or 1e-4 for encoders below 50M parameters.
        batch_size: Rows per step.
        trained_layers: Share of the encoder's layers, from the top, that is trained. Default: all, but 0.4 on a CPU,
            which takes less than half of the time.
        low_rank: Rank of LoRA updates of all linear layers, which are trained in place of the layers themselves; 0: no
            LoRA. The default learning rates are then ten times those above.
        max_length: Longest input in tokens. Default: the limit of tokenizer and encoder.
        seed: Seed of the shuffling and dropout.
        progress: Show progress bars.
        trainer_args: More arguments for `TrainingArguments`, such as `bf16` or `report_to`.
    """

    num_train_epochs: int | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    trained_layers: float | None = None
    low_rank: int = 0
    max_length: int | None = None
    seed: int = 0
    progress: bool = False
    trainer_args: dict[str, Any] | None = None


@dataclass
class ContrastiveOptions:
    """Options of contrastive training of the encoder.

    Args:
        max_steps: Maximum number of steps. Default: 0.4 per row, between 20 and 100.
        learning_rate: Peak learning rate. Default: 2e-4, or 4e-5 for encoders of 50M parameters or more.
        batch_size: Texts per step.
        temperature: Temperature of the similarities. With a small one, the closest wrong pairs count most.
        trained_layers: Share of the encoder's layers, from the top, that is trained.
        max_length: Longest input in tokens. Default: the limit of tokenizer and encoder.
        seed: Seed of batches and dropout.
    """

    max_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int = 32
    temperature: float = 0.1
    trained_layers: float = 0.5
    max_length: int | None = None
    seed: int = 0

    def steps(self, rows: int) -> int:
        """The maximum number of steps for a number of rows."""
        return self.max_steps or min(max(round(0.4 * rows), 20), 100)


@dataclass
class FitOptions:
    """Options of fitting a model.

    Args:
        encoder_training: `"probe"` keeps the encoder frozen; `"contrastive"` trains its upper layers contrastively, for
            30 to 1,000 rows, see `contrastive`; `"full"` fine-tunes it; `"lora"` does so with low-rank updates, which
            need less memory, by PEFT, and merges them; `"auto"` tries contrastive training for that
            many rows, then fine-tuning, each if it fits into `max_train_tokens`, and keeps what is better on held-out
            rows.
        max_train_tokens: Work limit of contrastive training, and of fine-tuning with `"auto"`: tokens that go through
            the trained layers, over all steps, epochs and folds; tokens that are only encoded count half. It reduces
            steps, epochs and folds, or skips the training, in the same way on every machine.
        max_train_minutes: Minutes after which training of the encoder is stopped, in whichever way it is trained. The
            frozen encoder is then kept, and the report says so (`stopped`). Default: never, because a stop by the
            clock depends on the machine.
        extra_sources: Complement the encoder's last layer by inner layers (`pooling_layers`), a TF-IDF head and a
            kernel head (`LexicalHead`, `KernelHead`), with stacking weights from out-of-fold outputs. The kernel head
            stores embeddings of training texts.
        calibration: `"auto"` calibrates the encoder's side, each LLM and the fused answer as far as it helps on
            held-out rows, and for multi-label may add a `LabelSetHead`. `"none"` and `"temperature"` do only that. With
            enough rows, `"vector"` fits a scale and bias per class of the encoder's side, and `"isotonic"` maps graded
            LLM scores and the fused answer, in addition to temperatures.
        threshold_metric: Multi-label: metric for tuning the thresholds, `"accuracy"` (exact match), `"micro_f1"` or
            `"macro_f1"`.
        query_price: Price of an LLM query for `llm_policy="auto"`, in right answers: 0.02 means that 50 queries must
            bring one more right answer, as estimated on held-out rows.
        label_model: How the labels of several LLMs are combined for texts without labels, one of `LABEL_MODELS`.
        votes: Rows with the same text are votes of annotators: the figures of the report count each text once, with
            its majority label.
        finetune: Options of the fine-tuning.
        batch_size: Texts per forward pass when encoding.
        bf16: Encode in bfloat16, see `encode_texts`.
        seed: Seed of folds and training.
        progress: Show progress bars.
    """

    encoder_training: str = "auto"
    max_train_tokens: int = MAX_TRAIN_TOKENS
    max_train_minutes: float | None = None
    extra_sources: bool = True
    calibration: str = "auto"
    threshold_metric: str = "accuracy"
    query_price: float = QUERY_PRICE
    label_model: str = "auto"
    votes: bool = False
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)
    batch_size: int = 32
    bf16: bool | str = False
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.encoder_training == "lora" and not self.finetune.low_rank:
            self.finetune = replace(self.finetune, low_rank=LOW_RANK)

    def text_encoder(
        self, model: "LabelFusionForSequenceClassification", tokenizer: "PreTrainedTokenizerBase"
    ) -> TextEncoder:
        """The model with its tokenizer and the encoding options."""
        return TextEncoder(model, tokenizer, self.batch_size, self.finetune.max_length, self.bf16, self.progress)
