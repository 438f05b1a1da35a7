"""Configuration of LabelFusion models."""

import math
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from .llm_provider import LLMProvider
from .secrets import refuse_secrets

FUSION_METHODS = ("mlp", "pool")
POOLING = ("mean", "cls")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


class LabelFusionConfig(PretrainedConfig):
    """Configuration of [`LabelFusionForSequenceClassification`].

    Args:
        encoder_config: Config of the encoder, or its dict. Default: RoBERTa's.
        llm_providers: Declared sources of LLM scores, in the order of the `num_providers` axis of `llm_scores`: model
            strings, dicts or `LLMProvider`s; stored as dicts.
        problem_type: `"single_label_classification"` (default) or `"multi_label_classification"`. Never guessed.
        class_descriptions: `{class name: description}` for the prompts.
        pooling: The encoder's embedding: `"mean"` over the tokens or `"cls"`, the first token.
        fusion: `"mlp"` (pool of the sources plus `FusionMLP`) or `"pool"` (no MLP).
        fusion_hidden_size: Width of the `FusionMLP`.
        fusion_dropout: Dropout probability in the `FusionMLP`.
        classifier_dropout: Dropout probability before the encoder's head.
        score_floor: Smallest probability before a logarithm is taken of an LLM score.
        score_dropout: Probability with which training hides a provider's scores for a text.
        encoder_loss_weight: Weight of the loss of the encoder's own logits beside the fusion's.
        thresholds: Multi-label: probability from which each class is predicted. Default: 0.5 for all.
        calibration: `{"temperature": float, "encoder_temperature": float}` that divide `logits` and
            `encoder_logits`, and whatever the calibration wants to keep about itself.
        fusion_report: What was chosen when the fusion was fitted, and why. Plain data.
        **kwargs: `num_labels`, `id2label`, `label2id` and the rest of `PretrainedConfig`.

    Raises:
        ValueError: For values out of range, labels that contradict each other, or anything that looks like a key.
    """

    model_type = "labelfusion"
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        llm_providers: list[LLMProvider | str | dict[str, Any]] | None = None,
        problem_type: str = "single_label_classification",
        class_descriptions: dict[str, str] | None = None,
        pooling: str = "mean",
        fusion: str = "mlp",
        fusion_hidden_size: int = 64,
        fusion_dropout: float = 0.1,
        classifier_dropout: float = 0.1,
        score_floor: float = 1e-3,
        score_dropout: float = 0.1,
        encoder_loss_weight: float = 0.5,
        thresholds: list[float] | None = None,
        calibration: dict[str, Any] | None = None,
        fusion_report: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if encoder_config is None:
            encoder_config = {"model_type": "roberta"}
        if isinstance(encoder_config, dict):
            encoder_config = dict(encoder_config)
            encoder_config = AutoConfig.for_model(encoder_config.pop("model_type", "roberta"), **encoder_config)
        self.encoder_config = encoder_config
        self.llm_providers = [LLMProvider.from_any(p).to_dict() for p in llm_providers or []]
        self.class_descriptions = dict(class_descriptions or {})
        self.pooling = pooling
        self.fusion = fusion
        self.fusion_hidden_size = fusion_hidden_size
        self.fusion_dropout = fusion_dropout
        self.classifier_dropout = classifier_dropout
        self.score_floor = score_floor
        self.score_dropout = score_dropout
        self.encoder_loss_weight = encoder_loss_weight
        self.thresholds = None if thresholds is None else [float(t) for t in thresholds]
        self.calibration = {"temperature": 1.0, "encoder_temperature": 1.0, **(calibration or {})}
        self.fusion_report = fusion_report
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"`problem_type` is {problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}.")
        _check_labels(kwargs)
        super().__init__(problem_type=problem_type, **kwargs)  # type: ignore[arg-type]
        self._validate()

    @property
    def providers(self) -> list[LLMProvider]:
        """The declared providers as `LLMProvider` objects."""
        return [LLMProvider.from_any(p) for p in self.llm_providers]

    @property
    def num_providers(self) -> int:
        """Number of declared providers: the second axis of `llm_scores`."""
        return len(self.llm_providers)

    @property
    def multi_label(self) -> bool:
        """Whether several classes may be right at once."""
        return self.problem_type == "multi_label_classification"

    @property
    def label_names(self) -> list[str]:
        """Class names in the order of the logits."""
        id2label: dict[int, str] = self.id2label or {}  # type: ignore[assignment]
        return [id2label[i] for i in range(len(id2label))]  # JSON sorts "10" before "2"

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's embedding."""
        return self.encoder_config.hidden_size

    def to_dict(self) -> dict[str, Any]:
        """Plain data; refuses to serialise a credential that was assigned after construction."""
        data = super().to_dict()
        refuse_secrets({k: v for k, v in data.items() if k != "encoder_config"}, "LabelFusionConfig")
        return data

    def _validate(self) -> None:
        _choice("pooling", self.pooling, POOLING)
        _choice("fusion", self.fusion, FUSION_METHODS)
        if not (isinstance(self.fusion_hidden_size, int) and self.fusion_hidden_size > 0):
            raise ValueError(f"`fusion_hidden_size` must be a positive integer, got {self.fusion_hidden_size!r}.")
        for name in ("fusion_dropout", "classifier_dropout", "score_dropout"):
            _between(name, getattr(self, name), 0.0, 1.0)
        if not 0.0 < self.score_floor < 0.5:
            raise ValueError(f"`score_floor` must lie between 0 and 0.5, got {self.score_floor!r}.")
        if not self.encoder_loss_weight >= 0.0:
            raise ValueError(f"`encoder_loss_weight` must not be negative, got {self.encoder_loss_weight!r}.")
        for name in ("temperature", "encoder_temperature"):
            value = self.calibration[name]
            if not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
                raise ValueError(f"`calibration[{name!r}]` must be a positive number, got {value!r}.")
        if len(self.label_names) < 2 and not self.multi_label:
            raise ValueError(
                f"Single-label classification needs two classes at least, got `num_labels`={self.num_labels}."
            )
        names = self.label_names
        if len(set(names)) != len(names):
            raise ValueError(f"`id2label` names a class twice: {sorted({n for n in names if names.count(n) > 1})}.")
        if self.thresholds is not None:
            if not self.multi_label:
                raise ValueError("`thresholds` are for multi-label classification; this config is single-label.")
            if len(self.thresholds) != self.num_labels:
                raise ValueError(f"`thresholds` has {len(self.thresholds)} values for {self.num_labels} classes.")
            for value in self.thresholds:
                _between("thresholds", value, 0.0, 1.0)
        unknown = sorted(set(self.class_descriptions) - set(names))
        if unknown:
            raise ValueError(f"`class_descriptions` describes unknown classes {unknown}; the classes are {names}.")
        for provider in self.providers:
            strangers = sorted(set(provider.verbalizers) - set(names))
            if strangers:
                raise ValueError(
                    f"`verbalizers` of {provider.name!r} names unknown classes {strangers}; the classes are {names}."
                )
        refuse_secrets(self.llm_providers, "llm_providers")
        refuse_secrets(self.class_descriptions, "class_descriptions")


def _check_labels(kwargs: dict[str, Any]) -> None:
    id2label, num_labels = kwargs.get("id2label"), kwargs.get("num_labels")
    if id2label is None:
        return
    ids = sorted(int(i) for i in id2label)
    if ids != list(range(len(ids))):
        raise ValueError(f"`id2label` must number the classes 0 to {len(ids) - 1}, got {ids}.")
    if num_labels is not None and num_labels != len(ids):
        raise ValueError(f"`num_labels` is {num_labels} but `id2label` names {len(ids)} classes.")
    kwargs["id2label"] = {int(i): str(name) for i, name in id2label.items()}
    kwargs["label2id"] = {str(name): int(i) for i, name in id2label.items()}


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}; expected one of {', '.join(choices)}.")


def _between(name: str, value: Any, low: float, high: float) -> None:
    if not (isinstance(value, int | float) and low <= value <= high):
        raise ValueError(f"`{name}` must lie between {low} and {high}, got {value!r}.")
