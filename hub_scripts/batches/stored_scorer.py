"""A scorer that answers from the score store alone: what a batch has brought."""

from collections.abc import Sequence

import numpy as np

from ...scoring.batches.batch_questions import BatchQuestions
from ...scoring.reasons import Missing, MissingKind
from ...scoring.score_batch import ScoreBatch, missing


class StoredScorer:
    """Looks answers up, and asks nothing.

    Args:
        questions: The questions.
        final: `{key in hexadecimal: reason}` of those that were asked in vain.
    """

    def __init__(self, questions: BatchQuestions, final: dict[str, str]) -> None:
        scorer = questions.scorer
        self.name, self.labels, self.multi_label = str(scorer.name), scorer.labels, scorer.multi_label
        self.provider, self.questions = scorer.provider, questions.questions  # for the data card
        self._batch, self._final = questions, final

    async def score(self, texts: Sequence[str]) -> ScoreBatch:
        """The stored scores of `texts`."""
        keys = list(self._batch.keys(texts))
        found = self._batch.store.get_many(keys, len(self.labels), not self.multi_label)
        scores = missing(len(texts), len(self.labels))
        errors: dict[int, str] = {}
        for row, key in enumerate(keys):
            if key in found:
                scores[row] = found[key]
            elif key.hex() in self._final:
                errors[row] = Missing(MissingKind.UNREADABLE, self._final[key.hex()])
            else:
                errors[row] = Missing(MissingKind.FAILED, "no answer from the batch")
        cached = int((~np.isnan(scores).any(axis=1)).sum())
        return ScoreBatch(scores, self._batch.method, errors=errors, cached=cached)
