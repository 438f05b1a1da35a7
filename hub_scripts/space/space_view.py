"""Renders one answer on the page of a Space as HTML."""

from dataclasses import dataclass, field
from html import escape

import numpy as np
from numpy.typing import NDArray

from ...configuration import LabelFusionConfig
from ...pipelines.formatting import format_labels, source_names
from ...pipelines.inference import Inference

SHOWN = 6  # classes of a source shown at once


@dataclass
class Page:
    """State of the page besides the answer.

    Args:
        unavailable: `{provider: why it cannot be queried}`.
        spent_usd: US dollars spent by all visitors since the page started.
        max_cost_usd: US dollars that may be spent; `None`: no limit.
        trouble: Error of this query, if any.
    """

    unavailable: dict[str, str] = field(default_factory=dict)
    spent_usd: float = 0.0
    max_cost_usd: float | None = None
    trouble: str | None = None


def answer_html(result: Inference, config: LabelFusionConfig, policy: str, page: Page) -> str:
    """The answer to one text: predicted classes, whether an LLM was queried and its cost, the bars of every source."""
    names = config.label_names
    fused, encoder = result.probabilities[0], result.encoder_probabilities[0]
    order = np.argsort(-fused, kind="stable")
    heard = bool(result.answered[0].any())
    cards = [
        _card("Fusion", fused, names, order, "" if heard else "No LLM answered: the encoder alone.", "lf-fusion"),
        _card("Encoder", encoder, names, order),
    ]
    for name, scores in zip(source_names(config), result.llm_scores[0], strict=True):
        if np.isnan(scores).any():
            cards.append(_silent(name, _reason(name, result, policy, page)))
        else:
            cards.append(_card(name, scores, names, order))
    return (
        f'<div class="lf-answer"><p class="lf-verdict">{_verdict(fused, config)}</p>'
        f'<p class="lf-facts">{escape(_facts(result, policy, page))}</p>{_alert(page.trouble)}'
        f'<div class="lf-sources">{"".join(cards)}</div></div>'
    )


def message_html(text: str) -> str:
    """A message in place of an answer."""
    return f'<p class="lf-message">{escape(text)}</p>'


def unavailable_html(page: Page) -> str:
    """The LLMs that cannot be queried, and how to enable them; empty if all can be queried."""
    if not page.unavailable:
        return ""
    lines = "".join(f"<li><strong>{escape(name)}</strong> {escape(why)}</li>" for name, why in page.unavailable.items())
    return f'<div class="lf-note"><p>These LLMs are not queried here:</p><ul>{lines}</ul></div>'


def dollars(value: float) -> str:
    """US dollars, with enough digits for fractions of a cent."""
    if value <= 0:
        return "$0"
    return f"${value:.2f}" if value >= 0.1 else f"${value:.6f}".rstrip("0") if value >= 1e-6 else "under $0.000001"


def _verdict(fused: NDArray[np.float32], config: LabelFusionConfig) -> str:
    answer = format_labels(fused, config)
    found = answer if isinstance(answer, list) else [answer]
    if not found:
        return "None of the classes"
    return ", ".join(
        f'{escape(str(a["label"]))} <span class="lf-share">{_percent(a["score"])}</span>' for a in found[:SHOWN]
    )


def _facts(result: Inference, policy: str, page: Page) -> str:
    if not result.llm_scores.shape[1]:
        return "This model has no LLM."
    if result.llm_called[0]:
        said = "The LLM was queried" + ("." if policy == "always" else ": the encoder was not sure enough.")
    elif policy == "auto" and len(page.unavailable) < result.llm_scores.shape[1] and not page.trouble:
        said = "The LLM was not queried: the encoder was sure enough."
    else:
        said = "The LLM was not queried."
    said += f" Cost of this answer: {dollars(float(result.cost_usd[0]))}."
    if page.max_cost_usd is not None and page.spent_usd:
        said += f" This page has spent {dollars(page.spent_usd)} of {dollars(page.max_cost_usd)}."
    return said


def _reason(name: str, result: Inference, policy: str, page: Page) -> str:
    if name in page.unavailable:
        return page.unavailable[name][:1].upper() + page.unavailable[name][1:]
    if result.llm_called[0]:
        return "No answer: " + result.errors.get(0, "it did not say why") + "."
    return "Not queried: the encoder was sure enough." if policy == "auto" and not page.trouble else "Not queried."


def _card(
    title: str,
    probabilities: NDArray[np.float32],
    names: list[str],
    order: NDArray[np.intp],
    note: str = "",
    kind: str = "",
) -> str:
    rows = [_bar(names[i], float(probabilities[i])) for i in order]
    bars = f'<ul class="lf-bars">{"".join(rows[:SHOWN])}</ul>'
    if rows[SHOWN:]:
        bars += (
            f"<details><summary>{len(rows) - SHOWN} more classes</summary>"
            f'<ul class="lf-bars">{"".join(rows[SHOWN:])}</ul></details>'
        )
    note = f'<p class="lf-small">{escape(note)}</p>' if note else ""
    return f'<section class="lf-source {kind}"><h2>{escape(title)}</h2>{note}{bars}</section>'


def _silent(title: str, why: str) -> str:
    return f'<section class="lf-source"><h2>{escape(title)}</h2><p class="lf-small">{escape(why)}</p></section>'


def _bar(name: str, probability: float) -> str:
    width = f"{100 * min(max(probability, 0.0), 1.0):.1f}"
    return (
        f'<li><span class="lf-name">{escape(name)}</span> <span class="lf-number">{_percent(probability)}</span>'
        f'<span class="lf-track" aria-hidden="true"><span class="lf-fill" style="width:{width}%"></span></span></li>'
    )


def _alert(trouble: str | None) -> str:
    return f'<p class="lf-note" role="alert">{escape(trouble)}</p>' if trouble else ""


def _percent(value: float) -> str:
    return "under 1 %" if value < 0.005 else "over 99 %" if value >= 0.995 else f"{100 * value:.0f} %"
