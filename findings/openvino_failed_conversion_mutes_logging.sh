#!/bin/sh
# A failed `openvino.convert_model` leaves the whole process without warnings in its logs.
#
# Guess: a converter that raises an error leaves the logging of the program that called it as it was.
# Seen with openvino 2026.4.1: the conversion sets the level of the root logger to ERROR and adds a filter to it. After a
# success both are put back; after an error they stay. A program that catches the error and goes on with PyTorch logs no
# warning any more, of any library that leaves the level to the root logger, and records that are logged to the root
# logger itself meet the filter, too.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q openvino==2026.4.1 torch==2.13.0 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import logging
import sys

import openvino
import torch

heard = []
handler = logging.Handler()
handler.emit = lambda record: heard.append(record.getMessage())
logging.getLogger().addHandler(handler)


class Unfinished(torch.nn.Module):
    def forward(self, x):
        raise NotImplementedError


def state(when):
    logging.getLogger("some.library").warning(when)
    root = logging.getLogger()
    found = (logging.getLevelName(root.level), len(root.filters), when in heard)
    print(f"{when}: level {found[0]}, {found[1]} filters, a warning is {'' if found[2] else 'not '}heard")
    return found


found = [state("before")]
openvino.convert_model(torch.nn.Linear(4, 2), example_input=torch.ones(1, 4))
found.append(state("after a success"))
try:
    openvino.convert_model(Unfinished(), example_input=torch.ones(1, 4))
except Exception as error:
    print(f"{type(error).__name__} is raised")
found.append(state("after an error"))
sys.exit(found != [("WARNING", 0, True), ("WARNING", 0, True), ("ERROR", 1, False)])
PYTHON
CI=true "$folder/venv/bin/python" "$folder/run.py" 2>/dev/null
