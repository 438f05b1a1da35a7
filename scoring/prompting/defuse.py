"""Texts as data: what a prompt's delimiters or a chat template's control tokens look like loses its first bracket."""

import re
import unicodedata

# Our own delimiters, and the tokens with which chat templates begin and end a turn, a role, a tool call or a thought.
# A server that tokenises a whole conversation makes the real token of such a word in a text. Each pattern is looked
# for after compatibility characters are folded and invisible ones left out.
_NAMED = "s|bos|eos|(start|end)_of_(turn|image|audio)|think|tool_calls?|tool_response|function_calls?|sop|eop"
_PATTERNS = (
    r"<(?=\s*/?\s*text\b)",
    rf"<(?=/?({_NAMED}|role|seed:\w+|(unused|reserved_|extra_id_|SPECIAL_)\d+)>)",
    r"<(?=\|[^\s<>‹]{1,64}>|[^\s<>‹|]{1,64}\|>|<\s*/?\s*SYS\s*>>)",
    r"\[(?=\|[^\s\[\]⁅]{1,64}\|\])",
    r"\[(?=/?(?-i:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_(CALLS|RESULTS|CONTENT)|MODEL_SETTINGS|THINK|ARGS|CALL_ID)\])",
    r"\[(?=(?-i:gMASK|sMASK|UNUSED_TOKEN_\d+)\]|e~\[)",
    r"\](?=~!?b[\[\]])",
)
_TOKENS = re.compile("|".join(_PATTERNS), re.IGNORECASE)
_OPENING = re.compile(r"[<\[\]＜﹤［］﹇﹈]")  # whatever folds to the first character of a pattern
_CONTROL = re.compile(r"[\0-\x08\x0e-\x1b\x7f]")
_INSTEAD = {"<": "‹", "[": "⁅", "]": "⁆"}
_FILLERS = "\u115f\u1160"  # letters without a shape


def quote(text: str) -> str:
    """`text` so that nothing in it can end the block it stands in or begin a turn of the conversation.

    Only the first bracket of such a word changes; a text without one stays as it is. Lone surrogates become `?`.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    if not _OPENING.search(text):
        return text
    if text.isascii() and not _CONTROL.search(text):
        return _TOKENS.sub(lambda match: _INSTEAD[match[0]], text)
    places: list[int] = []
    seen: list[str] = []
    for place, char in enumerate(text):
        for folded in char if char.isascii() else unicodedata.normalize("NFKC", char):
            category = unicodedata.category(folded)
            if category in ("Cf", "Mn", "Me") or folded in _FILLERS or (category == "Cc" and not folded.isspace()):
                continue
            seen.append(folded)
            places.append(place)
    chars = list(text)
    for match in _TOKENS.finditer("".join(seen)):
        chars[places[match.start()]] = _INSTEAD[match[0]]
    return "".join(chars)
