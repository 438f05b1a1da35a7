"""The method `likelihood`: a local causal LM scores each class by the log-likelihood of the words that stand for it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...configuration import LLMProvider
from ...configuration.progress_bar import progress_bar
from ..probabilities import softmax
from ..prompting.prompts import example_labels
from ..reasons import Missing, MissingKind
from ..score_batch import ScoreBatch, Usage, missing
from ..session.run_context import Run
from .local_scorer import LocalScorer, split_texts
from .verbalizers import resolve_verbalizers, separating_words

if TYPE_CHECKING:
    from .causal_lm import CausalLM, Prefix, PromptTree

# One recipe for topics, emotions, opinions and questions, chosen on the training parts of six data sets; a text is read
# once for all three.
TEMPLATES = ("{text}\nCategory:", "{text}\nIn one word:", "{text}\nThis text is about")
PARAMS = {"max_text_tokens": 256, "dtype": None, "word_power": 0.25}
MIN_PRIOR_TEXTS = 32


class LikelihoodScorer(LocalScorer):
    """Scores of a local causal LM.

    Args:
        provider: Declaration. Besides `model`, these count: `verbalizers`, `templates` (with `{text}`; averaged),
            `prior`, `guidelines`, `examples` (with `prompt="few-shot"`), and in `params`: `max_text_tokens` (default
            256; the head of a longer text is kept), `dtype` (`"bfloat16"`, `"float32"`, ...) and `word_power` (default
            0.25): exponent of the power mean of the probabilities of a class's words, in (0, 1]. 1: their sum, led by
            the likeliest word; towards 0: their geometric mean, in which all words have a say.
        labels: K class names, in the order of the scores.
        multi_label: Whether several classes may be right at once.
        class_descriptions: `{class name: description}`; gives words to the classes that have no verbalizers.
        batch_size: Texts in one forward.
        device: Torch device. Default: a GPU if there is one, else the CPU.
        progress: Show a progress bar.

    Raises:
        ValueError: For a declaration that does not fit.
    """

    method = "likelihood"
    model_phrase = "a local model"
    defaults = PARAMS

    def __init__(
        self,
        provider: LLMProvider,
        labels: list[str],
        multi_label: bool,
        class_descriptions: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(provider, labels, multi_label, **options)
        power = self.params["word_power"]
        if not (isinstance(power, int | float) and 0 < power <= 1):
            raise ValueError(f"{self.name}: `word_power` must be a number in (0, 1], got {power!r}.")
        self.verbalizers = resolve_verbalizers(self.labels, provider.verbalizers, class_descriptions)
        self.templates = [_split_template(t, self.name) for t in provider.templates or TEMPLATES]
        self.prior: NDArray[np.float32] | None = None
        if provider.prior is not None:
            self.prior = np.asarray(provider.prior, dtype=np.float32)
            if self.prior.shape != (len(self.labels),):
                raise ValueError(f"{self.name}: `prior` has {self.prior.size} values for {len(self.labels)} classes.")
        self.words = self.verbalizers  # with their spellings, once the tokenizer is there
        self._ready: tuple[CausalLM, list[_Question]] | None = None

    async def score(self, texts: Sequence[str], run: Run | None = None) -> ScoreBatch:
        """Score `texts` in a worker thread. Without a stored prior, one is estimated as soon as a call has 32 texts.

        Raises:
            ScoringError: If the model cannot be loaded.
        """
        return await super().score(texts, run)

    def fit_prior(self, texts: Sequence[str]) -> list[float]:
        """Estimate the prior from unlabelled texts, keep it, and return it for `LLMProvider.prior`.

        Batch calibration, Zhou et al. 2024, arXiv:2309.17249: the mean over texts of each class's log-likelihood.

        Args:
            texts: Texts like those to be scored; 32 are enough, some hundreds are better.

        Returns:
            K floats, in nats.

        Raises:
            ValueError: If none of the texts can be scored.
        """
        logp, _, _ = self._class_log_likelihoods(list(texts), threading.Event())
        known = logp[~np.isnan(logp).any(axis=1)]
        if not len(known):
            raise ValueError(f"{self.name}: the prior needs texts that are not empty; got {len(texts)} without one.")
        self.prior = known.mean(axis=0)
        return [float(value) for value in self.prior]

    def suggest_verbalizers(
        self, texts: Sequence[str], labels: Sequence[str | Sequence[str]], num_words: int = 10
    ) -> dict[str, list[str]]:
        """Find words that discriminate the classes, from the next-token log-likelihoods after labelled texts.

        For each class: the words whose log-likelihood, relative to all words', is most above that of the other classes'
        texts, in standard deviations. They join the class's own words. A class gets one word for every four of its
        texts, so that chance does not choose. Scores of these same texts flatter the LLM afterwards: fit a fusion on
        other rows.

        Args:
            texts: Some hundreds of labelled texts at most; about 128 are enough for a handful of classes.
            labels: The class name of each text; multi-label: its list of class names.
            num_words: Most words added to a class.

        Returns:
            `{class: [word, ...]}` for `LLMProvider.verbalizers`. A word may be the start of a longer one.

        Raises:
            ValueError: For an unknown class, or texts and labels of different lengths.
        """
        if len(texts) != len(labels):
            raise ValueError(f"{self.name}: {len(texts)} texts, but {len(labels)} labels.")
        names = [[label] if isinstance(label, str) else list(label) for label in labels]
        unknown = sorted({name for row in names for name in row} - set(self.labels))
        if unknown:
            raise ValueError(f"{self.name}: unknown classes {unknown}; the classes are {self.labels}.")
        rows = [i for i, text in enumerate(texts) if isinstance(text, str) and text.strip()]
        lm, questions = self._prepare()
        vocabulary = lm.whole_words()
        tokens = list(vocabulary)
        logp = np.zeros((len(rows), len(tokens)), dtype=np.float32)
        for question in questions:
            ids = self._encode(lm, question, [texts[i] for i in rows])
            logp += lm.next_tokens(ids, question.tree, tokens, question.prefix, self.batch_size).numpy()
        member = np.array([[label in names[i] for label in self.labels] for i in rows], dtype=np.float32)
        added = separating_words(logp, member, list(vocabulary.values()), num_words)
        return {
            label: list(dict.fromkeys([*own, *more]))
            for label, own, more in zip(self.labels, self.verbalizers, added, strict=True)
        }

    def _score(self, texts: list[str], stop: threading.Event) -> ScoreBatch:
        logp, errors, usage = self._class_log_likelihoods(texts, stop)
        known = ~np.isnan(logp).any(axis=1)
        with self._lock:
            if self.prior is None and known.sum() >= MIN_PRIOR_TEXTS:
                self.prior = logp[known].mean(axis=0)
            prior = self.prior
        if prior is not None:
            logp = logp - prior
        return ScoreBatch(softmax(logp).astype(np.float32), self.method, usage, errors)

    def _class_log_likelihoods(
        self, texts: list[str], stop: threading.Event
    ) -> tuple[NDArray[np.float32], dict[int, str], Usage]:
        """float32 `(n, K)`: log-likelihood of each class; NaN without a text."""
        out = missing(len(texts), len(self.labels))
        rows, errors = split_texts(texts)
        if not rows:
            return out, errors, Usage()
        lm, questions = self._prepare()
        tokens = 0
        by_template = []
        blank: set[int] = set()
        with progress_bar(len(rows) * len(questions), self.name, disable=not self.progress) as bar:

            def on_batch(done: int) -> None:
                bar.update(done)
                self._check(stop)

            for question in questions:
                ids = self._encode(lm, question, [texts[i] for i in rows])
                blank.update(i for i, row in zip(rows, ids, strict=True) if not row)
                leaves = lm.log_likelihoods(ids, question.tree, question.prefix, self.batch_size, on_batch).numpy()
                by_template.append(self._pool_words(leaves))
                tokens += sum(map(len, ids)) + len(ids) * len(question.tree.tokens) + len(question.prefix.tokens)
        out[rows] = np.concatenate(by_template, axis=1).mean(axis=1)
        for i in blank:
            out[i] = np.nan
            errors[i] = Missing(MissingKind.NO_TEXT, "the tokenizer of the model makes nothing of the text")
        return out, errors, Usage(requests=len(rows) - len(blank), prompt_tokens=tokens)

    def _encode(self, lm: "CausalLM", question: "_Question", texts: list[str]) -> list[list[int]]:
        """Tokens of the heads of `texts`. Giants are cut before they are tokenised: no token has 32 characters."""
        heads = [question.lead + _clean(text)[: 32 * question.max_tokens] for text in texts]
        return lm.encode(heads, max_tokens=question.max_tokens)

    def _pool_words(self, leaves: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(n, templates * words)` to `(n, templates, K)`: log of the power mean of each class's words."""
        power = self.params["word_power"]
        edges = np.cumsum([len(words) for words in self.words])
        per_template = leaves.reshape(len(leaves), -1, edges[-1]) * power
        parts = np.split(per_template, edges[:-1], axis=2)
        pooled = [np.logaddexp.reduce(part, axis=2) - np.log(part.shape[2]) for part in parts]
        return (np.stack(pooled, axis=2) / power).astype(np.float32)

    def _prepare(self) -> "tuple[CausalLM, list[_Question]]":
        """Load the model and run the prefixes, once."""
        with self._lock:
            if self._ready is None:
                from .causal_lm import load_causal_lm

                try:
                    safe = True if self.provider.source else None  # no pickle from the Hub
                    lm = load_causal_lm(self._source(), self.params["dtype"], self.device, safe)
                except (ImportError, OSError) as error:
                    raise self._unloadable(error) from error
                self.words = [_spellings(lm, words) for words in self.verbalizers]
                self._ready = lm, self._questions(lm)
            return self._ready

    def _questions(self, lm: "CausalLM") -> "list[_Question]":
        from .causal_lm import PromptTree

        questions = []
        words = [" " + word for group in self.words for word in group]
        for front in dict.fromkeys(front for front, _ in self.templates):  # the text is read once for each front
            backs = [back for f, back in self.templates if f == front]
            branches = [lm.encode([back], after="x", template=True)[0] for back in backs]
            tree = PromptTree.build(branches, [lm.encode(words, after=back) for back in backs])
            head = self._head(lm) + front
            lead = head[len(head.rstrip(" ")) :]  # a space goes with the word that follows it
            prefix = lm.prefix(lm.start + lm.encode([head.rstrip(" ")], template=True)[0])
            room = lm.context - len(prefix.tokens) - int(tree.depth.max()) - 1
            if room < 1:
                raise ValueError(
                    f"{self.name}: guidelines, examples and template take {len(prefix.tokens)} of the model's "
                    f"{lm.context} tokens and leave no room for a text. Give fewer or shorter `examples`."
                )
            questions.append(_Question(prefix, lead, tree, min(self.params["max_text_tokens"], room)))
        return questions

    def _head(self, lm: "CausalLM") -> str:
        """What stands in front of the question: guidelines and examples, the same for all texts."""
        front, back = self.templates[0]
        blocks = [self.provider.guidelines.strip()] if self.provider.guidelines else []
        for example in self.examples:
            answer = ", ".join(example_labels(example, self.labels)) or "none"
            blocks.append(f"{front}{lm.plain(_clean(str(example['text'])))}{back} {lm.plain(answer)}")
        return "".join(block + "\n\n" for block in blocks)


@dataclass(frozen=True)
class _Question:
    """One front of the templates: what precedes the text, what follows it, and how many tokens of it are read."""

    prefix: "Prefix"
    lead: str
    tree: "PromptTree"
    max_tokens: int


def _split_template(template: str, name: str) -> tuple[str, str]:
    front, found, back = template.partition("{text}")
    if not found or not back.strip() or "{text}" in back:
        raise ValueError(
            f"{name}: a template for a local model holds {{text}} once and something after it, such as "
            f"'{{text}}\\nTopic:'; got {template!r}."
        )
    return front, back.rstrip()


def _spellings(lm: "CausalLM", words: list[str]) -> list[str]:
    """The words as they are written and in lower case, where that takes no more tokens."""
    both = [spelling for word in words for spelling in (word, word.lower())]
    sizes = map(len, lm.encode([" " + word for word in both], after=":"))
    size = dict(zip(both, sizes, strict=True))
    return list(dict.fromkeys(s for word in words for s in (word, word.lower()) if size[s] <= size[word]))


def _clean(text: str) -> str:
    """Without white space around it, and without lone surrogates, which tokenizers refuse."""
    return text.encode("utf-8", "replace").decode("utf-8").strip()
