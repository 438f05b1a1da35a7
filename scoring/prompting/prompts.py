"""Prompts for API models, filled in from the templates of `prompts.yaml`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from ...configuration import LLMProvider, Task
from .defuse import quote

Example = dict[str, Any]  # {"text": ..., "label": name} or {"text": ..., "labels": [name, ...]}

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@cache
def templates() -> dict[str, Any]:
    """The built-in templates."""
    return yaml.safe_load(files(__package__).joinpath("prompts.yaml").read_text(encoding="utf-8"))


def fill(template: str, **values: Any) -> str:
    """Replace `{name}` by `values[name]`, in one pass: braces inside the values stay as they are.

    Raises:
        ValueError: For a placeholder that does not exist here.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in sorted(values))
            raise ValueError(f"Unknown placeholder {match[0]} in a prompt template; there are {known}.")
        return str(values[match[1]])

    return _PLACEHOLDER.sub(value, template)


def tidy(prompt: str) -> str:
    """`prompt` without the gaps that empty placeholders leave."""
    return re.sub(r"\n{3,}", "\n\n", prompt).strip()


@dataclass(frozen=True)
class Prompt:
    """One request's prompt: the stable part, the examples chosen for its texts, and the texts."""

    system: str
    user: str

    @property
    def messages(self) -> list[dict[str, str]]:
        """In the chat format."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


class PromptWriter:
    """Writes the prompts of one provider for one set of classes.

    Args:
        provider: Its `templates`, `guidelines` and few-shot `examples` are used.
        task: The classes.
        answer: `"json"`, `"letter"` or `"yes_no"`: how the method wants to be answered.
        examples: The same examples for every text.
    """

    def __init__(
        self,
        provider: LLMProvider,
        task: Task,
        answer: str,
        examples: Sequence[Example] = (),
    ) -> None:
        self.labels, self.multi_label = list(task.labels), task.multi_label
        # The classes as the model reads them: their names may come from data, too.
        self.names = [quote(label) for label in self.labels]
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"The classes {self.labels} differ only in control tokens or invisible characters.")
        described = dict(zip(self.labels, self.names, strict=True))
        self.descriptions = {described.get(c, c): quote(text) for c, text in task.descriptions.items()}
        self.letters = option_letters(self.names) if answer == "letter" else [""] * len(self.labels)
        self.lettered = answer == "letter"
        self._guidelines, self.shown = provider.guidelines or "", list(examples)
        self._many = answer == "json" and provider.texts_per_request > 1
        template = provider.templates[0] if provider.templates else templates()["system"]
        values = {
            "guidelines": self._guidelines,
            "cardinality": templates()["cardinality"]["multi" if task.multi_label else "single"],
            "classes": self.classes(),
            "answer": self._instruction(answer),
            "examples": self.examples(examples),
        }
        before, whole, after = template.partition("{text}")
        self._before, self._after = tidy(fill(before, **values)), fill(after, **values).rstrip()
        self._is_whole = bool(whole)

    def write(self, texts: Sequence[str], neighbours: Sequence[Example] = ()) -> Prompt:
        """The prompt for `texts`, with examples chosen for them."""
        if self._many:
            numbered = (fill(templates()["numbered_text"], number=i, text=quote(t)) for i, t in enumerate(texts, 1))
            body = "\n".join(numbered)
        else:
            body = fill(templates()["text"], text=quote(texts[0]))
        user = self.examples(neighbours) + "\n\n" + body if neighbours else body
        if self._is_whole:
            return Prompt("", f"{self._before}\n{user}{self._after}".lstrip())
        return Prompt(self._before, user)

    def context(self, neighbours: Sequence[Example] = ()) -> str:
        """The context of a decision API: guidelines and examples; empty if there are none."""
        examples = [*self.shown, *neighbours]
        if not (self._guidelines or examples):
            return ""
        values = {"guidelines": self._guidelines, "examples": self.examples(examples)}
        return tidy(fill(templates()["decision_context"], **values))

    def classes(self) -> str:
        """The list of classes, a line each."""
        key = "class_letter" if self.lettered else "class"
        lines = []
        for letter, label in zip(self.letters, self.names, strict=True):
            described = self.descriptions.get(label)
            template = templates()[key + ("_described" if described else "")]
            lines.append(fill(template, letter=letter, label=label, description=described or ""))
        return "\n".join(lines)

    def examples(self, examples: Sequence[Example]) -> str:
        """Labelled examples, or nothing."""
        if not examples:
            return ""
        blocks = (fill(templates()["example"], text=quote(str(e["text"])), answer=self._answer_of(e)) for e in examples)
        return fill(templates()["examples"], examples="\n".join(blocks))

    def _answer_of(self, example: Example) -> str:
        shown_as = dict(zip(self.labels, self.letters if self.lettered else self.names, strict=True))
        shown = [shown_as[name] for name in example_labels(example, self.labels)]
        return ", ".join(shown) or "none"

    def _instruction(self, answer: str) -> str:
        kind = "multi" if self.multi_label else "single"
        given = templates()["answer"]
        if answer == "decision":
            return ""
        if answer == "yes_no":
            return fill(given["yes_no"], count=len(self.labels))
        text = fill(
            given[f"{answer}_{kind}"],
            letters=_range(self.letters),
            kind="number" if self.letters[0].isdecimal() else "letter",
        )
        return f"{given['json_many']} {text}" if self._many else text


def option_letters(names: Sequence[str]) -> list[str]:
    """`A`, `B`, ... for up to 25 classes, numbers from 1 for more. No `I`, which also begins a sentence.

    A class whose name is one of these has its own: `B` must not stand for another class where one is called B.
    """
    letters = list("ABCDEFGHJKLMNOPQRSTUVWXYZ")
    options = letters[: len(names)] if len(names) <= len(letters) else [str(i + 1) for i in range(len(names))]
    own: dict[str, str] = {}
    for name in names:
        if (letter := name.strip().upper()) in options and letter not in own.values():
            own[name] = letter
    left = iter(option for option in options if option not in own.values())
    return [own.get(name) or next(left) for name in names]


def _range(letters: Sequence[str]) -> str:
    """`A to D`, whatever their order."""
    return f"{min(letters, key=_place)} to {max(letters, key=_place)}"


def _place(letter: str) -> tuple[int, str]:
    return len(letter), letter


def example_labels(example: Example, labels: Sequence[str]) -> list[str]:
    """The class names of an example.

    Raises:
        ValueError: If it names a class that does not exist.
    """
    given = example["labels"] if "labels" in example else [example["label"]]
    unknown = [name for name in given if name not in labels]
    if unknown:
        raise ValueError(f"An example of the prompt has the unknown classes {unknown}; the classes are {list(labels)}.")
    return list(given)
