#!/bin/sh
# Argilla's JSON of records does not say whether a response was submitted, is a draft or was discarded.
#
# Guess: `dataset.records.to_json("records.json")` keeps what a response has: value, user, status (draft, submitted,
# discarded), as the flattened `to_datasets()` does.
# Seen with argilla 2.8.0: a response in the JSON is {"value", "user_id"}, without the status, while the same records
# flattened have `topic.responses.status`. Whoever counts the responses of the JSON counts drafts and discarded ones.
# No server: the two functions that `to_json` and `to_datasets` call are called with records made by the client.
# Exits 0 if it is so, 1 if Argilla has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q argilla==2.8.0 requests 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import sys
from types import SimpleNamespace
from uuid import UUID

import argilla as rg
from argilla.records._io import HFDatasetsIO, JsonIO

states = ["submitted", "draft", "discarded"]
responses = [rg.Response("topic", "sport", UUID(int=i + 1), status=s) for i, s in enumerate(states)]
record = rg.Record(id="1", fields={"text": "A late goal."}, responses=responses)
path = JsonIO.to_json([record], sys.argv[1])
nested = json.loads(path.read_text())[0]["responses"]["topic"]
flat = HFDatasetsIO.to_datasets([record], SimpleNamespace(schema={}))[0]
print("to_json:     ", nested)
print("to_datasets: ", flat["topic.responses"], flat["topic.responses.status"])
assert flat["topic.responses.status"] == states
assert all(set(response) == {"value", "user_id"} for response in nested), "the JSON has the status now"
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder/records.json"
