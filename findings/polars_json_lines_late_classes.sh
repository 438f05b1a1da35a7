#!/bin/sh
# Polars reads scores by class without those of the classes that first occur after line 100.
#
# Guess: `read_ndjson` of lines `{"text": ..., "scores": {"sport": 0.7, "tech": 0.3}}` gives all scores, or an error at a line
# that does not fit what was inferred. The latter is what it does for a number that turns out to be a text.
# Seen with polars 2.1.0: the fields of an object and the columns of a table are those of the first 100 lines. What has
# another name later is left out, without an error or warning: a rare class, or a class that a model only names among its best
# answers now and then, has no score in any row, and a column that begins later is not there. pyarrow and
# `infer_schema_length=None` read all of it. The example has such rows at line 150, and half the probability is gone.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q polars==2.1.0 pyarrow==26.0.1 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
import warnings
from pathlib import Path

import polars
import pyarrow.json

warnings.simplefilter("error")
rows = [{"text": "a", "scores": {"sport": 0.7, "tech": 0.3}} for _ in range(149)]
rows += [{"text": "b", "scores": {"sport": 0.5, "film": 0.5}, "annotator": "ann"}]
path = Path(sys.argv[1]) / "scores.jsonl"
path.write_text("".join(json.dumps(row) + "\n" for row in rows))
found = {
    "read_ndjson": polars.read_ndjson(path).to_dicts(),
    "scan_ndjson": polars.scan_ndjson(path).collect().to_dicts(),
    "infer_schema_length=None": polars.read_ndjson(path, infer_schema_length=None).to_dicts(),
    "pyarrow": pyarrow.json.read_json(path).to_pylist(),
}
for name, table in found.items():
    print(f"{name}: {len(table)} rows, the last is {table[-1]}")
path.write_text("".join(json.dumps({"label": 1 if i < 149 else "film"}) + "\n" for i in range(150)))
try:
    polars.read_ndjson(path)
    raised = False
except polars.exceptions.ComputeError as error:
    print("a text among numbers is an error:", str(error).splitlines()[0])
    raised = True
less = {"text": "b", "scores": {"sport": 0.5, "tech": None}}
whole = {"text": "b", "scores": {"sport": 0.5, "tech": None, "film": 0.5}, "annotator": "ann"}
sys.exit(not (raised and [table[-1] for table in found.values()] == [less, less, whole, whole]))
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
