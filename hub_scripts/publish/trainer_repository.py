"""Prepares the output folder of `LabelFusionTrainer` for a push: code, card, check for secrets."""

from pathlib import Path
from typing import Any

from ...evaluation.markdown import markdown_table
from ..cards.model_card import update_card
from .secret_files import refuse_secret_files

METADATA = ("language", "license", "tags", "dataset")  # arguments of `Trainer.push_to_hub` that go into the card


def prepare_repository(trainer: Any, **metadata: Any) -> None:
    """Prepare a Trainer's output folder for a push.

    Args:
        trainer: The Trainer. An adapter of PEFT gets PEFT's card.
        **metadata: `language`, `license`, `tags` and `dataset` for the card.

    Raises:
        ValueError: If a file holds something like a credential, or for other metadata.
    """
    from huggingface_hub import ModelCard

    unknown = sorted(name for name, value in metadata.items() if value is not None and name not in METADATA)
    if unknown:
        raise ValueError(
            f"The card knows no {unknown}; it takes {', '.join(METADATA)}. The rest comes from the config."
        )
    folder = Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "create_or_update_model_card"):  # a PEFT adapter; with a config it would pass for a whole model
        model.create_or_update_model_card(str(folder))
        path = folder / "README.md"
    else:
        model.config.save_pretrained(folder)  # with the code of a self-contained model
        path = update_card(folder, trainer.hub_model_id)
    card = ModelCard.load(path)
    for name in METADATA:
        given = metadata.get(name)
        if given is not None and name in ("tags", "dataset"):
            name, given = ("datasets" if name == "dataset" else name), [given] if isinstance(given, str) else given
            given = list(dict.fromkeys([*(getattr(card.data, name, None) or []), *given]))
        if given is not None:
            setattr(card.data, name, given)
    figures = _last_evaluation(trainer)
    if figures and HEADING not in card.text:
        card.text = card.text.rstrip() + f"\n\n{HEADING}\n\n{figures}\n"
    path.write_text(str(card), encoding="utf-8")
    files = [file for file in folder.rglob("*") if file.is_file()]  # the Trainer pushes all but its checkpoints
    refuse_secret_files([f for f in files if not f.relative_to(folder).parts[0].startswith("checkpoint-")], folder)


HEADING = "## Last evaluation in training"


def _last_evaluation(trainer: Any) -> str:
    """The figures of the Trainer's last evaluation as a table; empty if there was none."""
    logs = [log for log in trainer.state.log_history if any(name.startswith("eval_") for name in log)]
    skipped = ("_runtime", "_per_second")
    rows = [
        [name.removeprefix("eval_").replace("_", " "), f"{value:.4f}"]
        for name, value in (logs[-1] if logs else {}).items()
        if name.startswith("eval_") and not name.endswith(skipped) and isinstance(value, int | float)
    ]
    return f"After step {logs[-1]['step']}:\n\n{markdown_table(['Measure', 'Value'], rows)}" if rows else ""
