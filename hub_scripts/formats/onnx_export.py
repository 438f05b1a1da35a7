"""Exports a model to ONNX: one graph from token ids and LLM scores to logits, and one for the fusion alone."""

import logging
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..io.model_folder import check_model_folder, is_model_folder

if TYPE_CHECKING:
    import torch

    from ...modeling_labelfusion import LabelFusionForSequenceClassification

TOLERANCE = 1e-4  # largest accepted difference of a logit
_LARGEST_FILE = 1 << 30  # ONNX files are limited to 2 GiB; larger weights go into a separate file


def export_onnx(folder: str | Path, out_dir: str | Path) -> float:
    """Write a saved model as ONNX, with its config and tokenizer, and check it against the original.

    `model.onnx` takes `input_ids` and `attention_mask`, int64 `(batch, sequence)`, and, if the model has LLMs,
    `llm_scores`, float32 `(batch, num_providers, num_labels)`, NaN for missing; batch and sequence are free. It gives
    `logits` and `encoder_logits`, float32 `(batch, num_labels)`, and the float32 `sentence_embedding` `(batch,
    hidden_size)`. `fusion.onnx` takes `sentence_embedding` and `llm_scores`: to encode first and query LLMs later.

    Args:
        folder: Folder of a saved model.
        out_dir: Folder to write.

    Returns:
        The largest difference between a logit of the original and of the export, on random inputs.

    Raises:
        ImportError: Without onnx, onnxscript or ONNX Runtime.
        ValueError: If the export differs by more than `TOLERANCE`, `folder` holds no model, or the encoder needs token
            types.
    """
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error}. The export needs: pip install 'labelfusion-transformers[onnx]'.") from None
    import torch

    from ...modeling_labelfusion import LabelFusionForSequenceClassification
    from ...modeling_labelfusion.onnx_labelfusion import FUSION, WHOLE, LabelFusionOnnxModel

    folder, out = Path(folder), Path(out_dir)
    check_model_folder(folder)
    if folder.resolve() == out.resolve():
        raise ValueError(f"The export goes into a folder of its own, such as {str(folder / 'onnx')!r}.")
    if is_model_folder(out) and not (out / WHOLE).is_file():
        raise ValueError(f"{str(out)!r} is the folder of a model: give another one for the export.")
    model = LabelFusionForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    _check_tokenizer(folder, model)
    if model.config.text_pairs:
        raise ValueError("The model classifies pairs of texts, and the exported graph has no input for token types.")
    model.set_heads(quick_size=0)  # the graphs hold the whole model
    model.config.calibration.pop("speed", None)
    out.mkdir(parents=True, exist_ok=True)
    batch = example(model, 2, 8)
    batch_size, length = torch.export.Dim("batch"), torch.export.Dim("sequence")
    free: dict[str, Any] = {name: {0: batch_size, 1: length} for name in ("input_ids", "attention_mask")}
    if model.config.num_providers:
        free["llm_scores"] = {0: batch_size}
    _export(_whole(model), batch, free, ["logits", "encoder_logits", "sentence_embedding"], out / WHOLE)
    batch = {"sentence_embedding": torch.randn(2, model.config.embedding_size)} | {
        k: v for k, v in batch.items() if "llm" in k
    }
    _export(_fusion(model), batch, {k: {0: batch_size} for k in batch}, ["logits", "encoder_logits"], out / FUSION)
    model.config.save_pretrained(out)
    for path in sorted(folder.iterdir()):
        if path.name != "config.json" and path.suffix in (".json", ".txt", ".model"):
            shutil.copy(path, out / path.name)
    difference = compare(model, LabelFusionOnnxModel.from_pretrained(out))
    if not difference <= TOLERANCE:
        raise ValueError(f"The exported model differs from {str(folder)!r} by {difference:.2g} in a logit.")
    return difference


def _check_tokenizer(folder: Path, model: "LabelFusionForSequenceClassification") -> None:
    """Refuse an encoder whose tokenizer gives a single text other token types than zeros (XLNet)."""
    from ...modeling_labelfusion.tokenizer_files import load_tokenizer

    if "token_type_ids" not in model._encoder_arguments or not (folder / "tokenizer_config.json").is_file():
        return
    if any(load_tokenizer(folder)("a text").get("token_type_ids", [])):
        raise ValueError(
            "The tokenizer gives token types to a single text, and the exported graph has no input for them."
        )


def compare(model: "LabelFusionForSequenceClassification", exported: Any) -> float:
    """The largest difference between a logit of two models, on random inputs of several shapes with missing scores.

    For a baseline fusion, between probabilities: its logits are those of clipped probabilities, which magnify rounding.
    """
    import torch

    from ...modeling_labelfusion.baselines import BASELINES

    largest = 0.0
    for count, length in ((1, 3), (3, 17), (5, 9)):
        batch = example(model, count, length)
        with torch.inference_mode():
            wanted, found = model(**batch), exported(**batch)
            embedding = model.encode(batch["input_ids"], batch["attention_mask"])[0]
            again = exported.fuse(exported.encode(**batch)[0], batch.get("llm_scores"))[0]
            fused = model.fuse(embedding, batch.get("llm_scores"))[0]
        pairs = [(wanted.logits, found.logits), (wanted.encoder_logits, found.encoder_logits), (fused, again)]
        if model.config.fusion in BASELINES:
            pairs = [(a.sigmoid(), b.sigmoid()) for a, b in pairs]
        largest = max(largest, *(float((a - b).abs().max()) for a, b in pairs))
    return largest


def example(model: "LabelFusionForSequenceClassification", count: int, length: int) -> "dict[str, torch.Tensor]":
    """A random batch: padded rows, and rows with all, some and no LLM scores."""
    import torch

    config = model.config
    random = torch.Generator().manual_seed(count)
    padding = config.encoder_config.pad_token_id or 0
    ids = torch.randint(0, config.encoder_config.vocab_size, (count, length), generator=random)
    mask = torch.arange(length) < torch.randint(1, length + 1, (count, 1), generator=random)
    mask[0] = True
    ids = torch.where(mask, torch.where(ids == padding, (padding + 1) % config.encoder_config.vocab_size, ids), padding)
    batch = {"input_ids": ids, "attention_mask": mask.long()}
    if config.num_providers:
        scores = torch.rand(count, config.num_providers, config.num_labels, generator=random) + 0.01
        scores = scores / 1.02 if config.multi_label else scores / scores.sum(-1, keepdim=True)
        scores[1::3] = float("nan")
        scores[2::3, 0] = float("nan")
        batch["llm_scores"] = scores
    return batch


def _export(
    module: "torch.nn.Module", batch: dict[str, Any], free: dict[str, Any], outputs: list[str], path: Path
) -> None:
    import torch

    size = sum(p.numel() * p.element_size() for p in module.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from the exporter itself
        torch.onnx.export(
            module,
            kwargs=batch,
            f=str(path),
            input_names=list(batch),
            output_names=outputs,
            dynamic_shapes=free,
            dynamo=True,
            verbose=False,
            external_data=size > _LARGEST_FILE,
        )


def _whole(model: "LabelFusionForSequenceClassification") -> "torch.nn.Module":
    import torch

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(
            self, input_ids: torch.Tensor, attention_mask: torch.Tensor, llm_scores: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, ...]:
            embedding, _ = self.model.encode(input_ids=input_ids, attention_mask=attention_mask)
            logits, encoder_logits = self.model.fuse(embedding, llm_scores)
            # Named outputs must be distinct tensors, but a model without LLMs has one tensor for both logits.
            return logits.clone(), encoder_logits.clone(), embedding

    return Whole()


def _fusion(model: "LabelFusionForSequenceClassification") -> "torch.nn.Module":
    import torch

    class Fusion(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in model.named_children():
                if name != "encoder" and part is not None:
                    self.add_module(name, part)

        def forward(
            self, sentence_embedding: torch.Tensor, llm_scores: torch.Tensor | None = None
        ) -> tuple[torch.Tensor, torch.Tensor]:
            logits, encoder_logits = model.fuse(sentence_embedding, llm_scores)
            return logits.clone(), encoder_logits.clone()

    return Fusion()
