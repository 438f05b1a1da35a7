"""Method `vote`: several answers are sampled, and the score of a class is its share of the votes.

Self-consistency: Wang et al. 2023, arXiv:2203.11171. The last resort: works with everything that can write a letter.
"""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ..score_batch import UnansweredError
from .request_method import Method, Scores, content, normalize, true_reason


class VoteMethod(Method):
    """Shares of votes among sampled answers."""

    name: ClassVar[str] = "vote"
    answer: ClassVar[str] = "letter"
    bounded: ClassVar[bool] = True

    @property
    def votes(self) -> int:
        """Answers to sample for a text."""
        return self.provider.votes

    def parameters(self, num_texts: int) -> dict[str, Any]:
        """All samples in one request, where the server can: the prompt is then paid once."""
        return {"n": self.votes, "temperature": 1.0}

    def answer_tokens(self, num_texts: int) -> float:
        """A few tokens a vote."""
        return 3.0 * self.votes

    def longest_answer(self, num_texts: int) -> float:
        """A letter, or one a class, and what stands between."""
        return 4.0 * len(self.labels) if self.multi_label else 3.0

    def more(self, replies: Sequence[dict[str, Any]]) -> bool:
        """Servers that ignore `n` get further requests until the votes are complete."""
        return sum(len(reply.get("choices") or [{}]) for reply in replies) < self.votes

    def read(self, reply: dict[str, Any], num_texts: int) -> list[Scores | UnansweredError]:
        """Share of the votes for each class, if at least half of the votes can be read."""
        votes: list[list[str]] = []
        failures: list[UnansweredError] = []
        for choice in reply.get("choices") or []:
            try:
                votes.append(self._vote(content(choice)))
            except UnansweredError as error:
                failures.append(true_reason(choice, error))
        if len(votes) * 2 < self.votes:
            raise failures[0] if failures else UnansweredError("too few votes")
        scores = np.mean([[letter in vote for letter in self.prompts.letters] for vote in votes], axis=0)
        return [normalize(scores.tolist(), self.multi_label)]

    def _vote(self, text: str) -> list[str]:
        letters = self.prompts.letters
        if self.multi_label and text.strip(" .\n").lower() in ("none", "n/a", "-"):
            return []
        words = [w for w in re.split(r"[\s,;.():*\"'\[\]]+", text) if w]
        if not words or any(w not in letters for w in words) or (len(words) != 1 and not self.multi_label):
            raise UnansweredError("the vote names no option, or several, or something else")
        return words
