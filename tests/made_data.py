"""Rows of three classes that are easy to tell apart, with scores of an LLM that is right as often as wished."""

from typing import Any

import numpy as np
import pandas as pd

NAMES = ["film", "sport", "tech"]
WORDS = {"film": "movie plot actor", "sport": "team game match goal", "tech": "chip code phone data"}


def texts_and_labels(n: int, seed: int = 0) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    texts = []
    for i, label in enumerate(labels):
        words = list(rng.choice(WORDS[NAMES[label]].split(), 3)) + list(
            rng.choice(["the", "a", "is", "very", "good", "bad", "w1"], 4)
        )
        texts.append(" ".join(rng.permutation(words)) + f" w{i % 10} {i}")
    return texts, labels


def scores_for(labels: np.ndarray, accuracy: float = 0.85, seed: int = 1) -> np.ndarray:
    """(n, 1, 3) scores of an LLM that is right with the given frequency."""
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(len(labels)) < accuracy, labels, (labels + rng.integers(1, 3, len(labels))) % 3)
    return (np.eye(3)[said] * 0.85 + 0.05)[:, None]


def frame(n: int = 90, seed: int = 0, **columns: Any) -> pd.DataFrame:
    texts, labels = texts_and_labels(n, seed)
    return pd.DataFrame(
        {"text": texts, "label": [NAMES[i] for i in labels], "llm_scores": scores_for(labels, seed=seed).tolist()}
        | columns
    )
