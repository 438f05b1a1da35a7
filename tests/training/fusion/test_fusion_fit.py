"""The fusion recipe on made sources whose quality is known."""

import numpy as np
import pytest
import torch
from labelfusion.training.folds import assign_folds
from labelfusion.training.fusion.fusion_data import FusionData
from labelfusion.training.fusion.fusion_fit import fit_fusion, stacking_weights
from labelfusion.training.losses import log_loss


def source(labels: torch.Tensor, num_labels: int, accuracy: float, seed: int) -> torch.Tensor:
    """Logits that are right with the given frequency, and calibrated about it."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.rand(len(labels), generator=generator) < accuracy
    others = (labels + torch.randint(1, num_labels, labels.shape, generator=generator)) % num_labels
    said = torch.where(right, labels, others)
    strength = np.log(accuracy * (num_labels - 1) / max(1 - accuracy, 1e-6))
    return torch.nn.functional.one_hot(said, num_labels) * float(strength)


def make(n: int, encoder: float, llm: float, seed: int = 0, num_labels: int = 4) -> FusionData:
    labels = torch.from_numpy(np.random.default_rng(seed).integers(0, num_labels, n))
    logits = source(labels, num_labels, encoder, seed + 1)
    hard = torch.nn.functional.one_hot(source(labels, num_labels, llm, seed + 2).argmax(1), num_labels).float()
    return FusionData(logits, hard[:, None], labels, False, 1e-3)


def accuracy(logits: torch.Tensor, data: FusionData) -> float:
    return float((logits.argmax(1) == data.labels).float().mean())


def fit_and_test(n: int, encoder: float, llm: float) -> tuple[float, float, float]:
    train, test = make(n, encoder, llm), make(4000, encoder, llm, seed=50)
    pool = fit_fusion(train, assign_folds(train.labels.numpy(), 5)).pool
    fused = pool(test.encoder_logits, test.evidence, test.mask)
    return accuracy(fused, test), accuracy(test.encoder_logits, test), accuracy(test.llm_scores[:, 0], test)


@pytest.mark.parametrize("n", [40, 300])
@pytest.mark.parametrize(("encoder", "llm"), [(0.8, 0.8), (0.9, 0.6), (0.6, 0.9), (0.85, 0.25), (0.25, 0.85)])
def test_fusion_is_never_clearly_worse_than_its_best_source(n: int, encoder: float, llm: float) -> None:
    fused, alone, by_llm = fit_and_test(n, encoder, llm)
    assert fused > max(alone, by_llm) - 0.02


def test_a_useless_llm_leaves_the_encoder() -> None:
    fused, alone, _ = fit_and_test(400, 0.85, 0.25)
    assert fused == pytest.approx(alone, abs=0.005)


def test_two_different_views_are_better_than_each() -> None:
    # Three sources of 80 % whose errors are independent: a majority is right more often.
    data = make(600, 0.8, 0.8)
    third = torch.nn.functional.one_hot(source(data.labels, 4, 0.8, 77).argmax(1), 4).float()
    both = FusionData(data.encoder_logits, torch.stack([data.llm_scores[:, 0], third], 1), data.labels, False, 1e-3)
    fit = fit_fusion(both, assign_folds(data.labels.numpy(), 5))
    assert accuracy(fit.out_of_fold_logits, both) > accuracy(both.encoder_logits, both) + 0.03


def test_confusions_of_an_llm_are_undone() -> None:
    # An LLM that always says the next class is as good as one that is right, once its confusions are learnt.
    data = make(600, 0.5, 0.95)
    turned = FusionData(data.encoder_logits, data.llm_scores.roll(1, dims=-1), data.labels, False, 1e-3)
    fit = fit_fusion(turned, assign_folds(data.labels.numpy(), 5))
    assert accuracy(fit.out_of_fold_logits, turned) > 0.9


def test_missing_scores_leave_exactly_the_encoder() -> None:
    data = make(200, 0.7, 0.9)
    scores = data.llm_scores.clone()
    scores[::2] = float("nan")
    half = FusionData(data.encoder_logits, scores, data.labels, False, 1e-3)
    pool = fit_fusion(half, assign_folds(data.labels.numpy(), 5)).pool
    fused = pool(half.encoder_logits, half.evidence, half.mask)
    torch.testing.assert_close(fused[::2], half.encoder_logits[::2], rtol=0, atol=0)
    assert not torch.equal(fused[1::2], half.encoder_logits[1::2])


def witnesses(n: int, seed: int) -> FusionData:
    """An encoder, an LLM that knows nothing but how the other one errs, and that other one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=generator)
    truth = torch.nn.functional.one_hot(labels, 3).float()
    error = torch.randn(n, 3, generator=generator)
    scores = torch.stack([2.0 * error, 3.0 * truth + 2.0 * error], dim=1).softmax(dim=-1)
    logits = 2.0 * truth + torch.randn(n, 3, generator=generator)
    return FusionData(logits, scores, labels, False, 1e-3)


def test_an_llm_whose_partner_is_missing_does_no_harm() -> None:
    train, test = witnesses(600, 0), witnesses(4000, 1)
    pool = fit_fusion(train, assign_folds(train.labels.numpy(), 5)).pool

    @torch.no_grad()
    def loss(mask: torch.Tensor) -> float:
        logits = pool(test.encoder_logits, test.evidence * mask[:, None], mask.expand(len(test.labels), 2))
        return float(log_loss(logits, test.labels, False).mean())

    both, first, second, none = (loss(torch.tensor(x)) for x in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]))
    assert both < 0.5 * second
    assert second < none - 0.05
    assert first < none + 0.02
    pool.missing_shift.data.zero_()  # what that takes
    assert loss(torch.tensor([1.0, 1.0])) == both
    assert loss(torch.tensor([1.0, 0.0])) > none + 0.1


def test_multi_label_fusion_helps() -> None:
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((500, 5)) < 0.25).astype(np.float32))
    flip = lambda rate: torch.from_numpy((rng.random((500, 5)) < rate).astype(np.float32))  # noqa: E731
    said, seen = (labels - flip(0.1)).abs(), (labels - flip(0.1)).abs()
    data = FusionData((seen - 0.5) * 4, said[:, None], labels, True, 1e-3)
    fit = fit_fusion(data, assign_folds(labels.numpy(), 5))
    alone = log_loss(data.encoder_logits, labels, True).mean()
    assert log_loss(fit.out_of_fold_logits, labels, True).mean() < 0.8 * alone


def test_the_mlp_is_taken_where_the_embedding_explains_the_errors() -> None:
    # The LLM is right exactly where the embedding's first value is positive: only the MLP can see that.
    generator = torch.Generator().manual_seed(0)
    n = 1200
    labels = torch.randint(0, 2, (n,), generator=generator)
    embeddings = torch.randn(n, 8, generator=generator)
    said = torch.where(embeddings[:, 0] > 0, labels, 1 - labels)
    scores = torch.nn.functional.one_hot(said, 2).float()[:, None]
    data = FusionData(torch.zeros(n, 2), scores, labels, False, 1e-3, embeddings)
    fit = fit_fusion(data, assign_folds(labels.numpy(), 4), mlp_kwargs={"fusion_hidden_size": 16, "dropout": 0.0})
    assert fit.mlp is not None
    assert fit.report["chosen"] == "pool and mlp"
    assert accuracy(fit.out_of_fold_logits, data) > 0.8
    assert fit_fusion(data, assign_folds(labels.numpy(), 4), fusion="pool").mlp is None


def test_the_same_data_give_the_same_fit() -> None:
    data = make(150, 0.7, 0.8)
    folds = assign_folds(data.labels.numpy(), 5)
    first, second = fit_fusion(data, folds), fit_fusion(data, folds)
    assert first.report == second.report
    torch.testing.assert_close(first.pool.weight, second.pool.weight, rtol=0, atol=0)


def test_stacking_weights_prefer_the_clear_winner_and_share_a_tie() -> None:
    losses = torch.stack([torch.full((200,), 0.5), torch.full((200,), 0.9), torch.full((200,), 0.5)])
    torch.testing.assert_close(stacking_weights(losses), torch.tensor([0.5, 0.0, 0.5]), rtol=0, atol=1e-4)


def test_77_classes_with_few_rows() -> None:
    data = make(154, 0.6, 0.8, num_labels=77)
    fit = fit_fusion(data, assign_folds(data.labels.numpy(), 5))
    assert accuracy(fit.out_of_fold_logits, data) > 0.78
