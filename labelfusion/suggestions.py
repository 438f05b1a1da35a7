"""`suggest`: which texts to label next, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .configuration import LabelFusionConfig
from .configuration.text_pair import TextPair
from .modeling_labelfusion import LabelFusionForSequenceClassification
from .modeling_labelfusion.encoding import TextEncoder
from .modeling_labelfusion.tokenizer_files import load_tokenizer
from .pipelines.inference import Inference, infer
from .pipelines.inputs import Row, given_scores, read_inputs
from .pipelines.partitions.partition import Recalled
from .routing.decisions import decided_classes
from .routing.gate import expected_error
from .routing.label_choice import directions, doubt, informative, typical
from .routing.policy import Policy
from .routing.run_options import Routing
from .saving import torch_device
from .scoring.budget import Budget
from .scoring.local.embedded import resolve_model
from .training.data import SCORES, TEXT_PAIR, LabelledTexts, is_file, is_table, read_table
from .training.data.annotation_tasks import (
    Project,
    RecordDict,
    Task,
    argilla_records,
    argilla_settings,
    label_studio_config,
    label_studio_tasks,
    task_rows,
)

CLOSE = 0.3  # margin below which two classes are called close
UNLIKE = 0.5  # out-of-distribution score from which a text is called unlike the training texts
FAR = 0.1  # share of the texts, those least similar to labelled ones, that are called unlike these
DOUBTFUL = 0.25, 0.75  # probabilities between which a class is called doubtful, multi-label


@dataclass
class Suggestions:
    """Texts to label next, the most useful one first.

    Args:
        tasks: The m texts, with what the model says about them.
        classes: K class names; none if they are not known.
        multi_label: Whether a text may have several classes.
        model_version: Name of the model in pre-annotations.
        text_column: Name of the text column.
        label_column: Name of the label column.
    """

    tasks: list[Task] = field(repr=False)
    classes: list[str]
    multi_label: bool = False
    model_version: str = "labelfusion"
    text_column: str = "text"
    label_column: str = "label"

    def __len__(self) -> int:
        return len(self.tasks)

    @property
    def indices(self) -> NDArray[np.int64]:
        """int64 `(m,)`: rows of the texts in the data."""
        return np.array([task.row for task in self.tasks], dtype=np.int64)

    @property
    def scores(self) -> NDArray[np.float64]:
        """float64 `(m,)` in [0, 1]: the model's doubt, or without a model how typical a text is."""
        return np.array([task.score for task in self.tasks], dtype=np.float64)

    @property
    def reasons(self) -> list[list[str]]:
        """Why each text was chosen."""
        return [task.reasons for task in self.tasks]

    @property
    def texts(self) -> list[str]:
        """The m texts."""
        return [task.text for task in self.tasks]

    def rows(self) -> list[RecordDict]:
        """Rows of a table, with an empty label column to fill in."""
        return task_rows(self.tasks, self._project(2))

    def label_studio(self) -> tuple[list[RecordDict], str]:
        """Tasks to import into Label Studio, with pre-annotations, and the labelling interface as XML.

        Raises:
            ValueError: If the classes are not known.
        """
        project = self._project()
        return label_studio_tasks(self.tasks, project), label_studio_config(project)

    def argilla(self) -> tuple[list[RecordDict], RecordDict]:
        """Records for `dataset.records.from_json` of Argilla 2, with suggestions; settings for `Settings.from_json`.

        Raises:
            ValueError: If the classes are not known.
        """
        project = self._project()
        return argilla_records(self.tasks, project), argilla_settings(project)

    def _project(self, unnamed: int = 0) -> Project:
        classes = self.classes or [str(k) for k in range(unnamed)]
        return Project(classes, self.multi_label, self.model_version, self.text_column, self.label_column)


class Suggesting:
    """The method `suggest` of `AutoFusionClassifier`."""

    def suggest(
        self,
        texts: Any,
        n: int = 50,
        *,
        labelled: Any = None,
        llm_policy: Policy = "never",
        max_cost_usd: float | Budget | None = None,
        llm_scores: Any = None,
    ) -> Suggestions:
        """Suggest which texts to label next, to learn most from few labels.

        Fitted: texts on which the model is in doubt or its sources disagree, unlike each other; see
        `routing.label_choice.informative`. Not fitted yet: typical texts of all kinds, for a first set of labels; see
        `routing.label_choice.typical`.

        Args:
            texts: N texts, or data with a text column, an `id` column if any, and `llm_scores` if any. A text that
                occurs several times is suggested once; missing and blank texts never are.
            n: Number of texts to suggest.
            labelled: Texts that are labelled already, or data with a text column: they are not suggested again.
            llm_policy: Which texts are sent to the LLMs first, so that the sources can disagree. By default none, and
                nothing is paid; scores in the data are used.
            max_cost_usd: US dollars that may be spent on them.
            llm_scores: `(N, P, K)` scores of `texts`, instead of the column.

        Returns:
            `Suggestions`: `indices`, `scores` and `reasons` of at most n texts; `label_studio()`, `argilla()` and
            `rows()` convert them for annotators.

        Raises:
            ValueError: If there is no text to label, or for invalid options.
            ScoringError: If an LLM cannot be queried at all.
        """
        if not isinstance(n, int | np.integer) or isinstance(n, bool) or n < 1:
            raise ValueError(f"`n` must be a positive integer, the number of texts to label next; got {n!r}.")
        return _suggest(self, texts, int(n), labelled, llm_scores, (llm_policy, max_cost_usd))


def _suggest(clf: Any, texts: Any, n: int, labelled: Any, llm_scores: Any, asking: tuple[Policy, Any]) -> Suggestions:
    fitted = getattr(clf, "is_fitted_", False)
    if not fitted and asking[0] != "never":
        raise ValueError(
            f"`llm_policy` is {asking[0]!r}, but this classifier is not fitted, and without a model no LLM is asked. "
            "Leave `llm_policy` out, or call `fit` first: it can learn from an LLM alone."
        )
    data, ids = _read(clf, texts)
    if any(isinstance(text, TextPair) for text in data.texts):
        raise ValueError("`suggest` takes single texts, and these are pairs (`text_pair`), which no task can show yet.")
    given = data.llm_scores if llm_scores is None else _checked(llm_scores, len(data))
    known = set() if labelled is None else {text for text in _read(clf, labelled)[0].texts if text}
    rows = _distinct(data.texts, known)
    if not rows:
        raise ValueError(f"`texts` has no text to label: all {len(data)} are missing, blank or labelled already.")
    pool = [data.texts[i] for i in rows]
    scores = None if given is None else [given[i] for i in rows]
    n, seen = min(n, len(rows)), sorted(known)
    if fitted:
        found, classes = _by_model(clf, pool, scores, n, seen, asking), clf.model_.config.label_names
    else:
        classes = [str(c) for c in data.classes]
        found = _by_encoder(clf, pool, scores, n, seen, classes)
    for task in found:
        task.row = rows[task.row]
        task.id = None if ids is None else ids[task.row]
    version = "labelfusion" if fitted else "llm_scores"
    return Suggestions(found, classes, clf.multi_label, version, clf.text_column, clf.label_column or "label")


def _read(clf: Any, texts: Any) -> tuple[LabelledTexts, list[Any] | None]:
    """Texts (None if missing) with their LLM scores, and their ids if the data have any."""
    if isinstance(texts, str) and not (is_file(texts) or "/" in texts):
        raise ValueError(f"`texts` is one string; pass a list of texts: [{texts[:30]!r}].")
    if not is_table(texts):
        rows = read_inputs(list(texts), None, "skip")
        return LabelledTexts([text for text, _ in rows], None, None, list(clf.labels or [])), None  # type: ignore[misc]
    columns = {clf.text_column, clf.text_pair_column or TEXT_PAIR, "id", SCORES}
    table, declared = read_table(texts, text_column=clf.text_column, columns=columns, labelled=False)
    ids = table["id"].tolist() if "id" in table else None
    if getattr(clf, "is_fitted_", False):
        classes, count = clf.classes_.tolist(), clf.model_.config.num_providers
    else:
        classes, count = clf.labels or declared, None
        if not classes:  # scores of unknown classes say nothing
            texts = table.drop(columns=SCORES, errors="ignore")
    return clf._prepare(texts, classes, count, require_labels=False, empty_texts="keep"), ids


def _checked(llm_scores: Any, count: int) -> Any:
    if not hasattr(llm_scores, "__len__") or len(llm_scores) != count:
        found = len(llm_scores) if hasattr(llm_scores, "__len__") else type(llm_scores).__name__
        raise ValueError(f"`llm_scores` has {found} entries for {count} texts; give one for each, None without scores.")
    return llm_scores


def _distinct(texts: Sequence[str | None], known: set[str]) -> list[int]:
    """Rows of texts that are not blank, not known, and the first of their kind."""
    seen = set(known)
    rows = []
    for row, text in enumerate(texts):
        if text is not None and text.strip() and text not in seen:
            seen.add(text)
            rows.append(row)
    return rows


def _by_model(
    clf: Any, texts: list[str], scores: Any, n: int, labelled: list[str], asking: tuple[Policy, Any]
) -> list[Task]:
    """Choose by the doubt of a fitted model; the rows of the tasks are those in `texts`."""
    config = clf.model_.config
    encoder = TextEncoder(clf.model_, clf.tokenizer_, **clf.encoding_options(), progress=clf.shows_progress)
    encoded = encoder([*texts, *labelled])
    answers = _answers(clf, encoder, encoded[: len(texts)], read_inputs(texts, scores), asking)
    points = directions(encoded[:, : config.hidden_size].numpy())
    pool, known = points[: len(texts)], points[len(texts) :]
    doubts = doubt(answers.probabilities, _sources(answers), answers.novelty, config.multi_label)
    chosen = informative(pool, doubts, n, known)
    nearest = (pool @ known.T).max(axis=1) if len(known) else None
    probs = answers.probabilities
    decided = decided_classes(probs, config.multi_label, config.decision_rule)
    sure = 1.0 - expected_error(probs, config.multi_label)
    names = np.array(config.label_names, dtype=object)
    return [
        Task(
            texts[i],
            int(i),
            labels=names[decided[i]].tolist(),
            confidence=round(float(sure[i]), 4),
            score=round(float(doubts[i]), 4),
            reasons=_reasons(answers, int(i), config, nearest),
        )
        for i in chosen
    ]


def _answers(
    clf: Any, encoder: TextEncoder, encoded: torch.Tensor, rows: list[Row], asking: tuple[Policy, Any]
) -> Inference:
    """Answers about n texts. Scores that are given are used in any case; the policy is for the other texts."""
    config = clf.model_.config
    routing = Routing.parse(config, *asking)
    scores = given_scores([entry for _, entry in rows], config)
    given = np.any(np.all(~np.isnan(scores), axis=2), axis=1)
    parts, order = [], []
    for some, how in ((given, replace(routing, policy="always")), (~given, routing)):
        if some.any():
            found = np.flatnonzero(some)
            recalled: Any = Recalled(encoder, encoded[torch.from_numpy(found)])
            parts += list(infer(recalled, [rows[i] for i in found], how, clf._scorers))
            order.append(found)
    together, place = Inference.concatenate(parts), np.argsort(np.concatenate(order))
    names = ("logits", "encoder_logits", "llm_scores", "llm_called", "cost_usd", "novelty", "wanted")
    return replace(together, **{name: getattr(together, name)[place] for name in names}, errors={})


def _by_encoder(clf: Any, texts: list[str], scores: Any, n: int, labelled: list[str], classes: list[str]) -> list[Task]:
    """Choose typical texts without a fitted model; LLM scores, if given, suggest labels."""
    source = str(resolve_model(str(clf.encoder)))
    names = classes if len(classes) > 1 else ["0", "1"]
    model = LabelFusionForSequenceClassification.from_encoder_pretrained(source, labels=names, pooling=clf.pooling)
    model = model.to(torch_device(clf.device))
    encoder = TextEncoder(model, load_tokenizer(source), **clf.encoding_options(), progress=clf.shows_progress)
    points = directions(encoder([*texts, *labelled])[:, : model.config.hidden_size].numpy())
    pool, known = points[: len(texts)], points[len(texts) :]
    chosen, sizes = typical(pool, n, known, clf.seed)
    tasks = []
    for i, size in zip(chosen, sizes, strict=True):
        reason = f"typical of a cluster of {size} texts" if size > 1 else "a cluster of its own"
        task = Task(texts[i], int(i), score=round(float(size / len(texts)), 4), reasons=[reason])
        if scores is not None and len(classes) > 1 and scores[i] is not None:
            _suggest_by_scores(task, np.asarray(scores[i], dtype=np.float64), names, clf.multi_label)
        tasks.append(task)
    return tasks


def _suggest_by_scores(task: Task, scores: NDArray[np.float64], names: list[str], multi_label: bool) -> None:
    """Add the label of the mean of an LLM's scores `(P, K)`, and whether LLMs disagree."""
    answered = scores[~np.isnan(scores).any(axis=1)]
    if not len(answered):
        return
    mean = answered.mean(axis=0)[None]
    decided = decided_classes(mean, multi_label)[0]
    task.labels = [name for name, yes in zip(names, decided, strict=True) if yes]
    task.confidence = round(float(1.0 - expected_error(mean, multi_label)[0]), 4)
    if len(np.unique(decided_classes(answered, multi_label), axis=0)) > 1:
        task.reasons.append("the LLMs disagree")


def _sources(answers: Inference) -> NDArray[np.float32]:
    """float32 `(n, 1 + P, K)`: probabilities of encoder and LLMs, NaN for missing."""
    return np.concatenate([answers.encoder_probabilities[:, None], answers.llm_scores], axis=1)


def _reasons(
    answers: Inference, row: int, config: LabelFusionConfig, nearest: NDArray[np.floating] | None
) -> list[str]:
    """What is true of a text: sources that disagree, classes that are close, other texts that are unlike it."""
    probs, names = answers.probabilities[row], config.label_names
    sources = ["encoder", *(str(provider.name) for provider in config.providers)]
    said = {
        name: scores for name, scores in zip(sources, _sources(answers)[row], strict=True) if not np.isnan(scores).any()
    }
    reasons = []
    votes = {name: decided_classes(scores[None], config.multi_label)[0] for name, scores in said.items()}
    if len({tuple(vote) for vote in votes.values()}) > 1:
        told = "; ".join(f"{name}: {_told(said[name], votes[name], names)}" for name in votes)
        reasons.append(f"sources disagree: {told}")
    if config.multi_label:
        low, high = DOUBTFUL
        doubtful = [f"{names[k]} {probs[k]:.2f}" for k in np.argsort(-probs) if low <= probs[k] <= high]
        reasons += [f"doubtful: {', '.join(doubtful)}"] if doubtful else []
    else:
        first, second = np.argsort(-probs, kind="stable")[:2]
        if probs[first] - probs[second] < CLOSE:
            reasons.append(f"close: {names[first]} {probs[first]:.2f} / {names[second]} {probs[second]:.2f}")
    if answers.novelty[row] >= UNLIKE:
        reasons.append("unlike the training texts")
    if nearest is not None and nearest[row] <= np.quantile(nearest, FAR):
        reasons.append("unlike the labelled texts")
    decided = decided_classes(probs[None], config.multi_label, config.decision_rule)[0]
    return reasons or [f"the model says {_told(probs, decided, names)}"]


def _told(probs: NDArray[np.floating], decided: NDArray[np.bool_], names: list[str]) -> str:
    return " + ".join(f"{names[k]} {probs[k]:.2f}" for k in np.flatnonzero(decided)) or "no class"
