"""Method `logprob`: the probabilities of the option letters among the `top_logprobs` of the answer's first token.

Multi-label: the model writes Y or N for each class, and the probability of Y against N is read at each of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...configuration import LLMProvider, Task
from ..prompting.prompts import Example
from ..providers.endpoints import Endpoint
from ..providers.request_error import RequestError
from .request_method import (
    Method,
    Scores,
    UnansweredError,
    UnsupportedError,
    check_refusal,
    content,
    first_choice,
    normalize,
    number,
)  # fmt: skip

TOP = 20  # as many alternatives as most APIs return
FEW = 5  # as many as the others do
MOST = 1e-2  # servers that compute in half precision come out a little above 0
FLOOR = 1e-5  # probability of a class whose letter was not returned, unless even the last one returned holds less


class LogprobMethod(Method):
    """Probabilities from token log-probabilities."""

    name: ClassVar[str] = "logprob"
    answer: ClassVar[str] = "letter"
    max_labels: ClassVar[int | None] = TOP
    version: ClassVar[int] = 3

    def __init__(self, provider: LLMProvider, endpoint: Endpoint, task: Task, examples: Sequence[Example] = ()) -> None:
        if task.multi_label:
            self.answer = "yes_no"  # type: ignore[misc]
        super().__init__(provider, endpoint, task, examples)
        self._top = TOP

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """One token; greedy where the tokens depend on each other."""
        limit = {self.endpoint.token_limit: 4 * len(self.labels) if self.multi_label else 1}
        greedy = {"temperature": 0} if self.multi_label else {}
        return {"logprobs": True, "top_logprobs": self._top, **limit, **greedy}

    def canonical(self, body: dict[str, Any]) -> dict[str, Any]:
        """How many alternatives the server returns is no part of the question."""
        body = super().canonical(body)
        return body if "top_logprobs" in self.provider.params else {**body, "top_logprobs": TOP}

    def degrade(self, error: RequestError, body: dict[str, Any]) -> dict[str, Any] | None:
        """Ask for fewer alternatives if the server refuses so many."""
        refused = error.status in (400, 422) and error.param == "top_logprobs"
        if not refused or body.get("top_logprobs") != TOP or "top_logprobs" in self.provider.params:
            return None
        self._top = FEW
        return {**body, "top_logprobs": FEW}

    def answer_tokens(self, num_texts: int) -> float:
        """A token, or two a class."""
        return 2.0 * len(self.labels) if self.multi_label else 1.0

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """The scores of the one text."""
        choice = first_choice(reply)
        check_refusal(choice)  # its first words may have letters among their alternatives
        given = choice.get("logprobs")
        positions = given.get("content") if isinstance(given, dict) else given
        if not positions:
            content(choice)  # a refusal is one, with or without log-probabilities
            raise UnsupportedError("the reply holds no log-probabilities")
        if not _are_objects(positions) or not all(_are_objects(p.get("top_logprobs") or []) for p in positions):
            raise UnansweredError("malformed")
        if self.multi_label:
            return [self._read_multi(choice, positions)]
        if len(positions) > 1 and _letter(positions[0]) in self.prompts.letters and _goes_on(positions[1]):
            # The server wrote more than one token, such as `B` and `usiness`.
            raise UnansweredError(f"no option letter: {_letter(positions[0])!r} begins a word")
        return [self._read_single(positions[0])]

    def _read_single(self, position: dict[str, Any]) -> Scores:
        options = _read_options(position, self.prompts.letters, self.provider.min_option_mass)
        # The letters that were not returned share what is left of the probability.
        unseen = len(self.labels) - len(options.found)
        rest = options.at_most(max(FLOOR, options.left / max(unseen, 1)))
        values = [options.found.get(letter, rest) for letter in self.prompts.letters]
        return normalize([value / sum(values) for value in values], multi_label=False)

    def _read_multi(self, choice: dict[str, Any], positions: list[dict[str, Any]]) -> Scores:
        written = [p for p in positions if _letter(p) in ("Y", "N")]
        if len(written) != len(self.labels):
            content(choice)
            raise UnansweredError("not one Y or N for each class")
        scores = []
        for position in written:
            options = _read_options(position, ["Y", "N"], self.provider.min_option_mass)
            yes, no = (options.found.get(letter, options.at_most(FLOOR)) for letter in ("Y", "N"))
            if not yes + no:
                raise UnansweredError("neither Y nor N has a probability")
            scores.append(yes / (yes + no))
        return normalize(scores, multi_label=True)


@dataclass(frozen=True)
class _Options:
    """What the alternatives of one token say.

    Args:
        found: Probability of each letter that was returned; spellings such as `A`, ` A` and `a` are summed.
        lowest: Probability of the least likely token that was returned.
        left: Probability that no returned token holds.
    """

    found: dict[str, float]
    lowest: float
    left: float

    def at_most(self, probability: float) -> float:
        """`probability`, but no more than a token can hold that was not returned."""
        return min(self.lowest, probability)


def _read_options(position: dict[str, Any], letters: list[str], min_mass: float) -> _Options:
    """The options among the alternatives of a token.

    Raises:
        UnansweredError: If the token is no option, as far as the alternatives show.
        UnsupportedError: If there are no alternatives.
    """
    tokens = [t for t in position.get("top_logprobs") or [] if t.get("logprob") is not None]
    if not tokens:
        raise UnsupportedError("the reply holds no alternatives to its tokens (top_logprobs)")
    logprobs = [number(token["logprob"], "a log-probability that is not a number") for token in tokens]
    if max(logprobs) > MOST:
        raise UnansweredError("a log-probability above 0")
    probabilities = [math.exp(min(0.0, logprob)) for logprob in logprobs]
    found: dict[str, float] = {}
    for token, probability in zip(tokens, probabilities, strict=True):
        if (letter := _letter(token)) in letters:
            found[letter] = found.get(letter, 0.0) + probability
    total, likeliest = sum(probabilities), tokens[probabilities.index(max(probabilities))]
    mass = sum(found.values()) / total if total > 0 else 0.0
    other = min_mass >= 0.5 and _letter(likeliest) not in letters
    if other or mass < min_mass:
        raise UnansweredError(f"no option letter: all letters together hold {mass:.2g} of the probability")
    return _Options(found, min(probabilities), max(0.0, 1.0 - total))


def _letter(token: dict[str, Any]) -> str:
    """The option that a token stands for, without white space, punctuation and the marks of tokenizers."""
    written = token.get("token")
    return written.strip(" \n\t\"'.():▁Ġ*").upper() if isinstance(written, str) else ""


def _goes_on(token: dict[str, Any]) -> bool:
    """Whether a token continues the word before it."""
    written = token.get("token")
    return isinstance(written, str) and written[:1].isalnum()


def _are_objects(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) for item in items)
