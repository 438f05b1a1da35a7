#!/bin/sh
# Label Studio's SDK cannot check a task that holds predictions or annotations.
#
# Guess: `LabelInterface(config).validate_task(task)` says whether a task fits the labelling configuration, with the
# pre-annotations that `validate_prediction` accepts.
# Seen with label-studio-sdk 2.1.2: True for a task without them. With the key `predictions` or `annotations`, be it an
# empty list, it raises TypeError: it calls `validate_prediction()` without the prediction. So whoever writes tasks with
# pre-annotations checks the data of the task and each prediction on its own.
# Exits 0 if it is so, 1 if Label Studio has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q label-studio-sdk==2.1.2 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
from label_studio_sdk.label_interface import LabelInterface

CONFIG = """<View><Text name="text" value="$text"/><Choices name="topic" toName="text">
<Choice value="Sports"/><Choice value="World"/></Choices></View>"""
interface = LabelInterface(CONFIG)
result = {"id": "a", "from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": ["Sports"]}}
prediction = {"model_version": "v1", "score": 0.9, "result": [result]}
task = {"data": {"text": "A late goal."}}
print("prediction alone:", interface.validate_prediction(prediction), "(no complaint)")
print("task alone:      ", interface.validate_task(task))
assert not interface.validate_prediction(prediction, return_errors=True)
assert interface.validate_task(task)
for more in ({"predictions": [prediction]}, {"predictions": []}, {"annotations": [{"result": [result]}]}):
    try:
        said = interface.validate_task({**task, **more})
    except TypeError as error:
        print("task with", *more, ":", error)
    else:
        raise SystemExit(f"validate_task answers now: {said}")
PYTHON
"$folder/venv/bin/python" "$folder/run.py"
