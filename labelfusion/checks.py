"""Checks of `AutoFusionClassifier.fit`, made before any work starts or any cost arises."""

import logging
import math
from typing import Any

import numpy as np

from .llms import declaration
from .modeling_labelfusion.hardware import check_backend, check_bf16
from .saving import torch_device
from .training.calibration.calibration_maps import CALIBRATIONS
from .training.calibration.thresholds import METRICS
from .training.data import LabelledTexts
from .training.encoder.low_rank import check_peft
from .training.fit_options import ENCODER_TRAINING, MAX_TRAIN_TOKENS
from .training.label_model import LABEL_MODELS

MANY_ROWS = 20  # from which on a class for each row is taken for a mistake

logger = logging.getLogger(__name__)


def check_options(clf: Any) -> None:
    """Check the constructor arguments of an `AutoFusionClassifier`; scikit-learn's convention is to do so in `fit`.

    Raises:
        ValueError: Naming the argument.
    """
    if clf.encoder_training not in ENCODER_TRAINING:
        raise ValueError(
            f"`encoder_training` is {clf.encoder_training!r}; expected one of {', '.join(ENCODER_TRAINING)}."
        )
    if clf.encoder_training == "lora":
        check_peft()
    if clf.calibration not in CALIBRATIONS:
        raise ValueError(f"`calibration` is {clf.calibration!r}; expected one of {', '.join(CALIBRATIONS)}.")
    if clf.threshold_metric not in METRICS:
        raise ValueError(f"`threshold_metric` is {clf.threshold_metric!r}; expected one of {', '.join(METRICS)}.")
    if clf.empty_texts not in ("error", "skip"):
        raise ValueError(f"`empty_texts` is {clf.empty_texts!r}; expected 'error' or 'skip'.")
    if clf.label_model not in LABEL_MODELS:
        raise ValueError(f"`label_model` is {clf.label_model!r}; expected one of {', '.join(LABEL_MODELS)}.")
    for name in ("num_train_epochs", "batch_size", "train_batch_size", "max_length", "max_scored_rows"):
        value = getattr(clf, name)
        if value is None and name in ("num_train_epochs", "max_length"):
            continue
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    rate, minutes = clf.learning_rate, clf.max_train_minutes
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise ValueError(f"`learning_rate` must be a number above 0, got {rate!r}. Try 2e-5, or None: by its size.")
    if minutes is not None and not (isinstance(minutes, int | float) and 0 <= minutes < math.inf):
        raise ValueError(
            f"`max_train_minutes` must be a finite number, 0 or more, got {minutes!r}. None: training is never stopped."
        )
    tokens = clf.max_train_tokens
    if isinstance(tokens, bool) or not (isinstance(tokens, int | float) and 0 <= tokens < math.inf):
        raise ValueError(
            f"`max_train_tokens` must be a finite number of tokens, 0 or more, got {tokens!r}. {MAX_TRAIN_TOKENS:,} is "
            "usual."
        )
    price = clf.query_price
    if isinstance(price, bool) or not (isinstance(price, int | float) and 0 <= price < 1):
        raise ValueError(
            f"`query_price` must be a number from 0 to below 1, got {price!r}. 0.02: 50 queries for a right answer."
        )
    if clf.labels is not None and (distinct := len(set(map(str, clf.labels)))) < len(clf.labels):
        raise ValueError(
            f"`labels` must name each class once; it has {len(clf.labels)} values, {distinct} of them distinct. Labels "
            "of rows go into `fit(texts, labels)`."
        )
    torch_device(clf.device)
    check_bf16(clf.bf16)
    check_backend(clf.backend)
    layers = clf.trained_layers
    if layers is not None and not (isinstance(layers, int | float) and 0 < layers <= 1):
        raise ValueError(f"`trained_layers` must be a share above 0 and up to 1, got {layers!r}.")


def check_data(data: LabelledTexts) -> None:
    """Check that the data have enough rows, classes and distinct texts to learn from.

    Raises:
        ValueError: For fewer than 4 rows, a single class, a single text, or many rows that each have their own class.
    """
    labels = data.labels
    assert labels is not None  # `prepare` guarantees it
    if labels.ndim == 1 and len(np.unique(labels)) < 2:
        raise ValueError(f"All {len(data)} training rows have the class {data.names()[0]!r}; two are needed.")
    if len(data) < 4:
        raise ValueError(
            f"{len(data)} labelled rows are too few to fit and check a model; 4 is the minimum. Label more, or let an "
            "LLM label texts: docs/unlabelled.md."
        )
    if labels.ndim == 1 and len(data) >= MANY_ROWS and len(np.unique(labels)) == len(data):
        raise ValueError(
            f"The data have {len(data)} classes for {len(data)} rows, each once: are texts and labels swapped? "
            "`fit(texts, labels)`, or name the columns by `text_column` and `label_column`."
        )
    if len(set(data.texts)) < 2:
        raise ValueError(
            f"All {len(data)} training rows have the same text; two different ones are needed. Is `text_column` right?"
        )
    counts = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(data.classes))
    empty = [str(c) for c, n in zip(data.classes, counts, strict=True) if n == 0]
    if empty:
        logger.warning("No training row has the class %s; only the LLM can predict it.", ", ".join(empty))


def only_texts(data: Any) -> bool:
    """Whether `data` is a list of texts without labels."""
    return isinstance(data, list | np.ndarray) and len(data) > 0 and all(isinstance(text, str) for text in data)


def check_unlabelled(clf: Any, any_labels: bool, llms: list[Any], sample_weight: Any) -> None:
    """Check that texts without labels can be learnt from.

    Raises:
        ValueError: Without an LLM, without class names, or where prompts need labelled examples that are not there.
    """
    if not llms:
        raise ValueError("Texts without labels need an LLM that labels them: `llm` is None. Or give `y`.")
    if sample_weight is not None:
        raise ValueError("`sample_weight` cannot be given with texts without labels: there is none for each of them.")
    if any_labels:
        return
    if clf.labels is None or len(clf.labels) < 2:
        raise ValueError(
            f"Texts without labels need the names of the classes: `labels` is {clf.labels!r}. "
            "Try AutoFusionClassifier(labels=['spam', 'ham'], ...), with `class_descriptions` where names say little."
        )
    needing = [name for name in (declaration(llm).prompt for llm in llms) if name in ("few-shot", "nearest")]
    if needing or clf.write_guidelines:
        what = f"prompt={needing[0]!r}" if needing else "write_guidelines=True"
        raise ValueError(f"{what} needs labelled examples, and there are none. Give a few labelled rows as `train`.")
