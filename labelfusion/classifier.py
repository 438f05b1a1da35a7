"""`AutoFusionClassifier`: fuses an encoder with LLMs, with the API of scikit-learn."""

import logging
import time
from dataclasses import replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from .checks import check_data, check_options, check_unlabelled, only_texts
from .configuration import Task
from .configuration.text_pair import TextPair
from .label_arrays import class_array, is_indicator, read_target
from .llms import LLM, as_list, declaration
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.tokenizer_files import load_tokenizer
from .original_config import from_original
from .predictor import FusionPredictor
from .saving import torch_device
from .scoring.budget import Budget, as_budget
from .scoring.local.embedded import resolve_model
from .suggestions import Suggesting
from .training.data import LabelledTexts, concatenate, is_table, with_labels
from .training.encoder.encoder_fit import encode_training_texts
from .training.fit_options import MAX_TRAIN_TOKENS, QUERY_PRICE, FinetuneOptions, FitOptions
from .training.fit_state import FitState
from .training.recipe import fit
from .training.scored_rows import ScoringOptions, first_guess, score_training_rows
from .training.unlabelled import add_pseudo_labels, described, room
from .weights import check_class_weight, read_weights, share_votes, weigh

logger = logging.getLogger(__name__)


class AutoFusionClassifier(Suggesting, FusionPredictor):
    """Text classifier that fuses a Transformer encoder with LLM scores.

    Args:
        encoder: Hub id or folder of any encoder, or `"embedded/all-minilm-l6-v2"`.
        llm: Model string, [`LLMProvider`] (or its dict), a function `(list of n texts) -> (n, K)` probabilities,
            `"recorded"` to use only the scores in the data (of as many LLMs as the data hold), or `None`; or a list of
            these.
        labels: Class names in the order of the model's outputs. Default: those of the training data.
        multi_label: Whether a text may have several classes.
        label_columns: Names of 0/1 columns, one per class, if the data have these instead of `label` or `labels`.
        text_column: Name of the text column.
        text_pair_column: Name of the column with the second texts, if pairs of texts are classified. Default:
            `text_pair`, if the data have it. In a list, a pair is a dict `{"text": ..., "text_pair": ...}`.
        label_column: Name of the label column. Default: `label` or `labels`.
        empty_texts: How to handle missing, empty or blank texts: `"error"`, or `"skip"`: `fit` and `evaluate` leave the
            rows out, `predict` returns None and `predict_proba` NaN.
        annotators: How to handle texts with labels of several annotators, in the export of an annotation tool:
            `"majority"` takes the class with the most votes (a tie leaves the text out), `"soft"` makes each vote a
            row of the training data, and all votes of a text together weigh as much as one row. `evaluate` and the
            accuracy in the report take the majority in either case.
        class_descriptions: `{class name: description}` for the LLM's prompt.
        class_weight: Weights of the classes in `fit`, as `{class: weight}` (1 for the others), or `"balanced"`: the
            same total weight for each class. A multi-label row has the mean weight of its classes, 1 without any.
            Probabilities are then calibrated for weighted rows: rare classes are predicted more often. See
            `sample_weight` of `fit`.
        encoder_training: `"probe"`: frozen encoder with a linear head, takes seconds; `"contrastive"`: for few rows,
            first trains the encoder to embed texts of a class close together; `"full"`: fine-tuning; `"lora"`:
            fine-tuning of low-rank updates, with PEFT, in less memory; `"auto"`:
            contrastive training (30 to 1,000 rows) or fine-tuning if it fits into `max_train_tokens`, kept if it is
            better on held-out rows.
        max_train_tokens: Limit of the work of contrastive training, and of fine-tuning with `"auto"`, in tokens that go
            through the trained layers. It is the same on every machine, so the same seed gives the same model.
        max_train_minutes: Minutes after which training of the encoder is stopped; the frozen encoder is then used, and
            `report_["stopped"]` says so. Default: no stop.
        extra_sources: Add heads on inner layers, a TF-IDF head and a kernel head to the encoder's last layer, the
            latter if it is better out of sample; the model then holds embeddings of up to 1,000 training texts.
        num_train_epochs: Maximum number of epochs of fine-tuning; the data choose between 1 and this. Default: 3, or 5
            for up to 1,000 rows.
        trained_layers: Share of the encoder's layers, from the top, that fine-tuning trains. Default: all layers, or
            0.4 on a CPU.
        learning_rate: Peak learning rate of the encoder. Default: depends on the encoder's size.
        batch_size: Texts in one forward pass.
        train_batch_size: Rows in one training step.
        max_length: Maximum number of tokens per text. Default: the limit of tokenizer and encoder.
        bf16: Run the encoder in bfloat16, about twice as fast on CPUs that support it, and much slower on others;
            `"auto"`: where it is faster here. Fine-tuning always uses it where it is supported. Not saved, as the next
            machine may differ: pass it to `from_pretrained` again to get the same answers.
        backend: What runs the fitted encoder: `"torch"`, or `"openvino"`, which is faster on many CPUs. Not saved.
        pooling: The encoder's embedding: `"mean"` or `"cls"`.
        fusion: `"mlp"`, `"pool"` (no MLP), or a baseline: `"weighted"`, `"vote"`, `"routing"`, or a single source:
            `"encoder"`, `"llm"` (the best one).
        calibration: `"auto"`: the calibration that helps on held-out rows; or `"none"`, `"temperature"`, `"vector"` (of
            the encoder side), `"isotonic"` (of graded LLM scores and the answer), if there are enough rows.
        threshold_metric: Multi-label: `"accuracy"` (exact match), `"micro_f1"` or `"macro_f1"`.
        query_price: Price of an LLM query for `llm_policy="auto"`, in right answers: with 0.02, the model queries where
            50 queries or fewer bring one more right answer, as estimated on held-out rows; 0: wherever it helps.
        label_model: How the labels of several LLMs are combined for texts without labels: `"mean"` of their
            log-probabilities; `"dawid_skene"`, which estimates each LLM's confusion matrix from how they agree; or
            `"auto"`: the latter for three LLMs or more and one class a text.
        max_scored_rows: Maximum number of training rows sent to the LLM in `fit`; the other rows train the encoder
            only.
        max_cost_usd: US dollars that `fit` may spend on the LLM, or a `scoring.budget.Budget` that several calls share.
            If not all rows can be scored, the most informative ones for the fusion are; see
            `training.scored_rows.scoring_order`.
        write_guidelines: Let an LLM behind an API write guidelines for its own prompts, once, in `fit`; they are saved
            with the model.
        cache: Whether to read paid answers from, and write them to, the score store.
        device: Torch device. Default: a GPU if there is one.
        seed: Random seed of all steps.
        progress: Show progress bars, or lines where stderr is a file. Default: in a terminal and in a notebook.

    Attributes:
        model_: The fitted [`LabelFusionForSequenceClassification`].
        tokenizer_: Its tokenizer.
        classes_: Array of the K classes.
        report_: Measurements, choices and cost of `fit`.

    Example:

    ```python
    >>> clf = AutoFusionClassifier(encoder="roberta-base", llm="openai/gpt-5-nano")
    >>> clf.fit("train.csv").predict(["Stocks fall after the rate decision"])
    array(['Business'], dtype=object)
    ```
    """

    def __init__(
        self,
        encoder: str | dict[str, Any] = "roberta-base",
        llm: LLM | list[LLM] = "openai/gpt-5-nano",
        labels: list[Any] | None = None,
        multi_label: bool = False,
        *,
        label_columns: list[str] | None = None,
        text_column: str = "text",
        text_pair_column: str | None = None,
        label_column: str | None = None,
        empty_texts: str = "error",
        annotators: str = "majority",
        class_descriptions: dict[str, str] | None = None,
        class_weight: dict[Any, float] | str | None = None,
        encoder_training: str = "auto",
        max_train_tokens: int = MAX_TRAIN_TOKENS,
        max_train_minutes: float | None = None,
        extra_sources: bool = True,
        num_train_epochs: int | None = None,
        trained_layers: float | None = None,
        learning_rate: float | None = None,
        batch_size: int = 32,
        train_batch_size: int = 16,
        max_length: int | None = None,
        bf16: bool | str = False,
        backend: str = "torch",
        pooling: str = "mean",
        fusion: str = "mlp",
        calibration: str = "auto",
        threshold_metric: str = "accuracy",
        query_price: float = QUERY_PRICE,
        label_model: str = "auto",
        max_scored_rows: int = 1000,
        max_cost_usd: float | Budget | None = None,
        write_guidelines: bool = False,
        cache: bool = True,
        device: str | None = None,
        seed: int = 0,
        progress: bool | None = None,
    ) -> None:
        if isinstance(encoder, dict):
            original = from_original(encoder)
            encoder = original.get("encoder", "roberta-base")
            llm = original.get("llm", llm)
            labels = original.get("labels", labels)
            multi_label = original.get("multi_label", multi_label)
            label_columns = original.get("label_columns", label_columns)
        self.encoder = encoder
        self.llm = llm
        self.labels = labels
        self.multi_label = multi_label
        self.label_columns = label_columns
        self.text_column = text_column
        self.text_pair_column = text_pair_column
        self.annotators = annotators
        self.label_column = label_column
        self.empty_texts = empty_texts
        self.class_descriptions = class_descriptions
        self.class_weight = class_weight
        self.encoder_training = encoder_training
        self.max_train_tokens = max_train_tokens
        self.max_train_minutes = max_train_minutes
        self.extra_sources = extra_sources
        self.num_train_epochs = num_train_epochs
        self.trained_layers = trained_layers
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.train_batch_size = train_batch_size
        self.max_length = max_length
        self.bf16 = bf16
        self.backend = backend
        self.pooling = pooling
        self.fusion = fusion
        self.calibration = calibration
        self.threshold_metric = threshold_metric
        self.query_price = query_price
        self.label_model = label_model
        self.max_scored_rows = max_scored_rows
        self.max_cost_usd = max_cost_usd
        self.write_guidelines = write_guidelines
        self.cache = cache
        self.device = device
        self.seed = seed
        self.progress = progress

    def fit(
        self,
        train: Any = None,
        y: Any = None,
        *,
        eval_data: Any = None,
        sample_weight: Any = None,
        unlabelled: Any = None,
    ) -> Self:
        """Fit encoder, fusion, calibration and thresholds.

        Without labels, or with few: the LLMs label the texts `unlabelled`, and the encoder learns from these labels.
        Labels in `train` are never replaced. Fusion and calibration are fitted on them if there are enough (20, and two
        a class); otherwise their weights are fixed, probabilities are not calibrated, and no accuracy is known.
        `report_["gold_rows"]` tells.

        Args:
            train: DataFrame, `datasets.Dataset`, `(texts, labels)`, path of a CSV, JSONL or Parquet file, id of a data
                set on the Hub; or a list of texts, with `y`; alone, it is `unlabelled`. Rows with `llm_scores` are not
                sent to an LLM.
            y: Labels of a list of texts. Tabular data with texts passed here are treated as `eval_data`.
            eval_data: More labelled data. All data are used for fitting; out-of-sample outputs come from cross-fitting.
            sample_weight: n weights of the rows of `train`, 0 or more; those of `eval_data` weigh 1. Only their ratios
                matter. They weigh the rows in all fits of heads, fusion, calibration and thresholds, and in
                fine-tuning, and `class_weight` multiplies them. Rows of weight 0 are left out, and not sent to an LLM,
                but their classes are kept. Contrastive training, the choice of the rows to score, the gates, the
                held-out errors behind `max_risk` and the metrics in the report take all other rows as equal.
            unlabelled: Texts without labels, or data with a text column: sent to the LLMs, `max_scored_rows` of them at
                most; the rest is not used. Without `train`, `labels` must name the classes.

        Raises:
            ValueError: For invalid data or options.
            ScoringError: If the LLM cannot be queried at all.
        """
        check_options(self)
        check_class_weight(self.class_weight)
        labels_only = hasattr(y, "columns") and self.text_column not in y
        if y is not None and is_table(y) and not labels_only and eval_data is None:
            y, eval_data = None, y
        y = read_target(y, self.multi_label)
        self._output = "indicator" if self.multi_label and is_indicator(y) else "names"
        started = time.perf_counter()
        data, weights, others, llms = self._read(train, y, eval_data, sample_weight, unlabelled)
        torch.manual_seed(self.seed)
        source = str(resolve_model(str(self.encoder)))
        self.tokenizer_ = load_tokenizer(source)
        self.model_ = LabelFusionForSequenceClassification.from_encoder_pretrained(
            source,
            labels=[str(c) for c in data.classes],
            llm_providers=[declaration(llm) for llm in llms],
            multi_label=self.multi_label,
            class_descriptions=self.class_descriptions,
            pooling=self.pooling,
            fusion=self.fusion,
        ).to(torch_device(self.device))
        self.model_.config.encoder_config._name_or_path = str(self.encoder)
        self.model_.config.text_pairs = isinstance(data.texts[0] if len(data) else others.texts[0], TextPair)  # type: ignore[union-attr]
        self.classes_ = class_array(data.classes)
        options, parts = self._fit_options(), (self.model_, self.tokenizer_)
        embedded: list[torch.Tensor] = []

        def first() -> NDArray[np.float64]:
            embedded.append(encode_training_texts(options.text_encoder(*parts), data.texts, options.extra_sources))
            last_layer = embedded[0][:, : self.model_.config.hidden_size]
            return first_guess(last_layer, _labels(data), Task.of(self.model_.config), data.texts, self.seed)

        pool = (data.texts, data.names())
        scoring, gold = self._scoring_options(), None
        score = partial(score_training_rows, config=self.model_.config, make_scorers=lambda: self._scorers(pool=pool))
        scores, cost = score(data, options=scoring, encoder_probs=first) if len(data) else (None, 0.0)
        if others is not None:
            more, spent = score(
                others, options=replace(scoring, max_rows=room(scoring.max_rows, scores), write_guidelines=False)
            )
            data, scores, by_row, gold, accuracies = add_pseudo_labels(data, scores, others, more, self.label_model)
            cost, embedded = cost + spent, []
            check_data(data)
            _, weights = weigh(data, by_row, self.class_weight)
        # Nearest-neighbour prompts take examples from the training texts, which stay in memory and are not saved.
        nearest = any(p.prompt == "nearest" for p in self.model_.config.providers)
        self._pool = pool if nearest else None
        embeddings = embedded[0] if embedded else None
        start = FitState.start(*parts, data.texts, _labels(data), scores, options, embeddings, weights, gold)
        if others is not None:
            start = start.told(label_model=described(options.label_model, len(llms), self.multi_label, accuracies))
        state = fit(start)
        self.report_ = state.report
        reviewed = np.ones(len(data), dtype=bool) if gold is None else gold  # not the labels of LLMs
        rows = None if data.rows is None else data.rows[reviewed]
        scores = None if scores is None else scores[reviewed]
        self._review = (state.encoder_probs[state.gold], scores, state.labels[state.gold], rows)
        self.report_ |= {"cost_usd": cost, "seconds_in_all": round(time.perf_counter() - started, 1)}
        self.is_fitted_ = True
        return self

    def _read(
        self, train: Any, y: Any, eval_data: Any, sample_weight: Any, unlabelled: Any
    ) -> tuple[LabelledTexts, NDArray[np.float32] | None, LabelledTexts | None, list[LLM]]:
        """The labelled rows, their weights, the texts without labels if there are any, one LLM for each provider."""
        llms = as_list(self.llm)
        count = None if llms == ["recorded"] else len(llms)
        if y is None and unlabelled is None and only_texts(train):
            train, unlabelled = None, train
        if unlabelled is not None:
            check_unlabelled(self, train is not None, llms, sample_weight)
        if train is not None:
            data = self._prepare(with_labels(train, y, self.label_column), self.labels, count)
        elif unlabelled is not None:
            data = LabelledTexts.empty(list(self.labels or []), self.multi_label)
        else:
            raise ValueError("`train` is missing: give labelled data, or texts without labels as `unlabelled`.")
        others = None
        if unlabelled is not None:
            table = unlabelled if is_table(unlabelled) else {self.text_column: list(unlabelled)}
            others = self._prepare(table, data.classes, count, require_labels=False)
        scored = [x.llm_scores for x in (data, others) if x is not None and x.llm_scores is not None]
        if count is None and scored:  # one provider for each LLM in the data
            llms = llms * scored[0].shape[1]
        given_weights = read_weights(sample_weight, data)
        if eval_data is not None:
            more = self._prepare(eval_data, data.classes, len(llms))
            data, given_weights = concatenate(data, more), np.append(given_weights, np.ones(len(more)))
        if others is not None:  # weighed when they have labels
            return data, None, others, llms
        if self.annotators == "soft":
            given_weights = share_votes(data.texts, given_weights)
        data, weights = weigh(data, given_weights, self.class_weight)
        check_data(data)
        return data, weights, None, llms

    def _scoring_options(self) -> ScoringOptions:
        return ScoringOptions(
            max_rows=self.max_scored_rows,
            max_cost_usd=as_budget(self.max_cost_usd),
            write_guidelines=self.write_guidelines,
            seed=self.seed,
            progress=self.shows_progress,
        )

    def _fit_options(self) -> FitOptions:
        finetune = FinetuneOptions(
            num_train_epochs=self.num_train_epochs,
            trained_layers=self.trained_layers,
            learning_rate=self.learning_rate,
            batch_size=self.train_batch_size,
            max_length=self.max_length,
            seed=self.seed,
            progress=self.shows_progress,
        )
        return FitOptions(
            encoder_training=self.encoder_training,
            max_train_tokens=self.max_train_tokens,
            max_train_minutes=self.max_train_minutes,
            extra_sources=self.extra_sources,
            calibration=self.calibration,
            threshold_metric=self.threshold_metric,
            query_price=self.query_price,
            label_model=self.label_model,
            votes=self.annotators == "soft",
            finetune=finetune,
            batch_size=self.batch_size,
            bf16=self.bf16,
            seed=self.seed,
            progress=self.shows_progress,
        )


def _labels(data: LabelledTexts) -> NDArray[Any]:
    assert data.labels is not None  # `prepare` guarantees it
    return data.labels
