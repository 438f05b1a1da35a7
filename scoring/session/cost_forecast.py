"""Estimated costs of requests: how much a budget reserves for a request before its reply is there.

The cost of a request is known only when its reply is there, so it is estimated from the replies before. The first
request of a kind goes out alone. Each later one reserves the cost of the most expensive request so far, with a margin.
A more expensive one can still come: of n + k requests that are alike in advance, the two most expensive are both among
k of them with a probability of about (k / (n + k))^2. Among few requests, compared with those seen, there is hardly
more than one such surprise, and the guarantee leaves room for one. Requests beyond these few reserve many times the
mean cost, which also covers texts that become harder on the way. With hundreds of replies seen, a cost far above the
most expensive of them is improbable, and less is enough: after n replies, two of k requests are of a kind that was not
seen before with a probability below 0.27 (k / n)^2.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..providers.pricing import Price

MARGIN = 1.25  # above the most expensive so far
SEEN_FOR_EACH = 32  # replies seen, of each kind that is out, for each request that may be out with this margin alone,
PROVEN_AT_MOST = 4  # and the most of these
SURPRISE = 64.0  # how many times the mean cost the others may cost;
MANY, SURPRISE_OF_MANY = 128, 2.0  # from so many replies on ever less, down to this multiple of the most expensive one


@dataclass(frozen=True)
class Need:
    """Tokens of a request: estimates of its prompt and its answer, and the most that either can have."""

    prompt: float
    answer: float
    most_prompt: float = math.inf
    most_answer: float = math.inf


class Costs:
    """What the requests of one kind have cost, compared with the estimates.

    Args:
        price: Price of a token; None: not known, and not counted.
    """

    def __init__(self, price: "Price | None") -> None:
        self.price = price
        self.free = price is None or (price.input == 0 and price.output == 0)
        self.seen = 0
        self._estimated, self._told = [0.0, 0.0], [0.0, 0.0]  # sums of tokens of prompts and answers
        self._highest = [0.0, 0.0]  # of their ratios
        self._reached, self._passed = False, False  # by an answer: the most tokens that it may have

    def learn(self, need: Need, prompt: float, answer: float) -> bool:
        """Learn from a reply of `prompt` and `answer` tokens. Returns: whether others may cost more than estimated."""
        highest = list(self._highest)
        for i, (estimated, told) in enumerate(((need.prompt, prompt), (need.answer, answer))):
            if estimated > 0:
                self._estimated[i] += estimated
                self._told[i] += told
                self._highest[i] = max(self._highest[i], told / estimated)
        self._reached |= answer == need.most_answer
        self._passed |= answer > need.most_answer
        self.seen += 1
        return self._highest != highest

    def expected(self, need: Need) -> float:
        """US dollars that a request is likely to cost."""
        answer = min(need.answer * self._mean(1), self._longest(need))
        return self.price.cost(need.prompt * self._mean(0), answer) if self.price else 0.0

    def enough(self, need: Need, proven: bool = True) -> float:
        """US dollars to set aside for a request, infinite before the first reply.

        Args:
            need: Its tokens.
            proven: Few others are out, compared with the requests seen.
        """
        if self.free or self.price is None:
            return 0.0
        if not self.seen:
            return math.inf
        prompt, answer = need.prompt * self._highest[0] * MARGIN, need.answer * self._highest[1] * MARGIN
        if not proven:
            prompt = max(prompt, min(need.prompt * self._surprise(0), need.most_prompt))
            answer = max(answer, need.answer * self._surprise(1))
        return self.price.cost(prompt, min(answer, self._longest(need)))

    def _surprise(self, part: int) -> float:
        """The most tokens to expect for each estimated one where a request is not proven."""
        of_many = max(SURPRISE_OF_MANY, SURPRISE * (MANY / self.seen) ** 2)
        return min(self._mean(part) * SURPRISE, self._highest[part] * of_many)

    def _longest(self, need: Need) -> float:
        """Tokens of the longest answer. Not all servers limit thoughts: a limit counts once it has cut an answer."""
        return need.most_answer if self._reached and not self._passed else math.inf

    def _mean(self, part: int) -> float:
        """Tokens reported for each estimated one."""
        return self._told[part] / self._estimated[part] if self._estimated[part] else 1.0

    def likely(self, need: Need) -> float:
        """US dollars of a request whose cost is not reported; rather too many than too few."""
        return self.enough(need) if self.seen else self.expected(need)
