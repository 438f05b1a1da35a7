"""The measurements and choices of `fit`, as Markdown."""

from typing import TYPE_CHECKING, Any

from ...pipelines.formatting import source_names
from ..markdown import markdown_table, plain
from ..metrics import METRIC_TITLES

if TYPE_CHECKING:
    from labelfusion import AutoFusionClassifier

_ENCODER_SIDE = {
    "probe": "Linear head on the frozen encoder",
    "contrastive": "Upper layers trained contrastively",
    "full": "Fine-tuned encoder",
    "lora": "Encoder fine-tuned with LoRA",
    "probe_on_same_rows": "Frozen encoder, on the same rows",
    "probe_on_same_parts": "Frozen encoder, on the same rows",
    "words": "TF-IDF head",
    "neighbours": "Kernel head",
    "together": "Together",
}
_TRAINED = {
    "probe": "frozen",
    "contrastive": "trained contrastively",
    "full": "fine-tuned",
    "lora": "fine-tuned with LoRA",
}


def training_summary(clf: "AutoFusionClassifier") -> str:
    """Summary of `fit`. All figures are out of sample, from cross-fitting."""
    report: dict[str, Any] = clf.report_
    how = _TRAINED.get(report["encoder_training"], plain(report["encoder_training"]))
    if "num_train_epochs" in report:
        how += f" ({report['num_train_epochs']} epochs of {report.get('trained_layers', 1):.0%} of the layers)"
    if "contrastive_steps" in report:
        how += f" ({report['contrastive_steps']} steps)"
    if "stopped" in report:
        how += f"; its training was stopped by `{report['stopped']}`"
    figures = [
        [METRIC_TITLES.get(name, plain(name)), f"{value:.4f}"]
        for name, value in report.get("out_of_sample", {}).items()
    ]
    judged = "All figures are out of sample: each row was judged by a fit that had not seen it."
    if "judged_by" in report:
        judged += f" Right is the {plain(report['judged_by'])}; texts with a tie are left out."
    if "gold_rows" in report:
        judged = f"{report['gold_rows']} rows have labels of people; the others have those of the LLMs. " + (
            "The figures are of the former, out of sample."
            if figures
            else "These are too few to measure: **no accuracy is known**, and probabilities are not calibrated."
        )
    if "agreement_with_llms" in report:
        figures.append(["Encoder gives the LLMs' label, out of fold", f"{report['agreement_with_llms']:.4f}"])
    for name, value in zip(
        source_names(clf.model_.config), report.get("label_model", {}).get("estimated_accuracy", []), strict=False
    ):
        figures.append([f"{plain(name)}: accuracy, estimated from how the LLMs agree, not measured", f"{value:.3f}"])
    lines = [
        "# Training",
        f"{report['rows']} rows of {plain(report['data'])}, {report['scored_rows']} of them with LLM scores; "
        f"{len(clf.classes_)} classes. Encoder: {how}. {report['seconds_in_all']:.0f} s, ${report['cost_usd']:.4f}.",
        judged,
        markdown_table(["Result", "Value"], figures),
        *_encoder_side(report),
        *_fusion(report.get("fusion", {}), source_names(clf.model_.config)),
    ]
    return "\n\n".join(lines) + "\n"


def _encoder_side(report: dict[str, Any]) -> list[str]:
    """Candidates for the encoder side and, for multi-label, whether its classes are modelled jointly."""
    weights: dict[str, float] = report.get("encoder_weights", {})
    own = report["encoder_training"]
    rows = [
        [_ENCODER_SIDE.get(name, plain(name)), f"{loss:.4f}", _weight(weights.get("encoder" if name == own else name))]
        for name, loss in sorted(report["encoder_log_loss"].items(), key=lambda x: _place(x[0]))
    ]
    told = "The encoder's side. A lower log loss is better. The logits of the parts are added with these weights:"
    lines = [told, markdown_table(["Candidate", "Log loss", "Weight"], rows)]
    if losses := report.get("classes", {}).get("log_loss"):
        kept = "together" if report["classes"]["chosen"] == "together" else "each by itself"
        lines.append(
            f"Classes are judged {kept}: log loss {losses['together']:.4f} together, {losses['apart']:.4f} apart."
        )
    return lines


def _place(name: str) -> int:
    return list(_ENCODER_SIDE).index(name) if name in _ENCODER_SIDE else len(_ENCODER_SIDE)


def _fusion(fusion: dict[str, Any], names: list[str]) -> list[str]:
    """Candidates for the fusion, the weight of each, and the choice."""
    if "log_loss" not in fusion:
        return [f"Fusion: {plain(fusion['chosen'])}."] if "chosen" in fusion else []
    titles = {"encoder": "Encoder alone", "fusion": "Fusion: these, by weight", "fusion with mlp": "Fusion with MLP"}
    titles |= {f"llm {p}": f"{plain(name)} alone" for p, name in enumerate(names)}
    losses, weights = fusion["log_loss"], fusion.get("weights", {})

    def place(name: str) -> tuple[int, float]:
        kind, _, rest = name.partition(" ")
        return ["encoder", "llm", "pool", "fusion"].index(kind), -float(rest) if kind == "pool" else len(name)

    rows = [
        [
            titles.get(name) or f"Pool, penalty {name.removeprefix('pool ')}",
            f"{losses[name]:.4f}",
            _weight(weights.get(name)),
        ]
        for name in sorted(losses, key=place)
    ]
    chosen = f"Chosen: {plain(fusion['chosen'])}."
    if "fusion with mlp" in losses and fusion["chosen"] == "pool":
        chosen += " The MLP was left out: it is not better by more than half a standard error."
    return [
        f"Ways to combine the sources, on the {fusion['rows']} rows that have scores. A pool is a weighted sum of "
        "their logits. With a high penalty it has little more than one weight per source; with a low one it also "
        "corrects single classes. The fusion is the mean of the candidates by weight:",
        markdown_table(["Candidate", "Log loss", "Weight"], rows),
        chosen,
    ]


def _weight(weight: float | None) -> str:
    return "" if weight is None else f"{weight:.3f}"
