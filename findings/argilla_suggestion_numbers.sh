#!/bin/sh
# Argilla's flattened data sets give a response as a name and the suggestion for the same question as a number.
#
# Guess: in the rows of `dataset.records.to_datasets()`, `topic.responses` and `topic.suggestion` hold values of one kind.
# Seen with argilla 2.8.0 and a `LabelQuestion`: the suggestion is cast to a `ClassLabel` whose names are in the order in
# which the suggestions occur, not in that of the question; written as JSON Lines, `"topic.responses": ["sport"]` stands
# beside `"topic.suggestion": 0`, and no file says that 0 is "sport". Of a `MultiLabelQuestion` both are names.
# No server: the function that `to_datasets` calls is called with records made by the client.
# Exits 0 if it is so, 1 if Argilla has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q argilla==2.8.0 requests 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import argilla as rg
from argilla.records._io import HFDatasetsIO

question = SimpleNamespace(type="label_selection")  # what is looked at of a `LabelQuestion`; a real one wants a server
records = [
    rg.Record(
        id=str(i),
        fields={"text": "A text."},
        responses=[rg.Response("topic", name, UUID(int=1), status="submitted")],
        suggestions=[rg.Suggestion("topic", name)],
    )
    for i, name in enumerate(["sport", "film"])
]
flat = HFDatasetsIO.to_datasets(records, SimpleNamespace(schema={"topic": question}))
flat.to_json(sys.argv[1])
rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
for row in rows:
    print({name: row[name] for name in ("topic.responses", "topic.suggestion")})
assert [row["topic.responses"] for row in rows] == [["sport"], ["film"]]
assert [row["topic.suggestion"] for row in rows] == [0, 1], "suggestions are names now"
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder/flat.jsonl" 2>/dev/null
