"""A report of `evaluate` on made sources."""

from typing import Any

import numpy as np
from labelfusion.evaluation.comparison import Source, compare_sources, confusion, per_class, reliability, truth_matrix


def make_report(classes: list[str], n: int = 120, multi_label: bool = False, silent: bool = False) -> dict[str, Any]:
    rng, k = np.random.default_rng(0), len(classes)
    labels: Any = (rng.random((n, k)) < 0.3).astype(float) if multi_label else rng.integers(0, k, n)
    truth = truth_matrix(labels, k)
    sources = []
    for name, noise in (("Fusion", 0.3), ("Encoder alone", 0.8), ("openai/gpt-5-nano", 0.6)):
        p = np.clip(truth * 0.7 + rng.random((n, k)) * noise, 0.01, 0.99)
        p = p if multi_label else p / p.sum(axis=1, keepdims=True)
        if name.startswith("openai") and silent:
            p[:] = np.nan
        sources.append(Source.make(name, p, multi_label))
    report = {
        **{"model": "m", "data": "d.csv", "rows": n, "classes": classes, "multi_label": multi_label},
        **{"llm_policy": "always", "num_resamples": 100, "seed": 0, "llm_share": 1.0, "llm_asked": n},
        **{
            "warnings": [],
            "advice": [],
            "confused": [],
            "costs": {},
            "cost_usd": 0.0123,
            "seconds": 2.0,
            "missing_answers": {"timeout": 3},
            "training": {},
            "versions": {},
        },
        **compare_sources(sources, truth, multi_label, 100),
        "per_class": per_class(sources, truth, classes),
        "reliability": {s.name: reliability(s, truth, multi_label) for s in sources if s.answered.any()},
    }
    if not multi_label:
        report["confusion"] = confusion(sources[0], truth).tolist()
    return report
