"""The explanation of one answer, and how it is shown."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..markdown import markdown_table, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WORDS = 8  # shown at once


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why a text got its answer. K classes, S sources, W words.

    Args:
        text: The text.
        classes: Names of the K classes.
        predicted: The predicted classes: one, or for multi-label any number.
        explained: The class that is explained by default: the predicted one, or the most probable.
        logits: float64 `(K,)`: calibrated logits. Multi-label: log odds of each class.
        probabilities: float32 `(K,)`.
        sources: Names of the S sources: the prior, layers and heads of the encoder, LLMs.
        shares: float64 `(S, K)`: shares of the logits; their sum is `logits`, see `source_shares.source_shares`.
        answered: `{LLM: whether its answer was used}`.
        words: The W words, or runs of words, in the order of the text; empty if not measured.
        word_effects: float32 `(W, K)`: how much higher the logits are because of a word, see `words_left_out`.
        nearest: The nearest labelled texts, see `nearest_texts.nearest_texts`; empty without examples.
        llm_called: Whether an LLM was queried for this explanation.
        cost_usd: US dollars that it cost.
        missing: Why a wanted LLM answer is missing; None if none is.
        multi_label: Whether a text may have several classes.
    """

    text: str
    classes: list[str]
    predicted: list[str]
    explained: str
    logits: NDArray[np.float64]
    probabilities: NDArray[np.float32]
    sources: list[str]
    shares: NDArray[np.float64]
    answered: dict[str, bool] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    word_effects: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    nearest: list[dict[str, Any]] = field(default_factory=list)
    llm_called: bool = False
    cost_usd: float = 0.0
    missing: str | None = None
    multi_label: bool = False

    def shares_of(self, label: str | None = None) -> dict[str, float]:
        """Each source's share of the logit of a class (default: `explained`); the sum is the logit."""
        return dict(zip(self.sources, self.shares[:, self._place(label)].tolist(), strict=True))

    def words_of(self, label: str | None = None) -> list[tuple[str, float]]:
        """The words in the order of the text, with what each adds to the logit of a class (default: `explained`)."""
        column = self.word_effects[:, self._place(label)] if self.words else np.zeros(0)
        return list(zip(self.words, column.tolist(), strict=True))

    def rival(self, label: str | None = None) -> str | None:
        """Single-label: the most probable other class. Its logit, subtracted, gives log odds; None for multi-label."""
        if self.multi_label:
            return None
        others = self.probabilities.copy()
        others[self._place(label)] = -1.0
        return self.classes[int(others.argmax())]

    def to_dict(self) -> dict[str, Any]:
        """The explanation of class `explained` as JSON-ready data."""
        place, rival = self._place(None), self.rival()
        return {
            "text": self.text,
            "predicted": self.predicted,
            "explained": self.explained,
            "probability": float(self.probabilities[place]),
            "logit": float(self.logits[place]),
            "shares": self.shares_of(),
            "rival": rival,
            "shares_of_rival": None if rival is None else self.shares_of(rival),
            "words": [{"word": word, "effect": effect} for word, effect in self.words_of()],
            "nearest": self.nearest,
            "llm_called": self.llm_called,
            "cost_usd": self.cost_usd,
            "missing": self.missing,
        }

    def to_markdown(self, label: str | None = None) -> str:
        """The explanation of a class (default: `explained`) as Markdown."""
        header, rows = self._share_rows(label)
        shown = [[plain(name), *numbers] for name, *numbers in rows]
        parts = [f"> {plain(self.text)}", f"**{plain(self._verdict(label))}** {plain(self._facts())}".strip()]
        parts.append(markdown_table([plain(h) for h in header], shown))
        if self.words:
            words = ", ".join(f"{plain(word)} {effect:+.2f}" for word, effect in self._strongest(label))
            parts.append(f"Words, by what the logit of {plain(label or self.explained)} loses without them: {words}.")
        if self.nearest:
            rows = [
                [plain(_shortened(n["text"], 120)), plain(_named(n["label"])), str(n["row"]), f"{n['similarity']:.2f}"]
                for n in self.nearest
            ]
            parts.append(markdown_table(["Nearest labelled texts", "Label", "Row", "Similarity"], rows, 2))
        return "\n\n".join(parts)

    def plot(self, path: str | Path | None = None, label: str | None = None) -> "Figure":
        """Draw shares and words as bars (needs matplotlib); with `path` also write the picture."""
        from .explanation_plot import draw

        figure = draw(self, label or self.explained)
        if path is not None:
            figure.savefig(path, dpi=130, bbox_inches="tight", metadata={"Software": None})
        return figure

    def __repr__(self) -> str:
        header, rows = self._share_rows(None)
        table = [header, *rows]
        widths = [max(len(row[i]) for row in table) for i in range(len(header))]
        lines = [repr(_shortened(self.text, 200)), f"{self._verdict(None)} {self._facts()}".strip(), ""]
        for row in table:
            cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
        if self.words:
            lines += ["", "Words: " + ", ".join(f"{word} {effect:+.2f}" for word, effect in self._strongest(None))]
        lines += ["", "Nearest labelled texts:"] if self.nearest else []
        for n in self.nearest:
            lines.append(
                f"  {_named(n['label'])}, {n['similarity']:.2f}, row {n['row']}: {_shortened(n['text'], 90)!r}"
            )
        return "\n".join(lines)

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _share_rows(self, label: str | None) -> tuple[list[str], list[list[str]]]:
        """Header and rows of the table of shares, the sum last."""
        label = label or self.explained
        own, rival = self.shares[:, self._place(label)], self.rival(label)
        header, columns = ["Share of the logit", label], [own]
        if rival is not None:
            header.append(f"against {rival}")
            columns.append(own - self.shares[:, self._place(rival)])
        notes = {name: "" if used else " (no answer)" for name, used in self.answered.items()}
        rows = [
            [name + notes.get(name, ""), *(f"{column[i]:+.2f}" for column in columns)]
            for i, name in enumerate(self.sources)
        ]
        rows.append(["sum", *(f"{column.sum():+.2f}" for column in columns)])
        return header, rows

    def _verdict(self, label: str | None) -> str:
        place = self._place(label)
        text = f"{self.classes[place]} {_percent(self.probabilities[place])}"
        if self.classes[place] not in self.predicted:
            text += ", not predicted"
        rival = self.rival(label)
        text += "" if rival is None else f" ({rival} {_percent(self.probabilities[self.classes.index(rival)])})"
        others = [name for name in self.predicted if name != self.classes[place]]
        return text + "." + (f" Predicted: {', '.join(others)}." if others else "")

    def _facts(self) -> str:
        if not self.answered:
            return ""
        said = f"The LLM was queried, for {_dollars(self.cost_usd)}." if self.llm_called else "No LLM was queried"
        said += "" if self.llm_called else ", scores were given." if any(self.answered.values()) else "."
        return said + (f" No answer: {self.missing}." if self.missing else "")

    def _strongest(self, label: str | None) -> list[tuple[str, float]]:
        """The words with the largest effects, those in favour first."""
        found = sorted(self.words_of(label), key=lambda w: -abs(w[1]))[:MOST_WORDS]
        return sorted(((_shortened(word, 40), effect) for word, effect in found), key=lambda w: -w[1])

    def _place(self, label: str | None) -> int:
        label = self.explained if label is None else str(label)
        if label not in self.classes:
            raise ValueError(f"`label` is {label!r}; the classes are {', '.join(self.classes)}.")
        return self.classes.index(label)


def _shortened(text: str, most: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 1] + "…"


def _named(label: Any) -> str:
    return (", ".join(map(str, label)) or "no class") if isinstance(label, list) else str(label)


def _dollars(value: float) -> str:
    """US dollars, with enough digits for the fractions of a cent that one text costs."""
    return "$0" if value <= 0 else f"${value:.6f}" if value >= 1e-6 else "under $0.000001"


def _percent(value: float) -> str:
    return f"{100 * float(value):.1f} %"
