#!/bin/sh
# scikit-learn's temperature scaling forgets what the classifier knows if the classes are numbers that do not start at 0.
#
# Guess: the values of the labels do not matter. `CalibratedClassifierCV` gives the same probabilities for the classes 0, 1, 2
# as for stars 1, 2, 3, as it does with `method="sigmoid"` and "isotonic".
# Seen with scikit-learn 1.9.1: `method="temperature"` (named for several classes) encodes labels only if they are
# strings. Numbers are used as columns: label 1 is compared with the second column, label 3 with the next row. The
# temperature that is found makes each row flat, 1/3 for each class; with two classes, 1 and 2, it is 1/2. No warning.
# The predicted classes stay right, so that the accuracy does not show it; log loss, thresholds and costs do.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q scikit-learn==1.9.1 numpy==2.4.6 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import accuracy_score, log_loss
from sklearn.naive_bayes import GaussianNB

warnings.simplefilter("error")
rng = np.random.default_rng(0)
classes = rng.integers(0, 3, 2000)
classes[999] = 0  # the last row for calibration: no label then names a column behind the end of the array
features = np.tile(rng.normal(size=(3, 6))[classes] + rng.normal(size=(2000, 6)), 3)  # copies: too sure of itself
found = {}
for method in ("sigmoid", "temperature"):
    for name, values in {"0, 1, 2": [0, 1, 2], "a, b, c": ["a", "b", "c"], "1, 2, 3": [1, 2, 3]}.items():
        labels = np.array(values)[classes]
        clf = CalibratedClassifierCV(GaussianNB(), method=method, ensemble=False).fit(features[:1000], labels[:1000])
        probabilities, truth = clf.predict_proba(features[1000:]), labels[1000:]
        accuracy = accuracy_score(truth, clf.predict(features[1000:]))
        found[method, name] = log_loss(truth, probabilities), probabilities.max()
        print(f"{method}, classes {name}: accuracy {accuracy:.3f}, log loss {found[method, name][0]:.3f}, "
              f"highest probability {found[method, name][1]:.3f}")
flat = found["temperature", "1, 2, 3"]
same = found["temperature", "0, 1, 2"] == found["temperature", "a, b, c"] and len({found["sigmoid", n] for _, n in found}) == 1
sys.exit(not (same and abs(flat[0] - np.log(3)) < 0.001 and flat[1] < 0.34 and found["temperature", "a, b, c"][0] < 0.9))
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
