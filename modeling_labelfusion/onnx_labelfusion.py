"""Runs an exported LabelFusion model with ONNX Runtime, in the pipeline or directly."""

import os
import shutil
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers.utils import cached_file

from ..configuration import LabelFusionConfig
from .pretrained import LabelFusionOutput, LabelFusionPreTrainedModel

WHOLE, FUSION = "model.onnx", "fusion.onnx"  # texts to logits; the embedding to logits


class LabelFusionOnnxModel(LabelFusionPreTrainedModel):
    """A model written by `labelfusion export --onnx`, with `forward`, `encode` and `fuse` of the original model.

    ```python
    model = LabelFusionOnnxModel.from_pretrained("news-onnx")
    pipe = pipeline("labelfusion-classification", model=model, tokenizer="news-onnx")
    ```

    Args:
        config: The model's config.
        folder: Folder with `model.onnx` and `fusion.onnx`.
        execution_providers: ONNX Runtime's, such as `["CUDAExecutionProvider", "CPUExecutionProvider"]`. Default: CPU.
        session_options: An `onnxruntime.SessionOptions`.

    Raises:
        ImportError: Without ONNX Runtime.
    """

    def __init__(
        self,
        config: LabelFusionConfig,
        folder: str | os.PathLike[str],
        execution_providers: list[Any] | None = None,
        session_options: Any = None,
    ) -> None:
        try:
            from onnxruntime import InferenceSession
        except ImportError:
            raise ImportError(
                "Running ONNX needs ONNX Runtime: pip install 'labelfusion-transformers[onnx]'."
            ) from None
        super().__init__(config)
        self.folder = Path(folder)
        options = {"providers": execution_providers or ["CPUExecutionProvider"], "sess_options": session_options}
        self._whole, self._fusion = (InferenceSession(str(self.folder / name), **options) for name in (WHOLE, FUSION))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        folder_or_repo: str | os.PathLike[str],
        execution_providers: list[Any] | None = None,
        session_options: Any = None,
        **hub_options: Any,
    ) -> Self:
        """Load an exported model.

        Args:
            folder_or_repo: Folder or Hub id.
            execution_providers: As of the class.
            session_options: As of the class.
            **hub_options: `subfolder`, `revision`, `token`, `cache_dir`, ...

        Raises:
            OSError: If there is no exported model.
        """
        config = LabelFusionConfig.from_pretrained(folder_or_repo, **hub_options)
        whole, _ = (cached_file(str(folder_or_repo), name, **hub_options) for name in (WHOLE, FUSION))
        cached_file(str(folder_or_repo), f"{WHOLE}.data", _raise_exceptions_for_missing_entries=False, **hub_options)
        return cls(config, Path(str(whole)).parent, execution_providers, session_options)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:  # type: ignore[override]
        """Copy the exported files and the config."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(target)
        for path in self.folder.glob("*.onnx*"):
            if path.resolve() != (target / path.name).resolve():
                shutil.copy(path, target / path.name)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Device of the inputs: always the CPU, on whatever device ONNX Runtime computes."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        """float32."""
        return torch.float32

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        llm_scores: torch.Tensor | None = None,
        **_: Any,
    ) -> LabelFusionOutput:
        """Classify; arguments and result are those of [`LabelFusionForSequenceClassification`], without labels."""
        logits, encoder_logits, _embedding = self._run_whole(input_ids, attention_mask, llm_scores)
        return LabelFusionOutput(logits=logits, encoder_logits=encoder_logits)

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> tuple[torch.Tensor, None]:
        """The encoder's embedding, float `(batch, hidden_size)`."""
        return self._run_whole(input_ids, attention_mask, None)[2], None

    def fuse(
        self, embedding: torch.Tensor, llm_scores: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute `(logits, encoder_logits)`, both float `(batch, num_labels)`, from embeddings and LLM scores."""
        given = self._scores(llm_scores, len(embedding))
        logits, encoder_logits = self._fusion.run(None, {"sentence_embedding": embedding.float().numpy(), **given})
        return torch.from_numpy(logits), torch.from_numpy(encoder_logits)

    def _run_whole(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, llm_scores: torch.Tensor | None
    ) -> list[torch.Tensor]:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids.long().numpy(), "attention_mask": mask.long().numpy()}
        outputs = self._whole.run(None, {**inputs, **self._scores(llm_scores, len(input_ids))})
        return [torch.from_numpy(array) for array in outputs]

    def _scores(self, llm_scores: torch.Tensor | None, count: int) -> dict[str, Any]:
        if not self.config.num_providers:
            return {}
        shape = (count, self.config.num_providers, self.config.num_labels)
        if llm_scores is None:
            return {"llm_scores": np.full(shape, np.nan, dtype=np.float32)}
        if tuple(llm_scores.shape) != shape:
            raise ValueError(f"`llm_scores` has shape {tuple(llm_scores.shape)}, expected {shape}.")
        return {"llm_scores": llm_scores.float().numpy()}
