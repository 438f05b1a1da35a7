"""How a run is routed: which texts are sent to the LLMs, for how much and how long, and which answers are given."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..configuration import LabelFusionConfig
from ..scoring.asker import as_budget
from ..scoring.session.deadlines import Patience
from .policy import Policy, controlled_risk, resolve_policy
from .risk import RiskControl

if TYPE_CHECKING:
    from ..scoring.session.dollar_budget import Budget


@dataclass(frozen=True)
class Routing:
    """What a run may do, parsed once for a model by `parse`; what cannot be right is an error before anything is paid.

    Args:
        policy: Which texts are sent to the LLMs, see `routing.policy.select`.
        budget: US dollars that may be spent on them; `None`: no limit.
        deadline_s: Seconds after which a text goes without its answer; `None`: never.
        hedge_s: Seconds after which a slow request is sent once more, or `"p95"`; `None`: never. See `Patience`.
        control: Which answers are given so that a risk is kept; `None`: all.
    """

    policy: Policy = "always"
    budget: "Budget | None" = None
    deadline_s: float | None = None
    hedge_s: float | str | None = None
    control: RiskControl | None = None

    @classmethod
    def parse(
        cls,
        config: LabelFusionConfig,
        llm_policy: Policy = "always",
        max_cost_usd: "float | Budget | None" = None,
        target_accuracy: float | None = None,
        deadline_s: float | None = None,
        hedge_s: float | str | None = None,
        max_risk: float | None = None,
    ) -> Self:
        """Parse the options of a user.

        Args:
            config: The model's config.
            llm_policy: `"always"`, `"never"`, `"auto"` (the calibrated gate), or a share of the texts in [0, 1]: those
                where an answer is worth most. With `"auto"` several LLMs are asked one after the other (a cascade), in
                the order of the config, each through a gate of its own.
            max_cost_usd: US dollars that may be spent on the LLMs, or a `Budget` that can be watched. Where the policy
                looks at the encoder, the texts that an answer is worth most for come first.
            target_accuracy: Instead of a policy: as few questions as reached this accuracy on held-out rows, see
                `routing.policy.for_accuracy`.
            deadline_s: Seconds after which a text goes without its answer.
            hedge_s: Seconds after which a slow request is sent once more, or `"p95"`.
            max_risk: Share of all texts that may get a wrong answer; the other doubtful ones abstain, see
                `routing.risk.RiskControl`.

        Raises:
            ValueError: For an option that is no policy, number or limit, or a risk or accuracy that this model cannot
                guarantee.
        """
        policy = resolve_policy(llm_policy, target_accuracy, config)
        Patience(deadline_s, hedge_s)  # says what is wrong with them
        control = None if max_risk is None else controlled_risk(max_risk, policy, config)
        return cls(policy, as_budget(max_cost_usd), deadline_s, hedge_s, control)

    def patience(self) -> Patience:
        """The patience of one run; it learns how long answers take."""
        return Patience(self.deadline_s, self.hedge_s)
