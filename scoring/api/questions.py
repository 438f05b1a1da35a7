"""The query of one provider about each text: the method's prompt, its examples, and the key of the answer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...configuration import LLMProvider, Task
from ..methods.registry import METHODS
from ..methods.request_method import Method, UnsupportedError
from ..methods.server_traits import Learnt
from ..prompting.examples import NearestExamples, Pool, balanced_examples, normalized
from ..prompting.prompts import Example
from ..providers.endpoints import Endpoint
from ..store.stored_answers import question_key

CHOICE_VERSION = 2  # counts changes in how `auto` chooses: what an older version remembers is forgotten


class Questions:
    """The questions of one provider for one set of classes.

    Args:
        provider: Declaration.
        endpoint: Where its requests go.
        task: The classes.
        pool: Labelled `(texts, labels)` for few-shot and nearest-neighbour prompts.
        embed: `(list of n texts) -> (n, d)` for nearest-neighbour prompts.

    Raises:
        ValueError: If the declaration asks for examples that are not given.
    """

    def __init__(
        self,
        provider: LLMProvider,
        endpoint: Endpoint,
        task: Task,
        pool: Pool | None = None,
        embed: Callable[[list[str]], Any] | None = None,
    ) -> None:
        self.provider, self.endpoint, self.task = provider, endpoint, task
        self.examples: list[Example] = [] if provider.prompt == "zero-shot" else list(provider.examples)
        self._nearest: NearestExamples | None = None
        if provider.prompt == "few-shot" and not self.examples:
            if pool is None:
                raise ValueError(
                    f"{provider.name}: few-shot prompts need `examples` in the provider, or a `pool` to draw them from."
                )
            self.examples = balanced_examples(pool, task.labels, provider.num_examples)
        if provider.prompt == "nearest":
            if pool is None or embed is None:
                raise ValueError(f"{provider.name}: nearest-neighbour prompts need a labelled `pool` and `embed`.")
            self._nearest = NearestExamples(pool, embed, provider.num_examples)
        self._example_texts = {normalized(str(e["text"])) for e in self.examples}
        self._methods: dict[tuple[str, str], Method] = {}
        self.learnt = Learnt()

    def methods(self) -> Iterator[Method]:
        """The methods that fit the task, best first."""
        for name in METHODS:
            try:
                yield self.method(name)
            except ValueError:
                continue

    def method(self, name: str, text: str = "") -> Method:
        """The method, with examples for `text`: never the text itself, whose answer they would give away.

        Raises:
            ValueError: If the method does not serve this task.
        """
        same = normalized(text) if self._example_texts else ""
        without = same if same in self._example_texts else ""
        if (name, without) not in self._methods:
            examples = [e for e in self.examples if not without or normalized(str(e["text"])) != without]
            try:
                self._methods[name, without] = METHODS[name](self.provider, self.endpoint, self.task, examples)
            except UnsupportedError as error:
                raise ValueError(f"{self.provider.name}: {error}.") from None
            self._methods[name, without].learnt = self.learnt
        return self._methods[name, without]

    def neighbours(self, texts: Sequence[str]) -> list[list[Example]]:
        """Examples chosen for each text; empty lists unless the strategy is `nearest`."""
        return [[] for _ in texts] if self._nearest is None or not texts else self._nearest(texts)

    def key(self, name: str, text: str, neighbours: Sequence[Example] = ()) -> bytes:
        """The key of a question in the score store: a hash of everything that the answer depends on."""
        method = self.method(name, text)
        body = method.canonical(method.body([text], neighbours))
        question = {
            "provider": self.endpoint.price_name,
            "base": self.endpoint.base or self.provider.api_base,
            "method": name,
            "version": method.version,
            "labels": list(self.task.labels),
            "multi_label": self.task.multi_label,
            "texts_per_request": self.provider.texts_per_request,
            "votes": self.provider.votes if name == "vote" else None,
            **({"min_option_mass": self.provider.min_option_mass} if self._lowered(name) else {}),
            "params": self.provider.params,
            "body": body,
        }
        return question_key(question)

    def _lowered(self, name: str) -> bool:
        """Whether answers count that by default do not: they are apart in the store."""
        return name == "logprob" and self.provider.min_option_mass < type(self.provider).min_option_mass

    def model_key(self) -> bytes:
        """The key under which `auto` remembers the method of this model for tasks like this."""
        question = {
            "model": self.endpoint.model,
            "base": self.endpoint.base or self.provider.api_base or self.provider.model,
            "multi_label": self.task.multi_label,
            "num_labels": self.task.num_labels,
            "texts_per_request": self.provider.texts_per_request,
            "params": self.provider.params,
            "choice": CHOICE_VERSION,
        }
        return question_key(question)

    def model_name(self) -> str:
        """The model, and its server if it is not the provider's own: for people."""
        server = self.endpoint.base or self.provider.api_base
        return self.endpoint.price_name or f"{self.endpoint.model} at {server}"
