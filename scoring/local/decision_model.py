"""Local decision models: the prompts and answers of Transformers' decision pipeline, many requests in one forward.

Any chat model is one: it reads the logits of the options' labels where its answer would begin. The questions about a
text differ in what follows the text, so that a causal LM reads the text once for all of them (see `local_model`).
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .causal_lm import PromptTree, context_length, load_causal_lm, pick_dtype

MAX_TREE_TOKENS = 16_384  # of the questions in one forward
Prompt = tuple[dict[str, Any], list[Any]]  # of one forward: inputs with `marks`, and Transformers' `Question`s


class DecisionModel:
    """A model that answers System One requests, with the configuration that its repository has for that.

    Args:
        path: Folder or Hub id; weights are read from safetensors, and no code.
        dtype: `"float32"`, `"bfloat16"` or `"float16"`. Default: as for `load_causal_lm`.
        device: Torch device. Default: a GPU if there is one, else the CPU.

    Raises:
        ImportError: If Transformers has no decision models yet.
        OSError: If the model cannot be read.
        ValueError: If it has no chat template, or needs an adapter.
    """

    def __init__(self, path: str | Path, dtype: str | None = None, device: Any = None) -> None:
        try:
            from transformers import AutoModelForDecision, AutoTokenizer
            from transformers.decision import DecisionConfig
        except ImportError:
            raise ImportError("Decision models need transformers 5.23 or newer.") from None
        self.tokenizer = AutoTokenizer.from_pretrained(path)  # one of its own: it gets tokens for marks
        self._lock, self._lm = threading.Lock(), None
        place, kind = pick_dtype(dtype, device)
        try:
            options: dict[str, Any] = {"dtype": kind, "use_safetensors": True, "trust_remote_code": False}
            self.model = AutoModelForDecision.from_pretrained(path, **options).to(place).eval()
            self.config = self.model.decision_config
        except ValueError:  # no head of its own: the logits of the labels
            self._lm = load_causal_lm(path, dtype, device, use_safetensors=True)
            self.model, self.config = self._lm.model, DecisionConfig.from_pretrained(str(path))
        if self.config.adapter:
            raise ValueError(f"it needs the adapter in {self.config.adapter!r}; merge that into its weights")
        if not (self.config.chat_template or self.tokenizer.chat_template):
            raise ValueError("it has neither a decision template nor a chat template")

    @property
    def context(self) -> int:
        """Number of tokens that the model was made for."""
        return context_length(self.model)

    def prompts(self, request: dict[str, Any]) -> list[Prompt]:
        """The prompts of a request, as the pipeline writes them.

        Raises:
            ValueError: For questions that the model cannot answer, such as more options than it has labels.
        """
        with self._lock:
            return list(self.config.prepare_inputs(request, self.tokenizer))

    def cut(self, text: str, max_tokens: int) -> str:
        """The head of a text."""
        text = text[: 32 * max_tokens]  # no token has 32 characters
        if not self.tokenizer.is_fast:
            return text[: 4 * max_tokens]
        with self._lock:
            places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
        return text[: places[max_tokens - 1][1]] if len(places) > max_tokens else text

    @torch.inference_mode()
    def answers(
        self, requests: Sequence[list[Prompt]], batch_size: int = 16, on_batch: Callable[[int], Any] | None = None
    ) -> list[dict[str, Any]]:
        """Answers by name to the `prompts` of each request, in System One's format.

        Args:
            requests: The prompts of each request.
            batch_size: Requests in one forward.
            on_batch: Called after each forward with the number of requests that it finished.
        """
        found: list[dict[str, Any]] = [{} for _ in requests]
        read = self._labels if self._lm is not None else self._heads
        for rows, asked, logits in read(requests, batch_size):
            for number, question in enumerate(asked):
                scores = torch.stack([row[number] for row in logits]).float()
                shares = self.config.logits_processors[question.type](torch.empty(0), scores).softmax(-1).tolist()
                for row, share in zip(rows, shares, strict=True):
                    found[row][question.name] = question.answer(share)
            if on_batch is not None:
                on_batch(len(rows))
        return found

    def _labels(
        self, requests: Sequence[list[Prompt]], batch_size: int
    ) -> Iterator[tuple[list[int], list[Any], list[list[Tensor]]]]:
        """Rows, questions, and for each row the scores of the labels of each question."""
        assert self._lm is not None
        groups: dict[Any, list[tuple[int, list[int]]]] = {}
        asked: dict[Any, list[Any]] = {}
        for row, prompts in enumerate(requests):
            before: list[list[int]] = []  # tokens in front of each answer
            questions: list[Any] = []
            for inputs, several in prompts:
                ids = inputs["input_ids"][0].tolist()
                before += [ids[:mark] for mark in inputs["marks"].tolist()]
                questions += several
            alike = takewhile(lambda column: len(set(column)) == 1, zip(*before, strict=False))
            shared = min(sum(1 for _ in alike), min(map(len, before)) - 1)
            key = tuple(tuple(ids[shared:]) for ids in before)  # the same for most texts
            groups.setdefault(key, []).append((row, before[0][:shared]))
            asked[key] = questions
        for key, members in groups.items():
            words = [[[token] for token in self._label_tokens(question)] for question in asked[key]]
            tree, sizes = PromptTree.build(key, words), list(map(len, words))
            members.sort(key=lambda member: -len(member[1]))
            step = max(1, min(batch_size, MAX_TREE_TOKENS // len(tree.tokens)))
            for start in range(0, len(members), step):
                rows, texts = zip(*members[start : start + step], strict=True)
                leaves = self._lm.log_likelihoods(texts, tree, batch_size=batch_size)
                yield list(rows), asked[key], [list(row.split(sizes)) for row in leaves]

    def _label_tokens(self, question: Any) -> list[int]:
        from transformers.decision import label_token_ids

        return label_token_ids(self.tokenizer, tuple(question.labels))

    def _heads(
        self, requests: Sequence[list[Prompt]], batch_size: int
    ) -> Iterator[tuple[list[int], list[Any], list[list[Tensor]]]]:
        """As `_labels`, for a model with a head of its own."""
        from transformers import JevForDecision

        order = sorted(range(len(requests)), key=lambda i: -max(p["input_ids"].shape[1] for p, _ in requests[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            scores: list[list[Tensor]] = [[] for _ in rows]
            for number in range(len(requests[rows[0]])):  # all requests have the same questions
                prompts = [requests[row][number] for row in rows]
                if isinstance(self.model, JevForDecision):
                    batch = self._jev(prompts)
                else:  # a kind that is not known here: one by one
                    batch = [self._alone(*prompt) for prompt in prompts]
                for into, more in zip(scores, batch, strict=True):
                    into += more
            yield rows, [q for _, several in requests[rows[0]] for q in several], scores

    def _alone(self, inputs: dict[str, Any], questions: list[Any]) -> list[Tensor]:
        from transformers.decision import DecisionConfig

        with self._lock:  # the temperatures come later
            plain = DecisionConfig()
            return list(self.model.decide(**inputs, decision_questions=questions, decision_config=plain))

    def _jev(self, prompts: list[Prompt]) -> list[list[Tensor]]:
        """Scores of each question of each prompt, in one forward: the prompts are padded on the right."""
        model, width = self.model, max(inputs["input_ids"].shape[1] for inputs, _ in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (inputs, _) in enumerate(prompts):
            length = inputs["input_ids"].shape[1]
            ids[row, :length], mask[row, :length] = inputs["input_ids"][0], 1
        marks = torch.stack([inputs["marks"] for inputs, _ in prompts]) - 1
        with self._lock:
            given = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
            hidden = model.model(**given, use_cache=False).last_hidden_state
            read = hidden[torch.arange(len(prompts))[:, None].to(hidden.device), marks.to(hidden.device)]
            logits = model.proj(read.to(model.proj.weight.dtype))
        if (cap := model.config.softcap) is not None:
            logits = cap * torch.tanh(logits / cap)
        questions = prompts[0][1]
        starts = [model.config.offsets[q.type] for q in questions]
        return [
            [row[i, s : s + len(q.options)] for i, (s, q) in enumerate(zip(starts, questions, strict=True))]
            for row in logits.cpu()
        ]
