"""Options of a run: which texts are sent to the LLMs, limits of cost and time, and which answers are given."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ..configuration import LabelFusionConfig
from ..scoring.budget import as_budget
from ..scoring.session.deadlines import Patience
from .policy import Policy, controlled_risk, resolve_policy
from .risk import RiskControl
from .speed import check_speed

if TYPE_CHECKING:
    from ..scoring.session.dollar_budget import Budget


@dataclass(frozen=True)
class Routing:
    """The options of a run, parsed once for a model by `parse`. Invalid options raise before any paid request.

    Args:
        policy: Which texts are sent to the LLMs, see `routing.policy.select`.
        budget: Maximum cost in US dollars; `None`: no limit.
        deadline_s: Seconds to wait for the LLM answers about a text; `None`: no limit.
        hedge_s: Seconds after which a slow request is sent once more, or `"p95"`; `None`: never. See `Patience`.
        speed: Which texts are answered without the encoder, see `routing.speed`.
        control: Decides which answers are given to bound the risk; `None`: all are given.
        name: The policy as the user gave it, for reports.
    """

    policy: Policy = "always"
    budget: "Budget | None" = None
    deadline_s: float | None = None
    hedge_s: float | str | None = None
    control: RiskControl | None = None
    name: str | float = "always"
    speed: str = "full"

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
        speed: str = "full",
    ) -> Self:
        """Parse the options of a user.

        Args:
            config: The model's config.
            llm_policy: `"always"`, `"never"`, `"auto"` (the calibrated gate), or a share of the texts in [0, 1]: those
                with the highest gate values. With `"auto"`, several LLMs are queried one after the other (a cascade),
                in the order of the config, each through its own gate.
            max_cost_usd: Maximum cost in US dollars, or a `Budget` that can be observed. If the policy depends on the
                encoder, the texts with the highest gate values are queried first.
            target_accuracy: Instead of a policy: the fewest LLM queries that reached this accuracy on held-out rows,
                see `routing.policy.for_accuracy`.
            deadline_s: Seconds to wait for the LLM answers about a text.
            hedge_s: Seconds after which a slow request is sent once more, or `"p95"`.
            max_risk: Share of all texts that may get a wrong answer. The model abstains on doubtful texts, see
                `routing.risk.RiskControl`.
            speed: `"full"`: the encoder reads every text; `"balanced"`, `"fast"`: not those that the quick head is
                sure about, see `routing.speed.SPEEDS`. No LLM is queried about these, unless the policy is `"always"`.

        Raises:
            ValueError: For an invalid policy, number or limit, or a risk or accuracy that this model cannot reach.
        """
        policy = resolve_policy(llm_policy, target_accuracy, config)
        Patience(deadline_s, hedge_s)  # validates both
        check_speed(speed, max_risk, config)
        control = None if max_risk is None else controlled_risk(max_risk, policy, config)
        name = llm_policy if target_accuracy is None else f"for an accuracy of {target_accuracy:g}"
        return cls(policy, as_budget(max_cost_usd), deadline_s, hedge_s, control, name, speed)  # type: ignore[arg-type]

    def patience(self) -> Patience:
        """Create the `Patience` of one run, which learns the latency of answers."""
        return Patience(self.deadline_s, self.hedge_s)
