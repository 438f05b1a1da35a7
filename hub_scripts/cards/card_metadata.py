"""Model metadata for the Hub: the metadata block of the card, `model-index`, and the files in `.eval_results`."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...evaluation.metrics import METRIC_TITLES
from ...evaluation.reports.report_content import FUSION

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCardData

    from ...configuration import LabelFusionConfig

# Fields that only people can provide; kept when a card is rewritten.
KEPT = ("license", "license_name", "license_link", "language", "datasets", "co2_eq_emissions", "thumbnail")
EVAL_RESULTS = Path(".eval_results") / "labelfusion.yaml"
_FILES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".txt")


def card_data(
    config: "LabelFusionConfig", report: dict[str, Any] | None, name: str, known: dict[str, Any]
) -> "ModelCardData":
    """The metadata of the card.

    Args:
        config: The model's config, with the record of its training.
        report: The report of its evaluation, if there is one.
        name: Name that users load the model by.
        known: Values for `KEPT` fields; missing ones that the run recorded (data set, carbon) are added.
    """
    from huggingface_hub import ModelCardData

    encoder = str(config.encoder_config._name_or_path or "")
    trained = config.fusion_report or {}
    derived: dict[str, Any] = {"co2_eq_emissions": _carbon(trained)}
    if is_hub_id(data := dataset_id(str(trained.get("data", "")))):
        derived["datasets"] = [data]
    return ModelCardData(
        library_name="labelfusion",
        pipeline_tag="text-classification",
        tags=["labelfusion", "text-classification", "transformers", *(["llm"] if config.num_providers else [])],
        base_model=encoder if is_hub_id(encoder) else None,
        metrics=["accuracy", "f1"],
        model_name=name.split("/")[-1],
        eval_results=_eval_results(config, report) or None,
        **{**derived, **known},
    )


def metadata_of(card: Path) -> dict[str, Any]:
    """The metadata of a card; empty without a card.

    Raises:
        ValueError: If they are not valid YAML.
    """
    from huggingface_hub import metadata_load

    try:
        return (metadata_load(card) if card.is_file() else None) or {}
    except Exception as error:  # from the YAML parser: a card may have been edited by hand
        raise ValueError(f"{card.name} has metadata that are not valid YAML; fix or delete it. ({error})") from None


def write_eval_results(folder: Path, report: dict[str, Any] | None, name: str) -> None:
    """Write `.eval_results/labelfusion.yaml` for an evaluation on a Hub data set; else remove an earlier file.

    The Hub shows the result on the model's page, and on the data set's leaderboard if it is a benchmark. Format:
    https://huggingface.co/docs/hub/eval-results.
    """
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    path = folder / EVAL_RESULTS
    data = str(report["data"]) if report else ""
    if report is None or not is_hub_id(dataset_id(data)):
        path.unlink(missing_ok=True)
        return
    metric = "exact match" if report["multi_label"] else "accuracy"
    split = data.partition(":")[2] or "train"
    entry = EvalResultEntry(
        dataset_id=dataset_id(data),
        task_id="default",
        value=round(float(report["sources"][FUSION]["accuracy"]["value"]), 4),
        source_url=f"https://huggingface.co/{name}/blob/main/evaluation/report.md" if "/" in name else None,
        source_name="LabelFusion evaluation" if "/" in name else None,
        notes=f"{metric} of the fusion, {report['rows']} rows of the split {split}, LLM policy {report['llm_policy']}",
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False), encoding="utf-8")


def is_hub_id(name: str) -> bool:
    """Whether `name` is a Hub id, not a local file or folder, nor an `embedded/...` encoder of a package."""
    shape = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", name)
    private = name.startswith("embedded/") or name.lower().endswith(_FILES) or Path(name).exists()
    return bool(shape) and not private


def dataset_id(data: str) -> str:
    """`user/data:split` without the split."""
    return data.partition(":")[0]


def _carbon(trained: dict[str, Any]) -> dict[str, Any] | None:
    """`co2_eq_emissions` in the Hub's format, in grams, if measured."""
    measured = trained.get("emissions")
    if not measured:
        return None
    frozen = trained.get("encoder_training") not in ("contrastive", "full", "lora")
    how = "training a head on a frozen encoder" if frozen else "fine-tuning"
    found = {"emissions": round(1000 * measured["kg"], 4), "source": "CodeCarbon", "training_type": how}
    if measured.get("country"):
        found["geographical_location"] = measured["country"]
    return found


def _eval_results(config: "LabelFusionConfig", report: dict[str, Any] | None) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    split = None
    if report is not None:
        fusion = report["sources"][FUSION]
        values = {k: fusion[k]["value"] for k in ("accuracy", "macro_f1", "micro_f1", "log_loss", "brier")}
        values["ece"], data = fusion["ece"], str(report["data"])
        dataset, _, split = data.partition(":")
    else:
        trained = config.fusion_report or {}
        values = trained.get("out_of_sample", {})
        dataset = dataset_id(str(trained.get("data", "")))
        data = f"{trained.get('data', 'training data')} (out of sample, cross-fitted)"
    metrics = {"accuracy": "accuracy", "macro_f1": "f1", "micro_f1": "f1"}
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Text classification",
            dataset_type=dataset if is_hub_id(dataset) else "custom",
            dataset_name=data,
            dataset_split=split or None,
            metric_type=metrics.get(name, name),
            metric_name=METRIC_TITLES[name] if name != "accuracy" or not config.multi_label else "Exact match",
            metric_value=round(float(value), 4),
        )
        for name, value in values.items()
        if value is not None and name in METRIC_TITLES
    ]
