"""A pair of texts that are classified together, such as a premise and a hypothesis."""

import json
from typing import Any


class TextPair(str):
    """Two texts that are classified together.

    As a string it is the JSON object `{"text": ..., "text_pair": ...}`: this is what LLMs read, and what the score
    store hashes. Neither text can be mistaken for a part of the other one. The encoder gets
    `tokenizer(text, text_pair)`.

    Args:
        text: The first text.
        text_pair: The second text.
    """

    __slots__ = ("text", "text_pair")
    text: str
    text_pair: str

    def __new__(cls, text: str, text_pair: str) -> "TextPair":
        """Make a pair."""
        self = super().__new__(cls, json.dumps({"text": text, "text_pair": text_pair}, ensure_ascii=False))
        self.text, self.text_pair = text, text_pair
        return self

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        """Arguments for a copy."""
        return self.text, self.text_pair

    # A single text that happens to be the same JSON is another text: it is tokenized differently.

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextPair) and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((self.text, self.text_pair))


def pair_up(text: Any, text_pair: Any, where: str) -> "TextPair | None":
    """Make a pair; None if either text is missing, empty or blank.

    Args:
        text: A text, None or NaN.
        text_pair: The second text, None or NaN.
        where: The row, for errors.

    Raises:
        ValueError: If one of them is something else.
    """
    parts = []
    for name, part in (("text", text), ("text_pair", text_pair)):
        if not (part is None or isinstance(part, str) or (isinstance(part, float) and part != part)):
            raise ValueError(
                f"{where}: `{name}` is {type(part).__name__} {str(part)[:40]!r}, expected a text (a string)."
            )
        parts.append(part if isinstance(part, str) and part.strip() else None)
    return None if parts[0] is None or parts[1] is None else TextPair(parts[0], parts[1])
