#!/bin/sh
# `class_encode_column` of datasets gives integer classes other numbers as soon as there are more than ten.
#
# Guess: a column of the integers 0 to 11 keeps its numbers: class 2 is 2. The column is only to become a `ClassLabel`, which
# `train_test_split(stratify_by_column=...)` asks for.
# Seen with datasets 5.2.0: the integers become strings, and these are sorted: "0", "1", "10", "11", "2". Class 2 is now 4, and
# class 10 is 2; the classes 5 and 10 change places. With up to ten classes from 0 on nothing changes, so that small tests
# pass. Nothing is logged. Whoever has the names of the classes in a list of their own, or a model that was trained on the file
# before, has other classes from then on.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys
import warnings

import datasets

datasets.disable_progress_bars()
heard = []
handler = logging.Handler()
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger("datasets").addHandler(handler)
warnings.simplefilter("error")


def encoded(labels):
    data = datasets.Dataset.from_dict({"text": ["a text"] * len(labels), "label": labels})
    return data.class_encode_column("label")


try:
    datasets.Dataset.from_dict({"label": [0, 1] * 4}).train_test_split(0.5, stratify_by_column="label")
except ValueError as error:
    print("stratify_by_column of integers:", str(error)[:90])
ten, twelve = encoded(list(range(10)) * 4), encoded(list(range(12)) * 4)
print("of 10:", ten["label"][:10], "\nof 12:", twelve["label"][:12], twelve.features["label"].names)
five_ten = encoded([5, 10] * 4)
print("of 5 and 10:", five_ten["label"][:2])
assert five_ten["label"][:2] == [1, 0]
assert ten["label"][:10] == list(range(10))
sys.exit(twelve["label"][:12] != [0, 1, 4, 5, 6, 7, 8, 9, 10, 11, 2, 3] or bool(heard))
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/run.py"
