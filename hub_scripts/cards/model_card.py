"""Builds the model card, `README.md` with metadata, from a model's config and its evaluation report."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration import ProviderKind
from ...evaluation.markdown import markdown_table, plain
from ...evaluation.metrics import METRIC_TITLES
from ...evaluation.reports.report import comparisons_table, seen_before, sources_table
from ...evaluation.reports.report_content import FUSION
from .card_cost import carbon_sentence, cost_section, dollars
from .card_metadata import KEPT, card_data, is_hub_id, metadata_of, write_eval_results
from .llm_needs import keys

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from ...configuration import LabelFusionConfig

MARKER = (
    "<!-- Written by labelfusion, and written anew with the model; delete this line to keep changes of your own. -->"
)
TEMPLATE = Path(__file__).with_name("model_card_template.md")


def update_card(folder: Path, repo_id: str | None = None, **known: Any) -> Path:
    """Write the card into a model's folder, unless it has an edited card; return its path.

    Args:
        folder: Folder of a saved model. Figures come from its `evaluation/report.json`, if present, else from the
            out-of-sample figures of the training.
        repo_id: Name that users load the model by. Default: the folder's name.
        **known: `license`, `language` and other metadata that only people can provide (`card_metadata.KEPT`). Values in
            an earlier card are kept.
    """
    from huggingface_hub import metadata_save

    path = folder / "README.md"
    given = {k: v for k, v in known.items() if v}
    if not path.exists() or MARKER in path.read_text(encoding="utf-8"):
        kept = {k: v for k, v in metadata_of(path).items() if k in KEPT and v}
        path.write_text(str(build_card(folder, repo_id, **{**kept, **given})), encoding="utf-8")
    elif given:
        metadata_save(path, {**metadata_of(path), **given})
    write_eval_results(folder, _read_report(folder), repo_id or folder.resolve().name)
    return path


def build_card(folder: Path, repo_id: str | None = None, **known: Any) -> "ModelCard":
    """The card of the model in `folder`; the arguments are those of `update_card`."""
    from huggingface_hub import ModelCard

    from ...configuration import LabelFusionConfig

    config = LabelFusionConfig.from_pretrained(folder)
    name = repo_id or folder.resolve().name
    report = _read_report(folder)
    data = card_data(config, report, name, known)
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        marker=MARKER,
        title=plain(name.split("/")[-1]),
        encoder=_encoder_phrase(config, str(config.encoder_config._name_or_path or "")),
        llm_phrase=_llm_phrase(config),
        llm_table=_llm_table(config),
        llm_notes=_llm_notes(config),
        asks=any(p.kind != ProviderKind.RECORDED for p in config.providers),
        num_labels=config.num_labels,
        num_providers=config.num_providers,
        multi_label=config.multi_label,
        labels=", ".join(f"{plain(n)}{_described(config, n)}" for n in config.label_names) + ".",
        self_contained=config.self_contained,
        text_pairs=config.text_pairs,
        model_id=json.dumps(name, ensure_ascii=False),
        results=_results(config, report),
        calibration=_calibration(folder, config, report),
        cost=cost_section(folder, config, report),
        training=_training(config),
        limits=_limits(config, report),
        licence=_licence(data.to_dict()),
    )


def _read_report(folder: Path) -> dict[str, Any] | None:
    path = folder / "evaluation" / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _encoder_phrase(config: "LabelFusionConfig", name: str) -> str:
    kind = config.encoder_config.model_type
    if is_hub_id(name):
        return f"the encoder [{plain(name)}](https://huggingface.co/{name})"
    if name.startswith("embedded/"):
        return f"the encoder {plain(name.removeprefix('embedded/'))}"
    return f"a {plain(kind)} encoder ({config.encoder_config.num_hidden_layers} layers)"


def _llm_phrase(config: "LabelFusionConfig") -> str:
    nameless = sum(p.name == "recorded" for p in config.providers)
    found = [plain(p.name) for p in config.providers if p.name != "recorded"]
    if nameless:
        found.append("recorded LLM scores" if nameless == 1 else f"recorded scores of {nameless} LLMs")
    if not found:
        return "no LLM so far (it was trained without LLM scores)"
    return "the scores of " * (not nameless) + " and ".join(filter(None, [", ".join(found[:-1]), found[-1]]))


def _llm_table(config: "LabelFusionConfig") -> str:
    from ...pipelines.formatting import source_names

    rows = []
    for name, p in zip(source_names(config), config.providers, strict=True):
        if p.kind == ProviderKind.RECORDED:
            rows.append([plain(name), "brought with each text", "–"])
            continue
        prompt = p.prompt if p.prompt == "zero-shot" else f"{p.prompt}, {p.num_examples} examples"
        rows.append([plain(name), plain(p.method), plain(prompt + (", guidelines" if p.guidelines else ""))])
    return markdown_table(["LLM", "Scores by", "Prompt"], rows, 3) if rows else ""


def _llm_notes(config: "LabelFusionConfig") -> str:
    notes = []
    if any(p.kind == ProviderKind.RECORDED for p in config.providers):
        notes.append("Recorded scores are not queried: give them with the text, as `llm_scores` (providers x classes).")
    if any(p.kind == ProviderKind.CALLABLE for p in config.providers):
        notes.append("A Python function is not saved with the model: pass it as `llm=`.")
    if needed := keys(config):
        notes.append(f"Asking an LLM needs its key in the environment ({', '.join(needed)}).")
    return " ".join(notes)


def _described(config: "LabelFusionConfig", name: str) -> str:
    description = config.class_descriptions.get(name)
    return f" ({plain(description)})" if description else ""


def _results(config: "LabelFusionConfig", report: dict[str, Any] | None) -> str:
    metric = "Exact match" if config.multi_label else "Accuracy"
    if report is not None:
        intro = f"On {report['rows']} rows of {plain(report['data'])}; in brackets, 95 % bootstrap intervals."
        parts = [intro, seen_before(report), sources_table(report)]
        if report["comparisons"]:
            parts.append(comparisons_table(report))
        parts.append("[The whole report](evaluation/report.md): every class, every error, how it was measured.")
        return "\n\n".join(filter(None, parts))
    figures = (config.fusion_report or {}).get("out_of_sample")
    if not figures and "gold_rows" in (config.fusion_report or {}):
        return (
            "No accuracy is known: the model learnt from labels of LLMs, and labels of people are too few to measure."
        )
    if not figures:
        return ""
    rows = [[metric if k == "accuracy" else METRIC_TITLES.get(k, plain(k)), f"{v:.4f}"] for k, v in figures.items()]
    return (
        "Out of sample, each training row judged by a fit that had not seen it (cross-fitting):\n\n"
        + markdown_table(["Measure", "Value"], rows)
    )


def _calibration(folder: Path, config: "LabelFusionConfig", report: dict[str, Any] | None) -> str:
    ece = (
        report["sources"][FUSION]["ece"] if report else (config.fusion_report or {}).get("out_of_sample", {}).get("ece")
    )
    if ece is None:
        return ""
    text = f"Calibration was fitted on out-of-sample outputs. Expected calibration error of the fusion: {ece:.3f}."
    if config.thresholds is not None:
        named = ", ".join(f"{plain(n)} {t:g}" for n, t in zip(config.label_names, config.thresholds, strict=True))
        text += f" A class is given from these probabilities: {named}."
    if (folder / "evaluation" / "reliability.png").is_file():
        text += "\n\n![Reliability diagram](evaluation/reliability.png)"
    return text


def _training(config: "LabelFusionConfig") -> str:
    report = config.fusion_report
    if not report:
        return ""
    source = f" of {plain(report['data'])}" if "data" in report else ""
    ways = {
        "probe": "stayed frozen under a linear head",
        "contrastive": "was trained contrastively, then given a linear head",
        "full": "was fine-tuned",
        "lora": "was fine-tuned with LoRA",
    }
    how = ways.get(report["encoder_training"])
    text = f"Fitted on {report['rows']} rows{source}, {report['scored_rows']} of them with LLM scores."
    text += f" The encoder {how}." if how else ""
    chosen = report.get("fusion", {}).get("chosen")
    text += f" Combination chosen by cross-validated log loss: {plain(chosen)}." if chosen else ""
    if "seconds_in_all" in report:
        cost = report.get("cost_usd", 0.0)
        text += f" It took {report['seconds_in_all']:.0f} s" + (
            f" and {dollars(cost)} of LLM answers." if cost else "."
        )
    return " ".join(filter(None, [text, carbon_sentence(report)]))


def _licence(metadata: dict[str, Any]) -> str:
    name = metadata.get("license_name") or metadata.get("license")
    link = metadata.get("license_link")
    return f"[{plain(name)}]({link})" if name and link else plain(name) if name else ""


def _limits(config: "LabelFusionConfig", report: dict[str, Any] | None) -> str:
    points = [
        "It knows the classes above and no other: a text of none of them gets one all the same."
        if not config.multi_label
        else "It knows the classes above and no other.",
        "Figures hold for texts like those that it was measured on; other domains, languages and times do worse.",
    ]
    if any(p.kind != ProviderKind.RECORDED for p in config.providers):
        points.append("LLMs change behind their names; scores, cost and results change with them.")
        points.append("Queried texts are sent to the provider of the LLM, unless it runs locally.")
    if report:
        weak = [e for e in report["per_class"] if e["support"] and (e["sources"][FUSION]["f1"] or 0.0) < 0.5]
        if weak:
            named = ", ".join(f"{plain(e['class'])} ({e['support']} rows)" for e in weak)
            points.append(f"Classes with an F1 below 50 %: {named}.")
    points.append("The terms of the encoder, of the training data and of the LLMs apply.")
    return "\n".join(f"- {point}" for point in points)
