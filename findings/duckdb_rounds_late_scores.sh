#!/bin/sh
# DuckDB rounds the scores of a JSON Lines file to 0 and 1 if the first 20,480 or so are whole.
#
# Guess: a column that starts with whole numbers and goes on with fractions becomes DOUBLE, or its first fraction is an error,
# as in Polars. DuckDB does the first if the fraction comes early.
# Seen with duckdb 2.0.1: the type is taken from a sample of the first rows. After that BIGINT stands, and later numbers are
# rounded into it: 0.4 is 0, 0.7 is 1. No error or warning. Files of scores are like this where sure answers come first, or
# where an older part holds votes of 0 and 1. `sample_size=-1` reads all rows before it decides.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q duckdb==2.0.1 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path

import duckdb

path = Path(sys.argv[1]) / "scores.jsonl"
found = {}
for whole, options in ((1000, ""), (30_000, ""), (30_000, ", sample_size=-1")):
    scores = [i % 2 for i in range(whole)] + [0.4, 0.7]
    path.write_text("".join(json.dumps({"text": "a", "score": score}) + "\n" for score in scores))
    table = duckdb.sql(f"SELECT score FROM read_json_auto('{path}'{options})")
    found[whole, options] = str(table.types[0]), [row[0] for row in table.fetchall()][-2:]
    print(f"{whole} whole numbers first{options}: {found[whole, options][0]}, the last two are {found[whole, options][1]}")
right = ("DOUBLE", [0.4, 0.7])
sys.exit(list(found.values()) != [right, ("BIGINT", [0, 1]), right])
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder"
