"""The fusion of `LabelFusionForSequenceClassification`: masks, losses, shapes. Encoders are in the next file."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelfusion.configuration import LabelFusionConfig
from labelfusion.modeling_labelfusion import FusionMLP, LabelFusionForSequenceClassification, LabelFusionOutput
from labelfusion.modeling_labelfusion.fusion import ScorePool, pool_features
from torch.nn import functional as F
from transformers import BertConfig

MakeModel = Callable[..., LabelFusionForSequenceClassification]
NAN = float("nan")


def inputs(batch: int = 4, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[1:, length - 3 :] = 0
    return {"input_ids": torch.randint(4, 40, (batch, length), generator=generator), "attention_mask": mask}


def scores(batch: int = 4, providers: int = 1, classes: int = 3, multi: bool = False, seed: int = 1) -> torch.Tensor:
    raw = torch.randn(batch, providers, classes, generator=torch.Generator().manual_seed(seed))
    return torch.sigmoid(raw) if multi else torch.softmax(raw, dim=-1)


# --- Missing scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("num_providers", [0, 1, 5])
def test_no_scores_and_missing_scores_give_the_encoder_exactly(
    make_model: MakeModel, num_providers: int, multi_label: bool
) -> None:
    calibration = {"temperature": 1.7, "encoder_temperature": 0.6}
    model = make_model(num_providers=num_providers, multi_label=multi_label, calibration=calibration)
    absent = model(**inputs())
    missing = model(**inputs(), llm_scores=torch.full((4, num_providers, 3), NAN))
    assert torch.equal(absent.logits, absent.encoder_logits)
    assert torch.equal(missing.logits, absent.logits)
    assert torch.equal(missing.encoder_logits, absent.encoder_logits)
    assert absent.logits.isfinite().all()


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("fusion", ["mlp", "pool"])
def test_a_missing_answer_hides_the_rest_of_its_row_and_nothing_else(
    make_model: MakeModel, fusion: str, multi_label: bool
) -> None:
    model = make_model(num_providers=2, multi_label=multi_label, fusion=fusion)
    full = scores(providers=2, multi=multi_label)
    masked = full.clone()
    masked[1, 0] = NAN  # one provider, one text
    masked[2] = NAN  # all providers, one text
    expected = model(**inputs(), llm_scores=masked)

    partly = masked.clone()
    partly[1, 0] = torch.tensor([0.9, NAN, 0.1])  # what stands beside a NaN does not matter
    partly[2, :, 1] = 0.3
    torch.testing.assert_close(model(**inputs(), llm_scores=partly).logits, expected.logits, rtol=0, atol=0)

    whole = model(**inputs(), llm_scores=full)
    assert not torch.allclose(whole.logits[1], expected.logits[1])
    assert torch.equal(expected.logits[2], expected.encoder_logits[2])
    torch.testing.assert_close(whole.logits[[0, 3]], expected.logits[[0, 3]])
    assert not torch.allclose(whole.logits, whole.encoder_logits)


def test_missing_scores_give_finite_gradients(make_model: MakeModel) -> None:
    for multi_label in (False, True):
        model = make_model(num_providers=2, multi_label=multi_label).train()
        llm_scores = scores(providers=2, multi=multi_label)
        llm_scores[0], llm_scores[1, 1] = NAN, NAN
        labels = torch.ones(4, 3) if multi_label else torch.tensor([0, 1, 2, 0])
        model(**inputs(), llm_scores=llm_scores, labels=labels).loss.backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("multi_label", [False, True])
def test_zeros_and_ones_are_scores_too(make_model: MakeModel, multi_label: bool) -> None:
    model = make_model(multi_label=multi_label)
    hard = torch.eye(3)[[0, 1, 2, 0]].unsqueeze(1)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert model.to(dtype)(**inputs(), llm_scores=hard).logits.isfinite().all()


def test_texts_do_not_see_each_other(make_model: MakeModel) -> None:
    model = make_model(num_providers=2)
    batch, llm_scores = inputs(), scores(providers=2)
    llm_scores[3, 0] = NAN
    order = torch.tensor([2, 0, 3, 1])
    straight = model(**batch, llm_scores=llm_scores).logits
    permuted = model(**{k: v[order] for k, v in batch.items()}, llm_scores=llm_scores[order]).logits
    alone = torch.cat(
        [model(**{k: v[[i]] for k, v in batch.items()}, llm_scores=llm_scores[[i]]).logits for i in range(4)]
    )
    torch.testing.assert_close(permuted, straight[order])
    torch.testing.assert_close(alone, straight)


def test_padding_changes_nothing(make_model: MakeModel) -> None:
    for pooling in ("mean", "cls"):
        model = make_model(pooling=pooling)
        batch = inputs(batch=2)
        longer = {
            "input_ids": F.pad(batch["input_ids"], (0, 5), value=7),
            "attention_mask": F.pad(batch["attention_mask"], (0, 5), value=0),
        }
        torch.testing.assert_close(model(**batch).logits, model(**longer).logits)


# --- Fusion ----------------------------------------------------------------------------------------------------------


def test_evidence_by_hand() -> None:
    given_scores = torch.tensor([[[0.7, 0.2, 0.1]], [[1.0, 0.0, 0.0]], [[NAN, 0.5, 0.5]]])
    evidence, mask = pool_features(given_scores, multi_label=False, floor=0.01)
    logs = [math.log(0.7), math.log(0.2), math.log(0.1)]
    centred = [x - sum(logs) / 3 for x in logs]
    torch.testing.assert_close(evidence[0, 0], torch.tensor(centred))
    floored = [0.0, math.log(0.01), math.log(0.01)]
    torch.testing.assert_close(evidence[1, 0], torch.tensor([x - sum(floored) / 3 for x in floored]))
    assert evidence[2].tolist() == [[0.0, 0.0, 0.0]]
    assert mask.tolist() == [[1.0], [1.0], [0.0]]

    evidence, _ = pool_features(given_scores, multi_label=True, floor=0.01)
    torch.testing.assert_close(evidence[0, 0], torch.tensor([math.log(p / (1 - p)) for p in (0.7, 0.2, 0.1)]))
    torch.testing.assert_close(evidence[1, 0, 0], torch.tensor(math.log(0.99 / 0.01)))


def test_a_new_model_is_a_plain_pool(tiny_encoder_config: BertConfig) -> None:
    """Encoder logits plus half of the mean evidence of the LLMs: the MLP adds nothing yet."""
    config = LabelFusionConfig(encoder_config=tiny_encoder_config, num_labels=3, llm_providers=["recorded"] * 2)
    model = LabelFusionForSequenceClassification(config).eval()
    llm_scores = scores(providers=2)
    output = model(**inputs(), llm_scores=llm_scores)
    evidence, _ = pool_features(llm_scores, multi_label=False, floor=config.score_floor)
    torch.testing.assert_close(output.logits, output.encoder_logits + 0.5 * evidence.mean(dim=1))


def test_fusion_mlp_starts_at_zero_and_learns() -> None:
    mlp = FusionMLP(hidden_size=8, num_providers=2, num_labels=3, fusion_hidden_size=5)
    embedding, evidence, mask = torch.randn(4, 8), torch.randn(4, 2, 3), torch.ones(4, 2)
    assert torch.equal(mlp(embedding, evidence, mask), torch.zeros(4, 3))
    optimizer = torch.optim.Adam(mlp.parameters(), lr=0.05)
    target = torch.tensor([0, 1, 2, 0])
    for _ in range(60):
        loss = F.cross_entropy(mlp(embedding, evidence, mask), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    mask[0] = 0.0
    assert torch.equal(mlp(embedding, evidence, mask)[0], torch.zeros(3))


def test_score_pool_by_hand() -> None:
    pool = ScorePool(num_providers=2, num_labels=2)
    with torch.no_grad():
        pool.encoder_shift.copy_(torch.tensor([[-0.5, 0.0], [0.25, 0.5]]))
        pool.weight.copy_(torch.tensor([[[1.0, 0.0], [2.0, 3.0]], [[0.0, 1.0], [1.0, 0.0]]]))
        pool.bias.copy_(torch.tensor([[0.1, 0.2], [0.3, 0.4]]))
    evidence = torch.tensor([[[1.0, -1.0], [0.0, 0.0]]])
    logits = pool(torch.tensor([[2.0, 4.0]]), evidence, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(logits, torch.tensor([[2.0 * 0.5 + (1.0 - 2.0) + 0.1, 4.0 + (0.0 - 3.0) + 0.2]]))


def test_temperatures_divide_the_logits(make_model: MakeModel) -> None:
    llm_scores = scores()
    llm_scores[0] = NAN
    plain = make_model()(**inputs(), llm_scores=llm_scores)
    cooled = make_model(calibration={"temperature": 2.0})(**inputs(), llm_scores=llm_scores)
    torch.testing.assert_close(cooled.logits[1:], plain.logits[1:] / 2)
    assert torch.equal(cooled.logits[0], plain.logits[0])  # no answer: the encoder's own temperature
    encoder = make_model(calibration={"encoder_temperature": 2.0})(**inputs(), llm_scores=llm_scores)
    torch.testing.assert_close(encoder.encoder_logits, plain.encoder_logits / 2)


def test_score_dropout_hides_scores_in_training_only(make_model: MakeModel) -> None:
    model = make_model(score_dropout=1.0, classifier_dropout=0.0, fusion_dropout=0.0)
    model.encoder.eval()
    output = model(**inputs(), llm_scores=scores())
    assert not torch.allclose(output.logits, output.encoder_logits)
    model.training = True
    output = model(**inputs(), llm_scores=scores())
    assert torch.equal(output.logits, output.encoder_logits)
    model.config.score_dropout = 0.5
    torch.manual_seed(0)
    output = model(**inputs(64), llm_scores=scores(64))
    hidden = (output.logits == output.encoder_logits).all(dim=1).float().mean().item()
    assert 0.3 < hidden < 0.7


# --- Losses ----------------------------------------------------------------------------------------------------------


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    for row, target in zip(logits.tolist(), labels.tolist(), strict=True):
        if isinstance(target, int):
            total += math.log(sum(math.exp(x) for x in row)) - row[target]
        else:
            signed = [-x if y else x for x, y in zip(row, target, strict=True)]
            total += sum(math.log1p(math.exp(x)) for x in signed) / len(row)
    return total / len(logits)


CLASSES = torch.tensor([0, 2, 1, 1])
VECTORS = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("labels", [CLASSES, VECTORS], ids=["single-label", "multi-label"])
def test_losses_by_hand(make_model: MakeModel, labels: torch.Tensor, weight: float) -> None:
    multi_label = labels.dim() == 2
    model = make_model(multi_label=multi_label, encoder_loss_weight=weight)
    output = model(**inputs(), llm_scores=scores(multi=multi_label), labels=labels)
    expected = by_hand(output.logits, labels) + weight * by_hand(output.encoder_logits, labels)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_encoder_loss_trains_the_encoder_head_alone(make_model: MakeModel) -> None:
    """Rows without LLM scores train the encoder, and leave the fusion as it is."""
    model = make_model()
    model(**inputs(), labels=torch.tensor([0, 1, 2, 0])).loss.backward()
    trained = {name.removeprefix("classifier.") for name, p in model.named_parameters() if p.grad is not None}
    assert {name.partition(".")[0] for name in trained} == {"encoder", "encoder_head"}


def test_multi_label_takes_integer_and_soft_targets(make_model: MakeModel) -> None:
    model = make_model(multi_label=True)
    assert torch.equal(model(**inputs(), labels=VECTORS.long()).loss, model(**inputs(), labels=VECTORS).loss)
    assert model(**inputs(), labels=VECTORS * 0.5).loss.isfinite()


# --- Shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_labels", [2, 77])
@pytest.mark.parametrize("num_providers", [0, 1, 5])
@pytest.mark.parametrize("multi_label", [False, True])
def test_sizes(make_model: MakeModel, num_labels: int, num_providers: int, multi_label: bool) -> None:
    model = make_model(num_labels=num_labels, num_providers=num_providers, multi_label=multi_label)
    llm_scores = scores(4, num_providers, num_labels, multi_label)
    labels = torch.zeros(4, num_labels) if multi_label else torch.arange(4) % num_labels
    output = model(**inputs(), llm_scores=llm_scores, labels=labels)
    assert output.logits.shape == output.encoder_logits.shape == (4, num_labels)
    assert output.loss.shape == ()
    assert output.loss.isfinite()


@pytest.mark.parametrize("shape", [(4, 3), (4, 1, 4), (4, 2, 3), (3, 1, 3), (4, 3, 1)])
def test_wrong_shape_of_scores(make_model: MakeModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"`llm_scores` has shape .* expected \(4, 1, 3\)"):
        make_model()(**inputs(), llm_scores=torch.full(shape, 0.3))


def test_scores_for_a_model_without_providers(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"expected \(4, 0, 3\)"):
        make_model(num_providers=0)(**inputs(), llm_scores=scores())


BAD_LABELS: list[tuple[bool, Any, str]] = [
    (False, torch.zeros(4, 3), "problem_type"),
    (False, torch.zeros(4), "int64 class indices"),
    (False, torch.zeros(4, 1, dtype=torch.long), "single-label"),
    (True, torch.zeros(4, dtype=torch.long), r"\(4, 3\)"),
    (True, torch.zeros(4, 2), r"\(4, 3\)"),
    (True, torch.zeros(3, 3), r"\(4, 3\)"),
]


@pytest.mark.parametrize(("multi_label", "labels", "message"), BAD_LABELS)
def test_wrong_labels(make_model: MakeModel, multi_label: bool, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=f"`labels`.*{message}"):
        make_model(multi_label=multi_label)(**inputs(), labels=labels)


def test_class_index_out_of_range(make_model: MakeModel) -> None:
    with pytest.raises((ValueError, IndexError), match="7"):
        make_model()(**inputs(), labels=torch.tensor([0, 1, 2, 7]))


def test_outputs(make_model: MakeModel) -> None:
    model = make_model()
    labels = torch.tensor([0, 1, 2, 0])
    output = model(**inputs(), llm_scores=scores(), labels=labels, output_hidden_states=True)
    assert isinstance(output, LabelFusionOutput)
    assert len(output.hidden_states or ()) == 3  # embeddings and two layers
    assert output.attentions is None
    as_tuple = model(**inputs(), llm_scores=scores(), labels=labels, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert [x.shape for x in as_tuple] == [(), (4, 3), (4, 3)]
    model.config.return_dict = False
    assert isinstance(model(**inputs()), tuple)
    model.config.return_dict = True
    model.config.output_hidden_states = True
    assert model(**inputs()).hidden_states is not None
    assert model(**inputs(), output_hidden_states=False).hidden_states is None


def test_embeddings_instead_of_tokens(make_model: MakeModel) -> None:
    model = make_model()
    batch = inputs()
    embedded = model.get_input_embeddings()(batch["input_ids"])
    output = model(inputs_embeds=embedded, attention_mask=batch["attention_mask"], llm_scores=scores())
    torch.testing.assert_close(output.logits, model(**batch, llm_scores=scores()).logits)


def test_encode_and_fuse_are_the_two_halves_of_forward(make_model: MakeModel) -> None:
    model = make_model()
    embedding, _ = model.encode(**inputs())
    logits, encoder_logits = model.fuse(embedding, scores())
    output = model(**inputs(), llm_scores=scores())
    assert torch.equal(logits, output.logits)
    assert torch.equal(encoder_logits, output.encoder_logits)


@settings(max_examples=40, deadline=None)
@given(*[st.integers(*bounds) for bounds in [(1, 5), (0, 4), (2, 6), (0, 999)]], st.booleans(), st.floats(0, 1))
def test_any_pattern_of_missing_scores(
    batch: int, providers: int, classes: int, seed: int, multi: bool, hidden: float
) -> None:
    torch.manual_seed(seed)
    encoder = BertConfig(hidden_size=8, num_hidden_layers=0, num_attention_heads=1, intermediate_size=8, vocab_size=10)
    config = LabelFusionConfig(
        encoder_config=encoder,
        llm_providers=["recorded"] * providers,
        problem_type="multi_label_classification" if multi else "single_label_classification",
        num_labels=classes,
    )
    model = LabelFusionForSequenceClassification(config).eval()
    llm_scores = scores(batch, providers, classes, multi, seed)
    llm_scores[torch.rand(batch, providers) < hidden] = NAN
    embedding = torch.randn(batch, 8)
    logits, encoder_logits = model.fuse(embedding, llm_scores)
    assert logits.isfinite().all()
    silent = llm_scores.isnan().any(-1).all(-1)
    assert torch.equal(logits[silent], encoder_logits[silent])
