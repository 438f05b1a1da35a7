"""Files as people have them, each with what it should be read as."""

import json
from dataclasses import dataclass, field
from typing import Any

TEXTS = [f"the {'movie' if i % 2 else 'team'} is w{i % 10} good" for i in range(12)]
AB = ["b" if i % 2 else "a" for i in range(12)]


@dataclass
class Case:
    """An input with what it should be read as.

    Args:
        name: What people have.
        file: Name of the file.
        data: Its content.
        labels: The class, or list of classes, of each row; None where the file is refused.
        texts: Its texts.
        error: What the error says (a regular expression), where it is refused.
        options: Arguments of the classifier; the commands get them as options.
        entries: Ways in that the case is about.
    """

    name: str
    file: str
    data: str | bytes
    labels: list[Any] | None = None
    texts: list[str] = field(default_factory=lambda: TEXTS)
    error: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    entries: tuple[str, ...] = ("fit", "train", "score", "predict", "pipeline")


LABELLED = ("fit", "train", "score")


def cells(labels: list[str], texts: list[str] = TEXTS, header: str = "text,label", sep: str = ",") -> str:
    """A file of these texts and labels, without any quoting."""
    return "\n".join([header, *(f"{t}{sep}{c}" for t, c in zip(texts, labels, strict=True))]) + "\n"


def lines(labels: list[Any], texts: list[Any] = TEXTS, column: str = "label") -> str:
    """JSON Lines."""
    return "".join(json.dumps({"text": t, column: c}) + "\n" for t, c in zip(texts, labels, strict=True))


def each(*labels: Any) -> list[Any]:
    """These labels over and over, for all texts."""
    return [labels[i % len(labels)] for i in range(len(TEXTS))]


def first_text(text: str) -> list[str]:
    """The texts with another first one."""
    return [text, *TEXTS[1:]]


SEVERAL = {"multi_label": True}
AB_AND_B = each(["a", "b"], ["b"])
CASES = [
    Case("codes with zeros, CSV", "d.csv", cells(each("0111", "0112")), each("0111", "0112")),
    Case("codes with zeros, JSONL", "d.jsonl", lines(each("0111", "0112")), each("0111", "0112")),
    Case("01 beside 1, CSV", "d.csv", cells(each("01", "1")), each("01", "1")),
    Case("1.10 beside 1.1, CSV", "d.csv", cells(each("1.10", "1.1")), each("1.10", "1.1")),
    Case("1.10 beside 1.1, JSONL", "d.jsonl", lines(each("1.10", "1.1")), each("1.10", "1.1")),
    Case("whole floats, JSONL", "d.jsonl", lines(each(0.0, 1.0)), each("0", "1")),
    Case("whole floats, CSV", "d.csv", cells(each("0.0", "1.0")), each("0", "1")),
    Case("spaces around labels", "d.csv", cells(each(" a ", "a", "b")), each("a", "a", "b")),
    Case(
        "dates as labels, JSONL", "d.jsonl", lines(each("2024-05-01", "2024-06-01")), each("2024-05-01", "2024-06-01")
    ),
    Case("strings that are JSON", "d.jsonl", lines(each("7", "null")), each("7", "null")),
    Case(
        "an empty cell among 0/1",
        "d.csv",
        cells(["", *each("0", "1")[1:]]),
        error="Row 0 has no label",
        entries=LABELLED[:2],
    ),
    Case(
        "unquoted comma in every row",
        "d.csv",
        cells(AB, [t + ", too" for t in TEXTS]),
        error="d.csv: row 0 has 3 cells",
    ),
    Case(
        "semicolons",
        "d.csv",
        cells(AB, [t + ", too" for t in TEXTS], "text;label", ";"),
        AB,
        [t + ", too" for t in TEXTS],
    ),
    Case(
        "raw quotes in a TSV",
        "d.tsv",
        cells(AB, [f'"{TEXTS[0]}', f'{TEXTS[1]}" now', *TEXTS[2:]], "text\tlabel", "\t"),
        AB,
        [f'"{TEXTS[0]}', f'{TEXTS[1]}" now', *TEXTS[2:]],
    ),
    Case(
        "raw quotes that read either way",
        "d.tsv",
        cells(AB, [f'"{TEXTS[0]}', f'{TEXTS[1]}"', *TEXTS[2:]], "text\tlabel", "\t"),
        error=r"d.tsv: it has 11 rows if .* and 12 if",
    ),
    Case(
        "quoted cells in a TSV",
        "d.tsv",
        cells(AB, first_text('"a ""good""\nmovie\tw1"'), "text\tlabel", "\t"),
        AB,
        first_text('a "good"\nmovie\tw1'),
    ),
    Case(
        "letters after a closing quote",
        "d.csv",
        cells(AB, [f'"{TEXTS[0]}"s', f'"{TEXTS[1]}"', *TEXTS[2:]]),
        error=r"d.csv: row 0 has quotes that do not match \(line 2: ',' expected",
    ),
    Case("words in quotes", "d.csv", cells(AB, first_text(f'"so" {TEXTS[0]}')), AB, first_text(f'"so" {TEXTS[0]}')),
    Case(
        "a quote that never closes",
        "d.csv",
        cells(AB, [f'"{TEXTS[0]}"', f'"{TEXTS[1]}', *TEXTS[2:]]),
        error="that opens a cell in line 3 is never closed",
    ),
    Case("sep=; by Excel", "d.csv", ("sep=;\r\n" + cells(AB, sep=";", header="text;label")).encode("utf-8-sig"), AB),
    Case("to_json, one object a line", "d.json", lines(AB), AB),
    Case("byte order mark", "d.csv", cells(AB).encode("utf-8-sig"), AB),
    Case("UTF-16", "d.csv", cells(AB).encode("utf-16"), AB),
    Case("UTF-16, JSONL", "d.jsonl", lines(AB).encode("utf-16"), AB),
    Case("Windows-1252", "d.csv", cells(AB, first_text("café")).encode("cp1252"), error="d.csv: line 2 is not UTF-8"),
    Case("texts of digits, JSONL", "d.jsonl", lines(AB, first_text("12345")), AB, first_text("12345")),
    Case(
        "sets in cells",
        "d.csv",
        cells(each("\"{'a', 'b'}\"", "\"{'b'}\""), header="text,labels"),
        AB_AND_B,
        options=SEVERAL,
    ),
    Case(
        "tuples in cells",
        "d.csv",
        cells(each("\"('a', 'b')\"", "\"('b',)\""), header="text,labels"),
        AB_AND_B,
        options=SEVERAL,
    ),
    Case(
        "choices in objects",
        "d.jsonl",
        lines(each({"choices": ["a", "b"]}, {"choices": ["b"]}), column="labels"),
        AB_AND_B,
        options=SEVERAL,
    ),
    Case("lists of one, single label", "d.jsonl", lines(each(["a"], ["b"])), AB),
    Case("integers, multi-label", "d.jsonl", lines(each(3, 4), column="labels"), each(["3"], ["4"]), options=SEVERAL),
    Case(
        "lists without multi_label",
        "d.jsonl",
        lines(each(["a", "b"], ["b"])),
        error="Row 0 has several labels.*(multi_label=True|--multi-label)",
        entries=LABELLED,
    ),
    Case("another label column", "d.csv", cells(AB, header="text,topic"), AB, options={"label_column": "topic"}),
    Case(
        "no label column",
        "d.csv",
        cells(AB, header="text,topic"),
        error="no column 'label' or 'labels'; the columns are text, topic. .*(`label_column`|`--label-column`)",
        entries=LABELLED[:2],
    ),
    Case("an empty text", "d.csv", cells(AB, first_text("")), error="row 0|Input 0 has no text"),
    Case("a blank text", "d.jsonl", lines(AB, first_text("  ")), error="row 0|Input 0 has no text"),
    Case("a missing text", "d.jsonl", lines(AB, [None, *TEXTS[1:]]), error="row 0|Input 0 has no text"),
    Case(
        "an empty text, skipped", "d.csv", cells(AB, first_text("")), AB[1:], TEXTS[1:], options={"empty_texts": "skip"}
    ),
]


def names(labels: list[Any]) -> list[str]:
    """The classes that occur."""
    return sorted({str(c) for row in labels for c in (row if isinstance(row, list) else [row])})
