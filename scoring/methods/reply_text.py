"""What a model wrote: its words without its thoughts, and the JSON objects among them."""

import json
import re
from collections.abc import Iterator
from typing import Any

MOST_BRACES = 100  # that begin no JSON object: what holds more is something else
_THOUGHT_TAG = re.compile(r"(?i)<(/?)(?:think|thinking|thought|reasoning)>|\[(/?)THINK\]")


class BrokenJSONError(ValueError):
    """The text ends in the middle of a JSON object, or holds nothing that Python can read as one."""


def without_thoughts(text: str) -> str:
    """`text` without `<think>` blocks, unfinished ones too, and those whose opening tag stood in the prompt."""
    kept: list[str] = []
    start, thinking = 0, False
    for tag in _THOUGHT_TAG.finditer(text):
        if tag[1] or tag[2]:  # a closing one
            if not thinking:
                kept.clear()
            start, thinking = tag.end(), False
        elif not thinking:
            kept.append(text[start : tag.start()])
            thinking = True
    return "".join(kept if thinking else [*kept, text[start:]])


def joined_parts(given: Any) -> Any:
    """The text of a message's content, which some servers give as a list of parts; thoughts among them are left out."""
    if not isinstance(given, list):
        return given
    parts = [p if isinstance(p, dict) else {"type": "text", "text": p} for p in given]
    texts = [p.get("text") for p in parts if p.get("type", "text") in ("text", "output_text")]
    return "".join(text for text in texts if isinstance(text, str))


def tool_arguments(message: dict[str, Any]) -> list[str]:
    """The arguments of the tools that a message calls, as JSON: some servers put a structured answer there."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    functions.append(message.get("function_call"))
    given = [function.get("arguments") for function in functions if isinstance(function, dict)]
    return [a if isinstance(a, str) else json.dumps(a) for a in given if isinstance(a, str | dict)]


def json_objects(text: str) -> list[Any]:
    """The JSON objects in `text`, in order, none of them inside another; None for one that has a key twice.

    Raises:
        BrokenJSONError: If `text` ends within one, which may be the answer, or cannot be read.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_each_once)
    found: list[Any] = []
    place, end, stray = text.find("{"), len(text.rstrip()), 0
    while place >= 0:
        try:
            value, after = decoder.raw_decode(text, place)
            found.append(value)
        except json.JSONDecodeError as error:
            stray, after = stray + 1, place + 1
            if error.pos >= end or error.msg.startswith("Unterminated string") or stray > MOST_BRACES:
                raise BrokenJSONError("it ends within a JSON object") from None
        except (ValueError, RecursionError):  # numbers or nesting beyond what Python reads
            raise BrokenJSONError("it cannot be read") from None
        place = text.find("{", after)
    return found


def objects_within(value: Any) -> Iterator[dict[str, Any]]:
    """All dicts in `value`, itself included, from the outside to the inside."""
    level = [value]
    while level:
        found = [item for item in level if isinstance(item, dict)]
        yield from found
        level = [v for item in found for v in item.values()]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """The object, or None if a key comes twice: it is not clear which of its values counts."""
    found = dict(pairs)
    return found if len(found) == len(pairs) else None
