"""A saved model that is loaded for other classes, and a folder that holds no LabelFusion model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.modeling_labelfusion.heads import PAIR_BUCKETS
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

SavedModel = Callable[..., Path]
OTHER: dict[str, Any] = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
PROVIDER = {
    "model": "openai/gpt-5-nano",
    "verbalizers": {"class0": ["zero"], "class1": ["one"]},
    "prior": [-1.0, -1.0, -1.0],
    "guidelines": "class0 is about films.",
    "examples": [{"text": "a film", "label": "class0"}],
}


def fitted(saved_model: SavedModel, **options: Any) -> Path:
    """A model with everything that depends on its three classes."""
    return saved_model(
        pooling_layers=[1],
        lexical_size=PAIR_BUCKETS + 113,
        kernel_size=5,
        novelty_size=2,
        inner_novelty_size=3,
        llm_providers=[PROVIDER],
        class_descriptions={"class0": "films", "class1": "sport"},
        calibration={"temperature": 2.0, "answer_map": [[0.0, 1.0], [0.0, 2.0]]},
        fusion_report={"fusion": "mlp"},
        **options,
    )


def batch(num_labels: int) -> dict[str, torch.Tensor]:
    scores = torch.full((2, 1, num_labels), 1 / num_labels)
    return {"input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 8, 3]]), "llm_scores": scores}


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"num_labels": 2, **OTHER}, ["no", "yes"]),
        ({"id2label": OTHER["id2label"]}, ["no", "yes"]),
        ({"label2id": {"no": 0, "yes": 1}}, ["no", "yes"]),
        ({"num_labels": 7}, [f"LABEL_{i}" for i in range(7)]),
    ],
)
@pytest.mark.parametrize("auto", [LabelFusionForSequenceClassification, AutoModelForSequenceClassification])
def test_a_model_for_other_classes_keeps_its_encoder(
    saved_model: SavedModel, tmp_path: Path, auto: Any, given: dict[str, Any], names: list[str]
) -> None:
    folder = fitted(saved_model)
    old = LabelFusionForSequenceClassification.from_pretrained(folder)
    model = auto.from_pretrained(folder, ignore_mismatched_sizes=True, **given)
    assert model.config.label_names == names
    assert model.config.label2id == {name: i for i, name in enumerate(names)}
    for name, weight in old.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight), name
    # New, as in a new model: the pool's total weight of one half; nothing else of the old classes is left.
    assert torch.equal(model.score_pool.weight[0], torch.eye(len(names)) * 0.5)
    assert not model.score_pool.bias.any()
    for name in ("novelty_head", "inner_novelty_head"):
        assert torch.equal(getattr(model, name).center, getattr(old, name).center)
    assert model.lexical_head is model.kernel_head is None
    config = model.config
    assert (config.class_descriptions, config.thresholds, config.fusion_report) == ({}, None, None)
    assert config.calibration == {"temperature": 1.0, "encoder_temperature": 1.0}
    provider = config.providers[0]
    assert (provider.verbalizers, provider.prior, provider.guidelines, provider.examples) == ({}, None, None, [])
    output = model.train()(**batch(len(names)), labels=torch.tensor([0, 1]))
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    model.eval().save_pretrained(tmp_path / "new")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "new")
    assert torch.equal(again(**batch(len(names))).logits, model(**batch(len(names))).logits)


def test_a_label_set_head_does_not_survive_other_classes(saved_model: SavedModel) -> None:
    folder = fitted(saved_model, multi_label=True, label_set_size=4, thresholds=[0.3, 0.4, 0.5], min_labels=1)
    model = LabelFusionForSequenceClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    assert model.label_set_head is None
    assert (model.config.thresholds, model.config.min_labels, model.config.multi_label) == (None, 0, True)
    assert model(**batch(5)).logits.std() > 0


def test_other_sizes_are_an_error_that_says_what_to_do(saved_model: SavedModel) -> None:
    folder = saved_model()
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        LabelFusionForSequenceClassification.from_pretrained(folder, num_labels=7)
    with pytest.raises(ValueError, match="`num_labels` is 3 but `id2label` names 2 classes"):
        LabelFusionForSequenceClassification.from_pretrained(folder, **OTHER, num_labels=3)
    with pytest.raises(ValueError, match="two classes at least"):
        LabelFusionForSequenceClassification.from_pretrained(folder, num_labels=1)


def test_classes_are_renamed_with_everything_fitted_kept(saved_model: SavedModel, tmp_path: Path) -> None:
    folder = fitted(saved_model)
    old = LabelFusionForSequenceClassification.from_pretrained(folder)
    names = {0: "class0", 1: "games", 2: "courts"}
    model = LabelFusionForSequenceClassification.from_pretrained(folder, id2label=names)
    assert torch.equal(model(**batch(3)).logits, old(**batch(3)).logits)
    assert model.config.label2id == {"class0": 0, "games": 1, "courts": 2}
    assert model.config.class_descriptions == {"class0": "films"}
    assert model.config.providers[0].verbalizers == {"class0": ["zero"]}
    assert model.config.providers[0].prior == [-1.0, -1.0, -1.0]
    model.save_pretrained(tmp_path / "renamed")
    assert LabelFusionConfig.from_pretrained(tmp_path / "renamed").label_names == list(names.values())


def test_the_same_classes_change_nothing(saved_model: SavedModel) -> None:
    folder = fitted(saved_model)
    old = LabelFusionConfig.from_pretrained(folder)
    same: dict[str, Any] = {"num_labels": 3, "id2label": old.id2label, "label2id": old.label2id}
    assert LabelFusionConfig.from_pretrained(folder, **same).to_dict() == old.to_dict()


def test_a_config_that_is_changed_first(saved_model: SavedModel) -> None:
    folder = fitted(saved_model)
    config = AutoConfig.from_pretrained(folder)
    config.num_labels = 4
    model = AutoModel.from_pretrained(folder, config=config, ignore_mismatched_sizes=True)
    assert model(**batch(4)).logits.shape == (2, 4)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModel.from_pretrained(folder, config=config)


def test_the_folder_of_a_plain_encoder(tiny_encoder_dir: str, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    for load in (LabelFusionForSequenceClassification.from_pretrained, LabelFusionConfig.from_pretrained):
        with pytest.raises(ValueError, match=r"a 'bert' model, not a LabelFusion model.*from_encoder_pretrained\("):
            load(tiny_encoder_dir)


@pytest.mark.parametrize("wanted", [[0, 2, -1], [1], (0,), []])
def test_some_hidden_states_of_a_model_with_inner_layers(saved_model: SavedModel, wanted: Any) -> None:
    folder = saved_model(pooling_layers=[1, 0])
    model = LabelFusionForSequenceClassification.from_pretrained(folder)
    whole = model(**batch(3), output_hidden_states=True)
    some = model(**batch(3), output_hidden_states=wanted)
    assert torch.equal(some.logits, whole.logits)
    assert torch.equal(some.logits, model(**batch(3)).logits)
    if not wanted:
        assert not any(state is not None for state in some.hidden_states or ())
        return
    assert len(some.hidden_states) == 3
    for i, (state, expected) in enumerate(zip(some.hidden_states, whole.hidden_states, strict=True)):
        if i in {j % 3 for j in wanted}:
            assert torch.equal(state, expected)
        else:
            assert state is None
