#!/bin/sh
# crowd-kit's Krippendorff alpha counts each missing vote as a label of its own, which agrees with nothing.
#
# Guess: missing votes are left out. That is what Krippendorff's alpha is known for, and crowd-kit's own `MajorityVote` does it.
# A table with one column for each annotator (`melt`) has a row for each vote that was not given.
# Seen with crowd-kit 1.4.2 and pandas 3.1.1: three annotators who never disagree have an alpha of 0.25 ("unreliable") instead
# of 1.0. The rows go to NLTK, where NaN is a label, and differs from each other NaN too. No warning. `dropna` first gives 1.0.
# Exits 0 if it is so, 1 if the libraries have changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-deps crowd-kit==1.4.2 2>/dev/null
"$folder/venv/bin/pip" install -q pandas==3.1.1 nltk==3.10.4 scikit-learn==1.9.1 attrs tqdm 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import pandas as pd
from crowdkit.aggregation import MajorityVote
from crowdkit.metrics.data import alpha_krippendorff

warnings.simplefilter("ignore")  # of pandas, about an argument of `eval`
table = pd.DataFrame(
    {"ann": ["a", "b", "a", "b", "a", "b"], "bob": ["a", "b", "a", "b", "a", None], "cy": [None, "b", None, None, "a", "b"]}
)
votes = table.rename_axis("task").reset_index().melt("task", var_name="worker", value_name="label")
as_it_is, without = alpha_krippendorff(votes), alpha_krippendorff(votes.dropna())
names = MajorityVote().fit_predict(votes).tolist()
print(f"{votes['label'].isna().sum()} of {len(votes)} votes are missing, all others agree; majority: {names}")
print(f"alpha: {as_it_is:.3f}; after dropna: {without:.3f}")
sys.exit(not (as_it_is < 0.3 and without == 1.0 and names == table["ann"].tolist()))
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
