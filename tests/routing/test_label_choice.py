"""The choice of texts to label next."""

import numpy as np
import pytest
from labelfusion.routing import label_choice
from labelfusion.routing.label_choice import directions, doubt, informative, typical


def _groups(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Points around as many directions that are orthogonal, float32 `(n, 8)`; the groups in order."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([np.eye(8)[k] + 0.05 * rng.normal(size=(size, 8)) for k, size in enumerate(sizes)])
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def _naive(points: np.ndarray, doubts: np.ndarray, n: int, labelled: np.ndarray) -> list[int]:
    """The definition, without any short cut."""
    similar = label_choice._kernel(points, points)
    covered = label_choice._kernel(points, labelled).max(axis=1) if len(labelled) else np.zeros(len(points))
    weight = np.maximum(doubts, 1e-6) ** 2
    chosen: list[int] = []
    for _ in range(n):
        gains = weight * np.maximum(similar - covered, 0).sum(axis=1)
        gains[chosen] = -1
        chosen.append(int(gains.argmax()))
        covered = np.maximum(covered, similar[chosen[-1]])
    return chosen


@pytest.mark.parametrize("labelled", [0, 5])
def test_the_choice_is_the_greedy_one(labelled: int) -> None:
    rng = np.random.default_rng(1)
    points = directions(rng.normal(size=(700, 8)))
    doubts = rng.random(700)
    known = points[:labelled]
    assert informative(points, doubts, 20, known).tolist() == _naive(points, doubts, 20, known)


def test_equal_doubts_give_texts_of_all_kinds_and_large_groups_first() -> None:
    points = _groups([30, 20, 10])
    chosen = informative(points, np.full(60, 0.5), 3)
    assert [int(np.searchsorted([30, 50, 60], row, side="right")) for row in chosen] == [0, 1, 2]


def test_doubtful_texts_come_first_and_labelled_ones_count() -> None:
    points = _groups([30, 30])
    doubts = np.r_[np.full(30, 0.9), np.full(30, 0.1)]
    assert informative(points, doubts, 1)[0] < 30
    chosen = informative(points, np.full(60, 0.5), 1, points[:30])
    assert chosen[0] >= 30  # the first group is labelled


def test_all_texts_can_be_chosen_and_none_twice() -> None:
    points = _groups([3, 3])
    assert sorted(informative(points, np.zeros(6), 6)) == list(range(6))
    same = np.tile(points[:1], (6, 1))
    assert sorted(informative(same, np.full(6, 0.5), 6)) == list(range(6))
    assert sorted(typical(same, 6)[0]) == list(range(6))


def test_typical_texts_are_of_all_kinds_the_largest_first() -> None:
    points = _groups([30, 20, 10])
    chosen, sizes = typical(points, 3)
    assert sizes.tolist() == [30, 20, 10]
    assert [int(np.searchsorted([30, 50, 60], row, side="right")) for row in chosen] == [0, 1, 2]
    chosen, _ = typical(points, 1, points[:30])
    assert chosen[0] >= 30


def test_of_many_texts_a_sample_is_clustered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_choice, "MOST_CLUSTERED", 20)
    chosen, sizes = typical(_groups([30, 20, 10]), 4)
    assert len(set(chosen.tolist())) == 4
    assert sizes.sum() <= 20


def test_sources_that_disagree_and_new_texts_raise_the_doubt() -> None:
    probs = np.tile([0.8, 0.2], (4, 1))
    agree, contradict, missing = [0.8, 0.2], [0.2, 0.8], [np.nan, np.nan]
    sources = np.array([[agree, agree], [agree, contradict], [agree, missing], [agree, agree]])
    found = doubt(probs, sources, np.array([0.0, 0.0, 0.0, 0.5]), False)
    np.testing.assert_allclose(found, [0.4, 0.7, 0.4, 0.55])
    several = doubt(np.array([[0.9, 0.5]]), np.array([[[0.9, 0.5]]]), None, True)
    np.testing.assert_allclose(several, [1 - 0.9 * 0.5])
