"""Transformers' own tests of models and configs, on encoders that people use, plain and with all that a fit adds."""

import unittest
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
import transformers_suite
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS
from tiny_encoders import COMMON, ENCODERS
from transformers import AutoConfig

try:
    suite, ConfigTester = transformers_suite.load()
except transformers_suite.UnavailableError as reason:
    pytest.skip(str(reason), allow_module_level=True)

ModelTesterMixin: Any = suite.ModelTesterMixin
BATCH, LENGTH, CLASSES, PROVIDERS = 3, 7, 3, 2
OPTIONS = {**ENCODERS, "mpnet": COMMON}
# What a fit adds. The heads are small, but the suite allows no model of a million weights: a lexical head has at least
# as many rows as there are buckets for pairs.
FITTED: dict[str, Any] = {
    "pooling_layers": [1],
    "lexical_size": PAIR_BUCKETS + COMMON["vocab_size"],
    "kernel_size": 5,
    "novelty_size": 4,
    "inner_novelty_size": 3,
}

# The model stands in the table of classification models, as one of the library itself would.
suite.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES = {
    **suite.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "labelfusion": LabelFusionForSequenceClassification.__name__,
}


class Inputs:
    """What the suite calls a model tester: makes configs and inputs."""

    is_training = True
    batch_size, seq_length, hidden_size, num_hidden_layers, num_attention_heads = BATCH, LENGTH, 32, 2, 4

    def __init__(self, encoder: str, scored: bool, **options: Any) -> None:
        self.encoder, self.scored, self.options = encoder, scored, options
        self.kinds = {encoder, *["scored"] * scored, *["words"] * ("lexical_size" in options)}

    def get_config(self) -> LabelFusionConfig:
        return LabelFusionConfig(
            encoder_config=AutoConfig.for_model(self.encoder, **OPTIONS[self.encoder]),
            id2label={i: f"class{i}" for i in range(CLASSES)},
            **self.options,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[LabelFusionConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        inputs = {
            "input_ids": suite.ids_tensor([BATCH, LENGTH], COMMON["vocab_size"]).clamp_min(5),
            "attention_mask": suite.random_attention_mask([BATCH, LENGTH]),
        }
        if self.scored:
            inputs["llm_scores"] = torch.rand(BATCH, config.num_providers, CLASSES).softmax(dim=-1)
            inputs["llm_scores"][0, 1] = float("nan")
        return config, inputs


# What makes no sense here, with the reason; docs/compatibility.md repeats them.
SKIPPED = {
    "test_correct_missing_keys": "missing weights are an error here, and so is the folder of a plain encoder",
    "test_problem_types": "there is no regression, and no single-label classification with one class",
    "test_can_load_ignoring_mismatched_shapes": "it knows only heads of linear layers; see test_other_classes.py",
}
SKIPPED_FOR = {
    ("scored", "test_load_with_mismatched_shapes"): "its inputs keep the scores of the old classes",
    ("words", "test_inputs_embeds"): "the lexical head reads `input_ids`",
    ("words", "test_inputs_embeds_matches_input_ids"): "the lexical head reads `input_ids`",
    ("mpnet", "gradient_checkpointing"): "Transformers' MPNet has none",
    ("modernbert", "test_can_init_all_missing_weights"): "inside classes that are not its own, Transformers leaves out "
    "ModernBERT's way to draw new weights, which are never drawn here",
}
# They load models without weights, which is an error here: without that check.
WITHOUT_WEIGHTS = ("test_can_init_all_missing_weights", "test_model_weights_reload_no_missing_tied_weights")


class Suite:
    """The options of the suite."""

    all_model_classes = (LabelFusionForSequenceClassification,)
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True
    make_tester: Callable[[], Inputs]
    model_tester: Inputs

    def setUp(self: Any) -> None:
        self.model_tester = type(self).make_tester()
        name, kinds = self._testMethodName, self.model_tester.kinds
        reasons = [reason for test, reason in SKIPPED.items() if test == name]
        reasons += [reason for (kind, part), reason in SKIPPED_FOR.items() if kind in kinds and part in name]
        if reasons:
            self.skipTest(reasons[0])
        if name in WITHOUT_WEIGHTS:
            unchecked = patch("labelfusion.modeling_labelfusion.pretrained.check_complete")
            unchecked.start()
            self.addCleanup(unchecked.stop)

    def assertEqual(self, first: Any, second: Any, msg: Any = None) -> None:  # noqa: N802
        """As in unittest, but configs may differ in where they were loaded from, which ours tell."""
        if isinstance(first, dict) and isinstance(second, dict):
            first, second = ({k: v for k, v in one.items() if k != "_name_or_path"} for one in (first, second))
        super().assertEqual(first, second, msg)  # type: ignore[misc]  # noqa: PT009

    def test_config(self) -> None:
        ConfigTester(self, config_class=LabelFusionConfig, has_text_modality=False).run_common_tests()

    def _prepare_for_class(self, inputs_dict: Any, model_class: Any, return_labels: bool = False) -> Any:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)  # type: ignore[misc]
        if "labels" in inputs and self.model_tester.options.get("label_set_size"):
            inputs["labels"] = torch.zeros(BATCH, CLASSES)
        return inputs


def _add(name: str, encoder: str, scored: bool, **options: Any) -> None:
    members = {"make_tester": staticmethod(lambda: Inputs(encoder, scored, **options)), "__module__": __name__}
    globals()[name] = type(name, (Suite, ModelTesterMixin, unittest.TestCase), members)


SHAPES: dict[str, dict[str, Any]] = {
    "Plain": {},
    "Fused": {"llm_providers": ["recorded"] * PROVIDERS},
    "Fitted": {"llm_providers": ["recorded"] * PROVIDERS, **FITTED},
    "LabelSets": {
        "llm_providers": ["recorded"] * PROVIDERS,
        "problem_type": "multi_label_classification",
        "label_set_size": 4,
        **FITTED,
    },
}

WITH_SCORES = {"Plain": [False], "Fused": [False, True], "Fitted": [False, True], "LabelSets": [True]}

# What follows the encoder is the same for all: the others are tried without it, and with the most of it.
OTHERS = {"Plain": [False], "Fitted": [True]}

for model_type in ("roberta", "bert", "distilbert", "modernbert", "mpnet"):
    for shape, config_options in SHAPES.items():
        for with_scores in (WITH_SCORES if model_type in ("roberta", "modernbert") else OTHERS).get(shape, []):
            ending = "Scored" * with_scores
            _add(f"Test{model_type.title()}{shape}{ending}", model_type, with_scores, **config_options)
