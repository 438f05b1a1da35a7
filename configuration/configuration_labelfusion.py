"""Configuration of LabelFusion models."""

import copy
import math
import os
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, PretrainedConfig

from .class_change import CLASS_OPTIONS, adapt_to_classes
from .config_checks import FORMAT, check_calibration, check_format, check_keys, check_layers, check_sizes
from .custom_code import AUTO_MAP, INSTALLED, NEEDS_PACKAGE, RegisteredPipelines, custom_pipelines
from .exporter import exporter
from .llm_provider import LLMProvider
from .origin import foreign_source
from .secrets import refuse_secrets
from .task import DecisionRule, Task

FUSION_METHODS = ("mlp", "pool", "weighted", "vote", "routing", "encoder", "llm")
POOLING = ("mean", "cls")
PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


class LabelFusionConfig(PretrainedConfig):
    """Configuration of [`LabelFusionForSequenceClassification`].

    Args:
        encoder_config: Config of the encoder, or its dict. Default: RoBERTa's.
        llm_providers: Declared sources of LLM scores, in the order of the `num_providers` axis of `llm_scores`: model
            strings, dicts or `LLMProvider`s (or a single one); stored as dicts.
        problem_type: `"single_label_classification"` (default) or `"multi_label_classification"`. Never guessed.
        class_descriptions: `{class name: description}` for the prompts.
        pooling: The encoder's embedding: `"mean"` over the tokens or `"cls"`, the first token.
        pooling_layers: Inner layers, as `hidden_states` counts them, whose embeddings the linear head sees beside that
            of the last one.
        fusion: `"mlp"` (pool of the sources plus `FusionMLP`), `"pool"` (no MLP), or one of the baselines to compare
            with: `"weighted"` (average of probabilities), `"vote"` (majority), `"routing"` (best source by class),
            `"encoder"` (alone), `"llm"` (the best LLM alone, calibrated).
        fusion_hidden_size: Width of the `FusionMLP`.
        fusion_dropout: Dropout probability in the `FusionMLP`.
        classifier_dropout: Dropout probability before the encoder's head.
        lexical_size: Rows of the lexical (TF-IDF) head beside the encoder; 0: there is none.
        kernel_size: Landmarks of the kernel head, which compares a text with labelled ones; 0: there is none.
        novelty_size: Directions of the novelty head, which gives an out-of-distribution score; 0: there is none.
        inner_novelty_size: Directions of the one that sees the last of the `pooling_layers`, where the encoder still
            tells the style of a text; 0: there is none.
        label_set_size: Label sets of the label-set head, which models the co-occurrence of classes; 0: there is none.
        quick_size: Rows of the tables of the quick head, which answers easy texts without the encoder (`speed`); 0:
            there is none.
        score_floor: Smallest probability before a logarithm is taken of an LLM score.
        score_dropout: Probability with which training masks a provider's scores for a text.
        encoder_loss_weight: Weight of the loss of the encoder's own logits beside the fusion's.
        thresholds: Multi-label: probability from which each class is predicted. Default: 0.5 for all.
        text_pairs: Whether the model was fitted on pairs of texts; single texts are then an error.
        min_labels: Multi-label: fewest classes predicted for a text; 1 where every training text has a class.
        calibration: `{"temperature": float, "encoder_temperature": float}` that divide `logits` and
            `encoder_logits`; monotone maps, each two lists of knots as `monotone_map` takes them: `"score_maps"`, one
            or `None` a provider, of its scores' logits, and `"answer_map"` of the fused logits; and whatever the
            calibration wants to keep about itself.
        fusion_report: What was chosen when the fusion was fitted, and why. Plain data.
        **kwargs: `num_labels`, `id2label`, `label2id` and the rest of `PretrainedConfig`.

    Raises:
        ValueError: For values out of range, labels that contradict each other, or anything that looks like a key.
    """

    model_type = "labelfusion"
    if TYPE_CHECKING:
        num_labels: int  # never None here
        id2label: dict[int, str]
    sub_configs = {"encoder_config": AutoConfig}  # noqa: RUF012
    keys_to_ignore_at_inference = ["encoder_logits", "hidden_states", "attentions"]  # noqa: RUF012  # by the Trainer

    def __init__(
        self,
        encoder_config: PretrainedConfig | dict[str, Any] | None = None,
        llm_providers: list[LLMProvider | str | dict[str, Any]] | LLMProvider | str | dict[str, Any] | None = None,
        problem_type: str = "single_label_classification",
        class_descriptions: dict[str, str] | None = None,
        pooling: str = "mean",
        pooling_layers: list[int] | None = None,
        fusion: str = "mlp",
        fusion_hidden_size: int = 64,
        fusion_dropout: float = 0.1,
        classifier_dropout: float = 0.1,
        lexical_size: int = 0,
        kernel_size: int = 0,
        novelty_size: int = 0,
        inner_novelty_size: int = 0,
        label_set_size: int = 0,
        quick_size: int = 0,
        score_floor: float = 1e-3,
        score_dropout: float = 0.1,
        encoder_loss_weight: float = 0.5,
        thresholds: list[float] | None = None,
        min_labels: int = 0,
        text_pairs: bool = False,
        calibration: dict[str, Any] | None = None,
        fusion_report: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._read_saved(kwargs)
        encoder_config = _as_config(encoder_config)
        heads = {
            "lexical_size": lexical_size,
            "kernel_size": kernel_size,
            "novelty_size": novelty_size,
            "inner_novelty_size": inner_novelty_size,
            "label_set_size": label_set_size,
            "quick_size": quick_size,
        }
        check_sizes(kwargs.get("num_labels"), llm_providers, encoder_config, heads)
        self.format_version = FORMAT
        self.encoder_config = encoder_config
        if kwargs.get("attn_implementation") is None:  # the base class would reset the encoder's
            kwargs["attn_implementation"] = encoder_config._attn_implementation
        if isinstance(llm_providers, LLMProvider | str | dict):
            llm_providers = [llm_providers]
        declared = [LLMProvider.from_any(p) for p in llm_providers or []]
        self.llm_providers = [p.to_dict() for p in declared]
        self._llm_sources = [p.source for p in declared]  # the model on the Hub that declared each; not saved
        self.class_descriptions = dict(class_descriptions or {})
        self.pooling, self.pooling_layers = pooling, list(pooling_layers or [])
        self.fusion, self.fusion_hidden_size = fusion, fusion_hidden_size
        self.fusion_dropout, self.classifier_dropout = fusion_dropout, classifier_dropout
        self.lexical_size, self.kernel_size = lexical_size, kernel_size
        self.novelty_size, self.inner_novelty_size = novelty_size, inner_novelty_size
        self.label_set_size, self.quick_size = label_set_size, quick_size
        self.score_floor, self.score_dropout = score_floor, score_dropout
        self.encoder_loss_weight = encoder_loss_weight
        self.thresholds = None if thresholds is None else [float(t) if isinstance(t, Real) else t for t in thresholds]
        self.min_labels, self.text_pairs = min_labels, bool(text_pairs)
        self.calibration = {"temperature": 1.0, "encoder_temperature": 1.0, **(calibration or {})}
        self.fusion_report = fusion_report
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"`problem_type` is {problem_type!r}; expected one of {', '.join(PROBLEM_TYPES)}.")
        _check_labels(kwargs)
        super().__init__(problem_type=problem_type, **kwargs)  # type: ignore[arg-type]
        self._validate()
        self.to_dict()  # refuses secrets

    @property
    def providers(self) -> list[LLMProvider]:
        """The declared providers as `LLMProvider` objects, with the model on the Hub that declared them, if one did."""
        sources = [*getattr(self, "_llm_sources", []), *[None] * self.num_providers]
        return [
            replace(LLMProvider.from_any(p), source=self.source or source)
            for p, source in zip(self.llm_providers, sources, strict=False)
        ]

    @property
    def source(self) -> str | None:
        """The Hub id that the config was loaded from, or its path in a Hub cache; None if it is the user's own."""
        return foreign_source(self.name_or_path)

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
        return [self.id2label[i] for i in range(self.num_labels)]  # JSON sorts "10" before "2"

    @property
    def task(self) -> Task:
        """The classes, whether several of them may be right at once, and their descriptions."""
        return Task(self.label_names, self.multi_label, self.class_descriptions)

    @property
    def decision_rule(self) -> DecisionRule:
        """How probabilities become labels."""
        return DecisionRule(self.thresholds, self.min_labels)

    @property
    def self_contained(self) -> bool:
        """Whether the code of the model is saved with it, for those who have not installed the package. May be set."""
        return bool(getattr(self, "auto_map", None))

    @self_contained.setter
    def self_contained(self, value: bool) -> None:
        if value:
            self.auto_map = dict(AUTO_MAP)
        elif hasattr(self, "auto_map"):
            del self.auto_map

    @property
    def custom_pipelines(self) -> dict[str, Any]:
        """Read by `transformers.pipeline` to find the pipeline of this model."""
        return RegisteredPipelines(custom_pipelines()) if INSTALLED else custom_pipelines()

    @property
    def hidden_size(self) -> int:
        """Width of the encoder's embedding."""
        return self.encoder_config.hidden_size

    @property
    def pooled_size(self) -> int:
        """Width of the encoder's embedding and those of the `pooling_layers`."""
        return self.hidden_size * (1 + len(self.pooling_layers))

    @property
    def embedding_size(self) -> int:
        """Width of what the model's `encode` returns: the embeddings, the lexical head's logits, the novelty."""
        return self.pooled_size + (self.num_labels if self.lexical_size else 0) + int(self.novelty_size > 0)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PretrainedConfig:
        """The encoder's config: Transformers keeps the size of the vocabulary there when embeddings are resized."""
        return self.encoder_config.get_text_config(decoder=decoder, encoder=encoder)

    def __setattr__(self, key: str, value: Any) -> None:
        """As in Transformers. With other classes, what was written or fitted for the old ones is dropped."""
        old = self.__dict__.get("id2label") if key == "id2label" else None
        super().__setattr__(key, value)
        if old and isinstance(value, dict) and list(old.values()) != list(value.values()):
            adapt_to_classes(self, list(value.values()), renamed_only=len(old) == len(value))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in Transformers. The classes may be others than the saved ones: `num_labels`, `id2label`, `label2id`.

        Raises:
            ValueError: If it is the config of a model of another kind, or the classes contradict each other.
        """
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"This is a {kind!r} model, not a LabelFusion model. To put a new fusion head on it: "
                "`LabelFusionForSequenceClassification.from_encoder_pretrained(<its folder or Hub id>, labels=[...])`."
            )
        given = {name: kwargs.pop(name) for name in CLASS_OPTIONS if name in kwargs}
        classes = {name: value for name, value in given.items() if value is not None}
        loaded = super().from_dict(config_dict, **kwargs)
        if classes:
            config = loaded[0] if isinstance(loaded, tuple) else loaded
            _check_labels(classes)
            for name, value in classes.items():
                setattr(config, name, value)
            config._validate()
        return loaded

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Any:
        """As in Transformers. The config records where it was loaded from, whatever its file says."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config.name_or_path = str(pretrained_model_name_or_path)
        if config.source is not None:  # kept, even if a folder of that name is made later, or the config is passed on
            config._llm_sources = [config.source] * config.num_providers
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """Plain data; refuses to serialise a credential, also one that was assigned after construction."""
        data = super().to_dict()
        data.pop("_llm_sources", None)
        if self.self_contained:  # as they were loaded from the Hub, they name the repository that they came from
            data |= {"auto_map": dict(AUTO_MAP), "custom_pipelines": custom_pipelines()}
        else:
            data["auto_map"] = dict(NEEDS_PACKAGE)
        refuse_secrets(data, "LabelFusionConfig")
        return data

    def save_pretrained(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in Transformers; an error leaves the file as it is; a self-contained model keeps its code."""
        self.to_json_string()
        if self.self_contained and (known := exporter()) is not None:
            os.makedirs(save_directory, exist_ok=True)
            known.write_code(save_directory)
        super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)

    def _read_saved(self, kwargs: dict[str, Any]) -> None:
        """Check the other entries of a saved config, and drop those that are made anew."""
        refuse_secrets(kwargs, "LabelFusionConfig")
        for name in ("custom_pipelines", "_llm_sources"):
            kwargs.pop(name, None)
        auto_map = kwargs.pop("auto_map", None)
        if isinstance(auto_map, dict) and auto_map.keys() >= AUTO_MAP.keys():  # another names no code
            kwargs["auto_map"] = auto_map
        check_format(kwargs.pop("format_version", FORMAT))
        check_keys(type(self), kwargs)

    def _validate(self) -> None:
        _choice("pooling", self.pooling, POOLING)
        check_layers(self.pooling_layers, getattr(self.encoder_config, "num_hidden_layers", None))
        if self.inner_novelty_size and not (self.novelty_size and self.pooling_layers):
            raise ValueError(
                f"`inner_novelty_size` is {self.inner_novelty_size}, which needs a `novelty_size` and `pooling_layers` "
                f"(given: {self.novelty_size} and {self.pooling_layers}); give 0."
            )
        _choice("fusion", self.fusion, FUSION_METHODS)
        if not (isinstance(self.fusion_hidden_size, int) and self.fusion_hidden_size > 0):
            raise ValueError(f"`fusion_hidden_size` must be a positive integer, got {self.fusion_hidden_size!r}.")
        for name in ("fusion_dropout", "classifier_dropout", "score_dropout"):
            _between(name, getattr(self, name), 0.0, 1.0)
        if not (isinstance(self.score_floor, Real) and 0.0 < self.score_floor < 0.5):
            raise ValueError(f"`score_floor` must lie between 0 and 0.5, got {self.score_floor!r}.")
        _between("encoder_loss_weight", self.encoder_loss_weight, 0.0, math.inf)
        check_calibration(self.calibration, self.num_providers)
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
        if not (isinstance(self.min_labels, int) and 0 <= self.min_labels <= len(names)):
            raise ValueError(f"`min_labels` must lie between 0 and the number of classes, got {self.min_labels!r}.")
        unknown = sorted(set(self.class_descriptions) - set(names))
        if unknown:
            raise ValueError(f"`class_descriptions` describes unknown classes {unknown}; the classes are {names}.")
        for provider in self.providers:
            strangers = sorted(set(provider.verbalizers) - set(names))
            if strangers:
                raise ValueError(
                    f"`verbalizers` of {provider.name!r} names unknown classes {strangers}; the classes are {names}."
                )
            if provider.prior is not None and len(provider.prior) != self.num_labels:
                raise ValueError(
                    f"`prior` of {provider.name!r} has {len(provider.prior)} values for {self.num_labels} classes."
                )


def _as_config(encoder_config: PretrainedConfig | dict[str, Any] | None) -> PretrainedConfig:
    """A copy of the encoder's config; RoBERTa's by default."""
    encoder_config = copy.deepcopy({"model_type": "roberta"} if encoder_config is None else encoder_config)
    if isinstance(encoder_config, dict):
        return AutoConfig.for_model(encoder_config.pop("model_type", "roberta"), **encoder_config)
    return encoder_config


def _check_labels(kwargs: dict[str, Any]) -> None:
    """Make `id2label` and `label2id` agree with each other and with `num_labels`; either alone is enough."""
    id2label, label2id = kwargs.get("id2label"), kwargs.get("label2id")
    if id2label is None and label2id is None:
        return
    for name, value in (("id2label", id2label), ("label2id", label2id)):
        if not isinstance(value, dict | None):
            raise ValueError(f"`{name}` must be a dict, got {type(value).__name__}; dict(enumerate(names)) makes one.")
    pairs = (label2id or {}).items() if id2label is None else [(name, i) for i, name in id2label.items()]
    try:
        names = {int(i): str(name) for name, i in pairs}
    except (TypeError, ValueError):
        raise ValueError(f"`id2label` must map an index to each class name, got {id2label or label2id}.") from None
    if sorted(names) != list(range(len(names))):
        raise ValueError(f"`id2label` must number the classes 0 to {len(names) - 1}, got {sorted(names)}.")
    num_labels = kwargs.get("num_labels")
    if num_labels not in (None, len(names)):
        raise ValueError(f"`num_labels` is {num_labels} but `id2label` names {len(names)} classes.")
    if id2label is not None and label2id is not None and any(label2id.get(name) != i for i, name in names.items()):
        raise ValueError("`label2id` contradicts `id2label`; leave it out, it follows from the other.")
    kwargs["id2label"] = names
    kwargs["label2id"] = {name: i for i, name in names.items()}


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}; expected one of {', '.join(choices)}.")


def _between(name: str, value: Any, low: float, high: float) -> None:
    number = value  # as it is: there are integers too large for a float
    if not (isinstance(value, Real) and low <= number <= high):
        raise ValueError(f"`{name}` must lie between {low} and {high}, got {value!r}.")
