"""Slices of the data where a model fails more often than elsewhere, corrected for the number of slices."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

from ..diagnosis.measurement import Measurement
from ..statistics import holm, wilson_interval

FEWEST = 10  # rows inside of a slice, and outside
LEVEL = 0.05  # chance that any slice is flagged where all are alike
FORMS: dict[str, Callable[[str], bool]] = {
    "with a question mark": lambda text: "?" in text or "？" in text,
    "with a digit": lambda text: re.search(r"\d", text) is not None,
    "with a link": lambda text: re.search(r"https?://|www\.", text) is not None,
    "mostly capitals": lambda text: sum(c.isupper() for c in text) > sum(c.islower() for c in text),
}


@dataclass(frozen=True)
class Slice:
    """The errors of one slice.

    Args:
        group: What the rows are divided by.
        name: The part.
        rows: Its rows.
        errors: Rows that the fusion has wrong.
        low: Lower end of the 95 % interval of the error rate (Wilson 1927).
        high: Its upper end.
        elsewhere: Error rate of the other rows.
        p_holm: p of Fisher's exact test against the other rows, adjusted for all slices (Holm 1979).
        worse: Whether the slice is significantly worse than the rest.
    """

    group: str
    name: str
    rows: int
    errors: int
    low: float
    high: float
    elsewhere: float
    p_holm: float
    worse: bool

    @property
    def rate(self) -> float:
        """Error rate."""
        return self.errors / self.rows


def find_slices(measured: Measurement) -> list[Slice]:
    """Measure the error rate of every slice of `FEWEST` rows or more, the worst first.

    Slices are by length, script, form, out-of-distribution score, number of labels, and what the sources answered. With
    the correction, the chance that any slice is flagged in data where all are alike is `LEVEL` at most.
    """
    return compare_slices(measured.wrong, _parts(measured))


def compare_slices(wrong: NDArray[np.bool_], parts: Iterator[tuple[str, str, NDArray[np.bool_]]]) -> list[Slice]:
    """Test slices `(group, name, bool (n,))` of the rows; `wrong` is bool `(n,)`."""
    kept = [(g, n, rows) for g, n, rows in parts if min(rows.sum(), (~rows).sum()) >= FEWEST]
    p_values = []
    for _, _, rows in kept:
        table = [[(wrong & rows).sum(), (~wrong & rows).sum()], [(wrong & ~rows).sum(), (~wrong & ~rows).sum()]]
        p_values.append(float(fisher_exact(table)[1]))
    found = []
    for (group, name, rows), p in zip(kept, holm(p_values), strict=True):
        count, errors, rest = int(rows.sum()), int(wrong[rows].sum()), float(wrong[~rows].mean())
        worse = p < LEVEL and errors / count > rest
        found.append(Slice(group, name, count, errors, *wilson_interval(errors, count), rest, p, worse))
    return sorted(found, key=lambda s: (not s.worse, -s.rate))


def script_of(text: str) -> str:
    """The script of most letters, as Unicode names it (`Latin`, `Cyrillic`, `CJK`); `no letters` without any."""
    letters = [c for c in text if c.isalpha()][:500]
    counts = Counter(unicodedata.name(c, "unknown").split()[0] for c in letters)
    if not counts:
        return "no letters"
    name = counts.most_common(1)[0][0]
    return name if name == "CJK" else name.capitalize()


def _parts(measured: Measurement) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    texts = measured.table.texts
    words = np.array([len(text.split()) for text in texts])
    yield from _by_range("length", words, np.unique(np.quantile(words, [0.25, 0.5, 0.75])).astype(int), "words")
    scripts = [script_of(text) for text in texts]
    yield from (("script", name, np.array([s == name for s in scripts])) for name in sorted(set(scripts)))
    yield from (("form", name, np.array([test(text) for text in texts])) for name, test in FORMS.items())
    if measured.config.novelty_size:
        novelty = measured.result.novelty
        yield "out-of-distribution score", "0: like the training texts", novelty == 0
        yield "out-of-distribution score", "above 0, up to 0.5", (novelty > 0) & (novelty <= 0.5)
        yield "out-of-distribution score", "above 0.5", novelty > 0.5
    if measured.config.multi_label:
        count = measured.truth.sum(axis=1)
        yield from (("labels", f"{n} labels" if n != 1 else "1 label", count == n) for n in range(3))
        yield "labels", "3 labels or more", count >= 3
    heard: NDArray[np.bool_] = np.any(measured.result.answered, axis=1)
    yield "LLM", "without an LLM's answer", ~heard
    for source in measured.sources[2:]:
        encoder = measured.sources[1]
        differ: NDArray[np.bool_] = np.any(source.decided != encoder.decided, axis=1) & source.answered
        yield "sources", f"encoder and {source.name} differ", differ


def _by_range(
    group: str, values: NDArray[np.integer], cuts: NDArray[np.integer], unit: str
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    low = int(values.min()) if len(values) else 0
    for cut in [*cuts.tolist(), int(values.max(initial=0))]:
        if cut >= low:
            name = f"{low} to {cut} {unit}" if cut > low else f"{cut} {unit}"
            yield group, name, (values >= low) & (values <= cut)
            low = cut + 1
