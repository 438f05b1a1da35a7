"""Words that stand for the classes (verbalizers): taken from names and descriptions, or suggested by labelled texts."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_WORDS = 12  # a class: more words cost little, and say little that is new

# Parts of class names as data sets abbreviate them.
_ABBREVIATIONS = {
    "abbr": "abbreviation",
    "acq": "acquisition",
    "biz": "business",
    "desc": "description",
    "econ": "economy",
    "edu": "education",
    "enty": "entity",
    "fx": "currency",
    "govt": "government",
    "hum": "human",
    "info": "information",
    "intl": "international",
    "loc": "location",
    "med": "medicine",
    "misc": "miscellaneous",
    "neg": "negative",
    "neu": "neutral",
    "num": "number",
    "org": "organization",
    "per": "person",
    "pol": "politics",
    "pos": "positive",
    "sci": "science",
    "tech": "technology",
}
_STOP_WORDS = frozenset(
    """
    a about all also an and any are as at be been between but by can class do does e etc for from g has have how i in
    into is it its label like more most not of on one or other out over related so some such text texts than that the
    their them there these they this those to up very was were what when where which who whose why will with you your
    """.split()  # noqa: SIM905
)


def class_words(label: str, description: str | None = None) -> list[str]:
    """Words for a class from its name and, if there is one, its description.

    The name is split at punctuation, "and", "or" and camel case, and usual abbreviations are written out: "Sci/Tech"
    gives science and technology. A name without any letter stands for itself.

    Args:
        label: Class name.
        description: Its description; the first words that carry meaning are used.

    Returns:
        1 to `MAX_WORDS` distinct words.
    """
    words = [_ABBREVIATIONS.get(word.lower(), word) for word in _words(label)] + _words(description or "")
    distinct: dict[str, str] = {}
    for word in words:
        distinct.setdefault(word.lower(), word)
    return list(distinct.values())[:MAX_WORDS] or [label.strip() or label]


def resolve_verbalizers(
    labels: Sequence[str],
    given: Mapping[str, Sequence[str]] | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> list[list[str]]:
    """Words for every class, in the order of `labels`: the given ones, else `class_words`.

    Raises:
        ValueError: For an unknown class, or a class with an empty word or none.
    """
    given, descriptions = given or {}, descriptions or {}
    unknown = sorted(set(given) - set(labels))
    if unknown:
        raise ValueError(f"`verbalizers` names unknown classes {unknown}; the classes are {list(labels)}.")
    for label, words in given.items():
        if not isinstance(words, list | tuple) or not words or not all(isinstance(w, str) and w.strip() for w in words):
            raise ValueError(f"`verbalizers[{label!r}]` must be a list of words such as ['Science'], got {words!r}.")
    return [
        list(dict.fromkeys(map(str.strip, given[label])))
        if label in given
        else class_words(label, descriptions.get(label))
        for label in labels
    ]


def separating_words(
    logp: NDArray[np.float32], member: NDArray[np.float32], words: Sequence[str], num_words: int
) -> list[list[str]]:
    """For each class, the words that its texts raise most above the other texts', in standard deviations.

    Args:
        logp: `(n, V)`: log-likelihood of each word after each text.
        member: 0/1 `(n, K)`: the classes of each text.
        words: V words; spellings that differ in case only are given once.
        num_words: Most words for a class; at most one for every four of its texts.
    """
    relative = logp - logp.mean(axis=1, keepdims=True)  # a text may make all words likelier
    count = member.sum(axis=0)[:, None]
    inside = member.T @ relative / np.maximum(count, 1)
    outside = (1 - member).T @ relative / np.maximum(len(member) - count, 1)
    # The constant keeps words out that hardly vary at all.
    effect = (inside - outside) / (relative.std(axis=0) + 0.3)
    chosen = []
    for k, texts in enumerate(count[:, 0]):
        found: dict[str, str] = {}
        for i in np.argsort(-effect[k], kind="stable"):
            if len(found) >= min(num_words, texts // 4):
                break
            found.setdefault(words[i].lower(), words[i])
        chosen.append(list(found.values()))
    return chosen


def _words(text: str) -> list[str]:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)  # camel case
    return [word for word in re.findall(r"[^\W\d_]+", text) if word.lower() not in _STOP_WORDS]
