"""Method `logprob`: the probabilities of the option letters among the `top_logprobs` of the answer's first token.

Multi-label: the model writes Y or N for each class, and the probability of Y against N is read at each of them.
"""

import math
from typing import Any, ClassVar

import numpy as np

from .method import Method, Scores, UnansweredError, UnsupportedError, check_refusal, content, normalize

TOP = 20  # as many alternatives as the APIs return
FLOOR = 1e-5  # least probability of a class whose letter is not among them


class LogprobMethod(Method):
    """Probabilities from token log-probabilities."""

    name: ClassVar[str] = "logprob"
    answer: ClassVar[str] = "letter"
    max_labels: ClassVar[int | None] = TOP
    version: ClassVar[int] = 2

    def __init__(self, provider: Any, endpoint: Any, labels: Any, multi_label: bool, *args: Any, **kwargs: Any) -> None:
        if multi_label:
            self.answer = "yes_no"  # type: ignore[misc]
        super().__init__(provider, endpoint, labels, multi_label, *args, **kwargs)

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """One token; greedy where the tokens depend on each other."""
        limit = {self.endpoint.token_limit: 4 * len(self.labels) if self.multi_label else 1}
        greedy = {"temperature": 0} if self.multi_label else {}
        return {"logprobs": True, "top_logprobs": TOP, **limit, **greedy}

    def answer_tokens(self, num_texts: int) -> float:
        """A token, or two a class."""
        return 2.0 * len(self.labels) if self.multi_label else 1.0

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """The scores of the one text."""
        choice = reply["choices"][0]
        check_refusal(choice)  # its first words may have letters among their alternatives
        positions = (choice.get("logprobs") or {}).get("content")
        if not positions:
            content(choice)  # a refusal is one, with or without log-probabilities
            raise UnsupportedError("the reply holds no log-probabilities")
        if self.multi_label:
            return [self._read_multi(choice, positions)]
        return [self._read_single(choice, positions[0])]

    def _read_single(self, choice: dict[str, Any], position: dict[str, Any]) -> Scores:
        found, lowest, total = _options(position, self.prompts.letters)
        if not found:
            content(choice)
            raise UnansweredError("no option letter among the likeliest tokens")
        # The letters that were not returned share what is left, and none is likelier than the last one returned.
        unseen = len(self.labels) - len(found)
        rest = max(FLOOR, min(lowest, max(0.0, 1.0 - total) / max(unseen, 1)))
        return normalize(_to_one([found.get(letter, rest) for letter in self.prompts.letters]), multi_label=False)

    def _read_multi(self, choice: dict[str, Any], positions: list[dict[str, Any]]) -> Scores:
        written = [p for p in positions if str(p.get("token", "")).strip() in ("Y", "N")]
        if len(written) != len(self.labels):
            content(choice)
            raise UnansweredError("not one Y or N for each class")
        scores = []
        for position in written:
            found, lowest, _ = _options(position, ["Y", "N"])
            yes, no = (found.get(letter, min(FLOOR, lowest)) for letter in ("Y", "N"))
            scores.append(yes / (yes + no))
        return normalize(scores, multi_label=True)


def _options(position: dict[str, Any], letters: list[str]) -> tuple[dict[str, float], float, float]:
    """Probability of each letter (spellings such as `A` and ` A` summed), of the least likely token, of all tokens."""
    found: dict[str, float] = {}
    tokens = position.get("top_logprobs") or [position]
    logprobs = [float(token["logprob"]) for token in tokens]
    if any(math.isnan(logprob) for logprob in logprobs):
        raise UnansweredError("a log-probability that is not a number")
    probabilities = [math.exp(min(0.0, logprob)) for logprob in logprobs]
    for token, probability in zip(tokens, probabilities, strict=True):
        letter = str(token.get("token", "")).strip(" \n\t\"'.():▁Ġ*")
        if letter in letters:
            found[letter] = found.get(letter, 0.0) + probability
    return found, min(probabilities), sum(probabilities)


def _to_one(values: list[float]) -> list[float]:
    return (np.asarray(values) / max(1e-12, sum(values))).tolist()
