#!/bin/sh
# The accuracy that TorchMetrics reports for the same logits depends on the size of the batches.
#
# Guess: a metric that is fed batch by batch ends with the value that it has for all rows at once.
# Seen with torchmetrics 1.9.0: logits are accepted, and told from probabilities by their values, batch by batch. If all of a
# batch happen to lie between 0 and 1, no sigmoid is applied. A logit of 0.3 (probability 0.57, the positive class) is then
# a probability of 0.3, the negative class. With well separated classes in large batches this never occurs; with batches of one
# text, as in a service or for the last batch of an epoch, it does: 0.91 becomes 0.67. Exact match, F1 and calibration errors
# have it too. There is no warning. Probabilities instead of logits have one value for all sizes.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --no-compile torchmetrics==1.9.0 torch==2.13.0 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys
import warnings

import torch
from torchmetrics.classification import BinaryAccuracy, MultilabelExactMatch

warnings.simplefilter("error")
torch.manual_seed(0)
found = {}
for name, make, shape in (
    ("accuracy", BinaryAccuracy, (1000,)),
    ("exact match of 2 labels", lambda: MultilabelExactMatch(num_labels=2), (1000, 2)),
):
    truth = torch.randint(0, 2, shape)
    logits = (2 * truth - 1) * 0.4 + 0.3 * torch.randn(shape)
    for given, scores in (("logits", logits), ("probabilities", logits.sigmoid())):
        for size in (1000, 32, 4, 1):
            metric = make()
            for part, gold in zip(scores.split(size), truth.split(size)):
                metric.update(part, gold)
            found[name, given, size] = round(float(metric.compute()), 3)
        print(f"{name} of {given}, batches of 1000, 32, 4 and 1:", *[found[name, given, s] for s in (1000, 32, 4, 1)])
by_hand = {n: found[n, "probabilities", 1000] for n, _, _ in found}
same = all(v == by_hand[n] for (n, given, size), v in found.items() if given == "probabilities" or size == 1000)
sys.exit(not (same and all(found[n, "logits", 1] < by_hand[n] - 0.1 for n in by_hand)))
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
