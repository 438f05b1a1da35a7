#!/bin/sh
# doccano's export "fastText" hides the labels of texts with a comma or a quote from fastText.
#
# Guess: the file holds lines as fastText reads them: `__label__sport A late goal.`
# Seen with doccano 1.8.4: its writer is that of CSV, so that a line with a comma or a quote is enclosed in quotes:
# `"__label__sport A late goal, again. "`. fastText 0.9.2 takes a word that starts with a quote for no label: it trains on
# the lines without commas alone, silently, and has words such as `"__label__sport`. Readers must undo the CSV first.
# doccano's own formatter and writer run; its database is not needed (a module of one constant stands for its models).
# Exits 0 if it is so, 1 if doccano or fastText has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps doccano==1.8.4 2>/dev/null
"$folder/venv/bin/pip" install -q "pandas<2.3" "numpy<2.4" fasttext-numpy2-wheel==0.9.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import types
import warnings
from pathlib import Path

import backend
import fasttext
import pandas as pd

warnings.simplefilter("ignore")
package = Path(backend.__file__).parent / "data_export"
outer, models = types.ModuleType("data_export"), types.ModuleType("data_export.models")
outer.__path__, models.DATA = [str(package)], "data"
sys.modules |= {"data_export": outer, "data_export.models": models}
from data_export.pipeline.formatters import FastTextCategoryFormatter
from data_export.pipeline.writers import FastTextWriter


class Label(str):
    def to_string(self):
        return str(self)


texts = {"A late goal, again.": "sport", "The match was lost.": "sport", "A new phone, at last.": "tech"}
rows = [{"data": t, "categories": [Label(n)], "Comments": []} for t, n in texts.items()]
FastTextWriter.write(sys.argv[1], FastTextCategoryFormatter("categories").format(pd.DataFrame(rows)))
print(Path(sys.argv[1]).read_text())
model = fasttext.train_supervised(sys.argv[1], minCount=1, epoch=1, verbose=0, thread=1)
print("labels:", model.labels, " words:", [w for w in model.words if "label" in w])
assert model.labels == ["__label__sport"], "the class `tech` is there now"
assert '"__label__tech' in model.words
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder/export.txt"
