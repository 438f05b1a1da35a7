"""Draws which words decide, by SHAP and by LIME, for one text: `python benchmarks/explain_words.py OUT.png`.

Trains on the demo's texts with a small encoder from the package index; `pip install shap lime matplotlib` first.
"""

import argparse
from pathlib import Path
from typing import Any

from labelfusion import AutoFusionClassifier

BRIEFS = Path(__file__).parents[1] / "hub_scripts" / "commands" / "demo_data" / "news_briefs.csv"
TEXT = "The bank raised its rate, and the market fell after a late goal."


def by_shap(pipe: Any, text: str, label: str) -> list[tuple[str, float]]:
    """Each token with its Shapley value for the probability of the class `label`.

    Args:
        pipe: A pipeline with `top_k=None`. With `llm_policy="never"` the hundreds of variants of a text cost nothing.
        text: The text.
        label: The class.
    """
    import shap

    values = shap.Explainer(pipe)([text])
    column = list(values.output_names).index(label)
    return [
        (str(token).strip(), float(v)) for token, v in zip(values.data[0], values.values[0][:, column], strict=True)
    ]


def by_lime(clf: AutoFusionClassifier, text: str, label: str) -> list[tuple[str, float]]:
    """Each word with its weight in LIME's linear model of the probability of the class `label`.

    Words are replaced, not removed: a text without any word is an error here.
    """
    from lime.lime_text import LimeTextExplainer

    classes = clf.classes_.tolist()
    explainer = LimeTextExplainer(class_names=classes, bow=False, mask_string="...", random_state=0)
    place = classes.index(label)

    def probabilities(texts: list[str]) -> Any:
        return clf.predict_proba(texts, llm_policy="never")

    found = explainer.explain_instance(text, probabilities, labels=[place], num_features=12, num_samples=500)
    return [(str(word), float(weight)) for word, weight in found.as_list(label=place)]


def draw(found: dict[str, list[tuple[str, float]]], label: str, path: Path) -> None:
    """Draw the words of each method as bars, the most important ones."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.2), constrained_layout=True)
    for axis, (method, words) in zip(axes, found.items(), strict=True):
        shown = sorted((w for w in words if w[0]), key=lambda w: abs(w[1]))[-8:]
        colours = ["#2a6fbb" if v >= 0 else "#c0504d" for _, v in shown]
        axis.barh(range(len(shown)), [v for _, v in shown], color=colours)
        axis.set_yticks(range(len(shown)), [w for w, _ in shown])
        axis.set_title(f"{method}: for {label!r}")
        axis.axvline(0, color="black", linewidth=0.6)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Train, explain and draw."""
    from transformers import pipeline  # the import above has registered ours

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", default="embedded/all-minilm-l6-v2")
    parser.add_argument("--data", type=Path, default=BRIEFS)
    parser.add_argument("--text", default=TEXT)
    args = parser.parse_args()
    clf = AutoFusionClassifier(encoder=args.encoder, llm=None, encoder_training="probe").fit(args.data)
    task: Any = "labelfusion-classification"
    pipe = pipeline(task, model=clf.model_, tokenizer=clf.tokenizer_, top_k=None, llm_policy="never")
    label = str(clf.predict([args.text])[0])
    draw({"SHAP": by_shap(pipe, args.text, label), "LIME": by_lime(clf, args.text, label)}, label, args.out)


if __name__ == "__main__":
    main()
