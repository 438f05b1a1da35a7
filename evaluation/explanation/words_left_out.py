"""Which words decide: the change of the logits if a word is left out."""

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ...configuration.text_pair import TextPair
from ...modeling_labelfusion.encoding import TextEncoder, evaluating

MOST_PARTS = 100  # variants of a text that are encoded
# A letter of a script that is written without spaces, or a run of letters and digits, with apostrophes and hyphens.
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]|\w+(?:['’-]\w+)*")


@dataclass(frozen=True)
class WordEffects:
    """The words of a text, or of both texts of a pair, and what they do.

    Args:
        words: The W words, or runs of words, in the order of the text.
        effects: float32 `(W, K)`: logits of the text minus its logits without the word.
    """

    words: list[str]
    effects: NDArray[np.float32]


def word_spans(text: str, most: int = MOST_PARTS) -> list[tuple[int, int]]:
    """Start and end of each word; in a text of more than `most` words, of runs of words of about equal length."""
    found = [match.span() for match in _WORD.finditer(text)]
    runs = np.array_split(np.arange(len(found)), max(1, min(most, len(found))))
    return [(found[run[0]][0], found[run[-1]][1]) for run in runs if len(run)]


def leave_words_out(
    encoder: TextEncoder, text: str, llm_scores: NDArray[np.floating], most: int = MOST_PARTS
) -> WordEffects:
    """Measure each word by leaving it out (erasure: Li, Monroe and Jurafsky 2016, arXiv:1612.08220).

    The LLMs are not queried: their scores are those of the whole text, so that what is measured is how the encoder's
    side reads the words. A word whose neighbours say the same has little effect.

    Args:
        encoder: The model with its tokenizer.
        text: The text, or a `TextPair`, of whose texts the words are left out one after the other.
        llm_scores: float `(P, K)`, NaN for a missing answer.
        most: Most variants of the text.
    """
    model, words, variants = encoder.model, [], []
    parts = [text.text, text.text_pair] if isinstance(text, TextPair) else [text]
    for i, part in enumerate(parts):
        for start, end in word_spans(part, most // len(parts)):
            words.append(part[start:end])
            shorter = [*parts[:i], part[:start] + part[end:], *parts[i + 1 :]]
            variants.append(TextPair(*shorter) if isinstance(text, TextPair) else shorter[0])
    embeddings = encoder([text, *variants])
    scores = torch.from_numpy(np.asarray(llm_scores, dtype=np.float32)).to(model.device)
    with evaluating(model), torch.inference_mode():
        given = scores.expand(len(embeddings), *scores.shape)
        logits = model.fuse(embeddings.to(model.device, model.dtype), given)[0].float().cpu().numpy()
    return WordEffects(words, logits[0] - logits[1:])
