"""How the stand-in for an LLM's API counts tokens."""

import math
import re

_PIECES = re.compile(r"[A-Za-z]+|\d{1,3}|[\u2e80-\ua4cf\uac00-\ud7af\uff00-\uffef]|[^\W\d_]+|[^\w\s]|_")


def count_tokens(text: str) -> int:
    """Tokens by a rule like those of byte-pair encodings: no estimate of the client follows it."""
    total = 0.0
    for piece in _PIECES.findall(text):
        if piece.isascii():
            total += math.ceil(len(piece) / 6) if piece.isalpha() else 1
        else:
            total += 1.4 if len(piece) == 1 else math.ceil(len(piece) / 2.5)
    return math.ceil(total)
