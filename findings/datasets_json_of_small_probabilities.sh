#!/bin/sh
# `Dataset.to_json` of datasets writes small probabilities as 0 and cuts all others to ten decimals.
#
# Guess: what was written is read back: the numbers are 64 bits wide, JSON has room for all digits, and `to_csv` and
# `to_parquet` of the same data keep them.
# Seen with datasets 5.2.0 and pandas 3.1.1: the writer is that of pandas, with ten digits after the point (not ten
# significant ones). A probability of 2e-11 is 0.0 in the file, and one of 0.99999999998 is 1.0: its logarithm is minus
# infinity, and the log loss of a sure but wrong model is infinite where it was 24.6. Nothing is logged.
# `to_json(path, double_precision=15)` keeps five digits more; 15 is the most that it takes.
# Exits 0 if it is so, 1 if the libraries have changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pyarrow==26.0.1 pandas==3.1.1 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import json
import math
import sys
from pathlib import Path

import datasets

datasets.disable_progress_bars()
folder = Path(sys.argv[1])
scores = [1 - 2e-11, 2e-11, 1 / 3]
data = datasets.Dataset.from_dict({"score": scores})
data.to_json(folder / "scores.jsonl")
data.to_csv(folder / "scores.csv")
data.to_parquet(folder / "scores.parquet")
found = {}
for kind in ("json", "csv", "parquet"):
    path = folder / f"scores.{'jsonl' if kind == 'json' else kind}"
    found[kind] = list(datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(folder))["score"])
    losses = [-math.log(p) if p else math.inf for p in found[kind]]
    print(f"{kind}: {found[kind]}, losses {[round(loss, 2) for loss in losses]}")
print("as text:", [json.dumps(p) for p in scores], "and in the file:", (folder / "scores.jsonl").read_text().split())
kept = all(math.isclose(a, b, rel_tol=1e-15) for kind in ("csv", "parquet") for a, b in zip(scores, found[kind]))
sys.exit(not (kept and found["json"] == [1.0, 0.0, 0.3333333333]))
PYTHON
HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/venv/bin/python" "$folder/run.py" "$folder" 2>/dev/null
