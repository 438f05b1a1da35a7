#!/bin/sh
# `import openvino` reports its use to a web service, without a question, and writes into the home folder.
#
# Guess: a library that runs models on this machine sends nothing. At most its command-line tools ask for consent, as the
# text of its telemetry package has it ("no telemetry is sent until user accepts").
# Seen with openvino 2026.4.1 and openvino-telemetry 2025.2.0 (a dependency): the bare import hands the sender an event
# with a new random number of the user, kept in ~/intel; `convert_model` adds events with the framework and with the
# counts of the operations in the model. Nothing is asked or printed. The variable CI=true turns all of it off, and so
# does a file ~/intel/openvino_telemetry that holds 0.
# Here the sender is replaced: nothing leaves the machine.
# Exits 0 if it is so, 1 if the libraries have changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 openvino-telemetry==2025.2.0 torch==2.13.0 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import os
import sys

from openvino_telemetry.utils.sender import TelemetrySender

sent = []
TelemetrySender.send = lambda self, backend, message: sent.append([event["name"] for event in message["events"]])

import openvino

after_import = len(sent)
home = sorted(name for _, folders, files in os.walk(os.environ["HOME"]) for name in folders + files)
print(f"events of the import: {sent}, in the home folder: {home}")
if os.environ.get("CI"):
    sys.exit(bool(sent or home))

import torch

openvino.convert_model(torch.nn.Linear(4, 2), example_input=torch.ones(1, 4))
print(f"events of a conversion: {sent[after_import:]}")
sys.exit(not after_import or "openvino_ga_cid" not in home or ["op_count"] not in sent[after_import:])
PYTHON
mkdir "$folder/home" "$folder/home-ci"
env -u CI HOME="$folder/home" "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null
CI=true HOME="$folder/home-ci" "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null
