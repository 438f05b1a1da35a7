"""`pipeline("labelfusion-classification")`: classifies texts, and queries the LLMs according to the policy."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Pipeline

from ..modeling_labelfusion.encoding import TextEncoder, encode_texts, tokenize
from ..modeling_labelfusion.encoding import max_length as longest_input
from ..modeling_labelfusion.tokenizer_files import tokenizer_error
from ..routing.policy import Policy, check_policy
from ..routing.run_options import Routing
from ..scoring.model_scorers import DeferredScorers, Scorers, build_scorers
from ..scoring.session.scorer import TextScorer
from .formatting import UNSET, format_answers, read_function
from .inference import ENCODING, Inference, infer
from .inputs import Row, given_scores, iterate, read_input, read_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..modeling_labelfusion import LabelFusionForSequenceClassification

TASK = "labelfusion-classification"


class LabelFusionPipeline(Pipeline):
    """Classify texts with a [`LabelFusionForSequenceClassification`]. Outputs are like `TextClassificationPipeline`'s.

    ```python
    pipe = pipeline("labelfusion-classification", model="user/model")
    pipe("Shares fell.")                                    # [{"label": "Business", "score": 0.98}]
    pipe(texts, llm_policy=0.2, return_sources=True)        # 20 % of the texts are sent to the LLM
    for answer in pipe(KeyDataset(dataset, "text")): ...    # streams: bounded memory, the LLM works ahead
    ```

    Args:
        llm: LLMs to query instead of the providers that the model declares, see `build_scorers`. A model whose LLM is a
            Python function needs this function here.
        scorers: `Scorer`s, one per provider, instead of `llm`.
        llm_options: For `scoring.build_scorer`, such as `{"cache": False}`.
        **kwargs: Those of `Pipeline` (`model`, `tokenizer`, `device`, `batch_size`, ...) and of `__call__`.
    """

    _load_tokenizer: Any = None  # loaded by the pipeline itself, for clearer errors
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False
    _load_feature_extractor: Any = False

    model: "LabelFusionForSequenceClassification"
    tokenizer: "PreTrainedTokenizerBase"  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        llm: Any = None,
        scorers: Sequence[TextScorer] | None = None,
        llm_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if llm is not None and scorers is not None:
            raise ValueError("Give `llm` or `scorers`, not both.")
        super().__init__(*args, **kwargs)
        if self.model.config.model_type != "labelfusion":
            raise ValueError(
                f"The model is of type {self.model.config.model_type!r}, not 'labelfusion'; use the pipeline "
                "'text-classification' for it, or give a LabelFusion model."
            )
        if self.tokenizer is None:
            raise tokenizer_error(self.model.name_or_path)
        self.scorers: Scorers
        if scorers is not None:
            self.scorers = scorers
        else:
            options = {"embed": self._embed, **(llm_options or {})}
            if llm is not None and not self.model.config.num_providers:
                build_scorers(self.model.config, llm)  # raises, as `llm` is not needed
            self.scorers = DeferredScorers(self.model.config, llm, options)

    def __call__(
        self, inputs: Any, *args: Any, num_workers: int | None = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Classify.

        Args:
            inputs: A text; a dict with `text` and optionally `llm_scores`; a list of them; or an iterator, a
                `datasets.Dataset` with a column `text`, a `KeyDataset` or a torch `Dataset`, which are read lazily.
            *args: Not used.
            num_workers: Not used: inputs are read in one process.
            batch_size: Texts per forward pass of the encoder. Default: 32.
            **kwargs: The following options, which may also be given at construction.
            top_k: Return the k best classes (`None`: all).
            function_to_apply: The scores of fusion and encoder: `"sigmoid"` or `"softmax"` of the logits, `"none"`: the
                logits, `"default"`: calibrated probabilities. The labels do not depend on it.
            return_sources: Also return the probabilities of the encoder and of each LLM.
            llm_policy: Which texts are sent to the LLMs: `"always"`, `"never"`, `"auto"` (the calibrated gate), or a
                share in [0, 1]: the texts with the highest gate values; exact for a list.
            max_cost_usd: Maximum LLM cost of this call in US dollars. After that, only the encoder is used.
            target_accuracy: Instead of a policy: the fewest LLM queries that reached this accuracy on held-out rows.
            deadline_s: Seconds to wait for the LLM answer about a text. If it is missing, `llm_missing` is
                `"deadline"`; with several LLMs, this follows the name of each LLM that was too slow. The first call of
                a process also imports the client, which may take longer than the deadline.
            hedge_s: Seconds after which a slow request is sent once more, or `"p95"`; the first answer counts.
            max_risk: Abstain on doubtful texts (`abstained`, with `label` None, the reason in `abstained_why` and a
                `label_set`), so that at most this share of all texts gets a wrong answer, see [`RiskControl`].
            speed: `"full"`; or `"balanced"`, `"fast"`: a head that needs no encoder answers easy texts, and at most 0.1
                or 0.3 points of accuracy are lost, as expected on held-out rows.
            llm_scores: Precomputed scores for a list or a single text: one entry `(num_providers, num_labels)` per
                text, None or NaN for missing. A text with scores is not sent to the LLMs.
            empty_texts: `"error"` for a text that is missing, empty or blank, or `"skip"`: its result is None.
            max_length: Longest input in tokens. Default and maximum: the limit of tokenizer and encoder.
            backend: `"torch"`, or `"openvino"`, which is faster on many CPUs.
            truncation: Accepted for compatibility; texts are always truncated.
            padding: Accepted for compatibility; batches are always padded.

        Returns:
            A list for a list of texts, an iterator for lazy inputs. Each text gives `{"label", "score"}`; with `top_k`,
            a list of these, best first; for multi-label without `top_k`, a list of the classes that reach their
            threshold. With `return_sources`, each text gives a dict: `{"label", "score"}` or, instead of a list,
            `{"labels": [...]}`, with `sources` (`{"encoder": {label: probability}, "<provider>": ... or None}`),
            `llm_called`, `cost_usd` and, if a wanted answer is missing, the reason as `llm_missing`. A single text
            without `top_k` gives a list, a single dict does not.

        Raises:
            ValueError: For an invalid input or option. The error names the position of the input.
            ScoringError: If an LLM cannot be queried at all (no key, unknown model).
        """
        bare_text = isinstance(inputs, str) and "top_k" not in kwargs
        _, forward_params, post_params = self._sanitize_parameters(**kwargs)
        forward: dict[str, Any] = {**self._forward_params, **forward_params}
        forward["batch_size"] = batch_size or self._batch_size or 32
        post: dict[str, Any] = {**self._postprocess_params, **post_params}
        llm_scores, empty = forward.pop("llm_scores", None), forward.pop("empty_texts", "error")
        if isinstance(inputs, str | Mapping):
            rows = read_inputs([inputs], None if llm_scores is None else [llm_scores], empty)
            (answer,) = self._answer(rows, forward, post)
            # As in TextClassificationPipeline, a single text gives a list. Multi-label results are lists already.
            is_list = isinstance(answer, list) and "top_k" not in post
            return [answer] if bare_text and not is_list else answer
        if hasattr(inputs, "iloc") and hasattr(inputs, "columns"):
            raise ValueError("The pipeline takes no DataFrame; give it `frame['text'].tolist()`.")
        if isinstance(inputs, Sequence) or hasattr(inputs, "tolist"):
            return list(self._answer(read_inputs(inputs, llm_scores, empty), forward, post))
        if llm_scores is not None:
            raise ValueError(
                "`llm_scores` goes with a text or a list of texts; let a stream give {'text': ..., 'llm_scores': ...}."
            )
        if not hasattr(inputs, "__iter__") and not (hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__")):
            raise ValueError(
                f"The pipeline got {type(inputs).__name__}, expected a text, a dict, a list, an iterator or a dataset."
            )
        if isinstance(inputs, Iterator):
            return self._answer(self._rows(inputs, empty), forward, post)
        return _Answers(inputs, lambda: self._answer(self._rows(inputs, empty), forward, post))

    def _rows(self, inputs: Any, empty_texts: str) -> Iterator[Row]:
        return (read_input(item, i, empty_texts) for i, item in enumerate(iterate(inputs)))

    def _answer(self, rows: list[Row] | Iterator[Row], forward: dict[str, Any], post: dict[str, Any]) -> Iterator[Any]:
        config = self.model.config
        encoding = {name: value for name, value in forward.items() if name in ENCODING}
        asked = {name: value for name, value in forward.items() if name not in ENCODING}
        routing = Routing.parse(config, max_risk=post.get("max_risk"), **asked)
        style = {name: value for name, value in post.items() if name != "max_risk"}
        parts = infer(TextEncoder(self.model, self.tokenizer, **encoding), rows, routing, self.scorers)
        return (answer for part in parts for answer in format_answers(part, config, control=routing.control, **style))

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Encode texts, for prompts with the nearest examples."""
        return encode_texts(self.model, self.tokenizer, texts).numpy()[:, : self.model.config.hidden_size]

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model and its tokenizer, without code.

        The base class would add this file and declare it as custom code. Loading would then require
        `trust_remote_code`, even with this package installed.
        """
        self.model.save_pretrained(save_directory, **kwargs)
        self.tokenizer.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(  # type: ignore[override]
        self,
        top_k: int | None = UNSET,
        function_to_apply: Any = UNSET,
        return_sources: bool = UNSET,
        llm_policy: Policy = UNSET,
        max_cost_usd: float | None = UNSET,
        target_accuracy: float | None = UNSET,
        deadline_s: float | None = UNSET,
        hedge_s: float | str | None = UNSET,
        max_risk: float | None = UNSET,
        speed: str = UNSET,
        llm_scores: Any = UNSET,
        empty_texts: str = UNSET,
        max_length: int | None = UNSET,
        backend: str = UNSET,
        truncation: bool = True,
        padding: bool | str = True,
        return_all_scores: bool = UNSET,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if top_k is not UNSET and top_k is not None and not (isinstance(top_k, int | np.integer) and top_k > 0):
            raise ValueError(f"`top_k` must be a positive integer, or None for all classes; got {top_k!r}.")
        if return_all_scores is not UNSET:
            instead = "top_k=None" if return_all_scores else "top_k=1"
            raise ValueError(f"`return_all_scores` was removed from Transformers: use `{instead}`.")
        if function_to_apply is not UNSET:
            read_function(function_to_apply)
        if max_length is not UNSET and max_length is not None and not (isinstance(max_length, int) and max_length > 0):
            raise ValueError(f"`max_length` must be a positive number of tokens, got {max_length!r}.")
        if not truncation:
            raise ValueError("`truncation` cannot be turned off: the encoder takes no more than its maximum length.")
        if llm_policy is not UNSET:
            check_policy(llm_policy)
        if empty_texts not in (UNSET, "error", "skip"):
            raise ValueError(f"`empty_texts` is {empty_texts!r}; expected 'error' or 'skip'.")
        forward = {
            "llm_policy": llm_policy,
            "max_cost_usd": max_cost_usd,
            "target_accuracy": target_accuracy,
            "deadline_s": deadline_s,
            "hedge_s": hedge_s,
            "speed": speed,
            "llm_scores": llm_scores,
            "empty_texts": empty_texts,
        }
        style = {"top_k": top_k, "function_to_apply": function_to_apply}
        groups = (
            {"max_length": max_length},
            {**forward, "max_length": max_length, "backend": backend},
            style | {"return_sources": return_sources, "max_risk": max_risk},
        )
        preprocess, forward, post = ({k: v for k, v in group.items() if v is not UNSET} for group in groups)
        return preprocess, forward, post

    # The standard three steps for one input. `__call__` does not use them, as it works on windows.

    def preprocess(self, input_: Any, max_length: int | None = None) -> dict[str, Any]:  # type: ignore[override]
        """Convert one text or dict to tensors for `forward`."""
        text, scores = read_input(input_)
        limit = longest_input(self.model, self.tokenizer)
        inputs = dict(tokenize(self.tokenizer, [text or ""], min(max_length or limit, limit)))
        return {**inputs, "llm_scores": torch.from_numpy(given_scores([scores], self.model.config))}

    def _forward(self, input_tensors: dict[str, Any]) -> Any:  # type: ignore[override]
        return {**self.model(**input_tensors), "llm_scores": input_tensors["llm_scores"]}

    def postprocess(self, model_outputs: dict[str, Any], **post: Any) -> Any:  # type: ignore[override]
        """Format the output of `forward` for one text."""
        arrays = {name: model_outputs[name].float().numpy() for name in ("logits", "encoder_logits", "llm_scores")}
        inference = Inference(**arrays, llm_called=np.zeros(1, bool), cost_usd=np.zeros(1))
        inference.multi_label = self.model.config.multi_label
        control = Routing.parse(self.model.config, max_risk=post.pop("max_risk", None)).control
        return next(format_answers(inference, self.model.config, control=control, **post))


class _Answers:
    """Results for a dataset: an iterator with the dataset's length, which restarts when it is iterated again."""

    def __init__(self, dataset: Any, start: Callable[[], Iterator[Any]]) -> None:
        self._dataset, self._start = dataset, start
        self._iterator: Iterator[Any] | None = None

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> "_Answers":
        self._iterator = self._start()
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        return next(self._iterator)
