#!/bin/sh
# After ONNX Runtime's dynamic quantization, the class of a row depends on the other rows of its batch.
#
# Guess: a row's result does not depend on what else is in the batch. So it is with float32 weights, and quantization
# only makes each result less exact.
# Seen with onnxruntime 1.32.0: `quantize_dynamic` puts a `DynamicQuantizeLinear` before each product. It takes one scale
# from the whole batch, not one for each row. A neighbour with a few large numbers makes the scale coarse for all rows: the
# same row gets another class in another batch. With `per_channel=True` it is the same: this is about the weights.
# Exits 0 if it is so, 1 if the library has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q onnxruntime==1.32.0 onnx==1.23.2 numpy 2>/dev/null
cat > "$folder/run.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save
from onnxruntime.quantization import QuantType, quantize_dynamic

folder = sys.argv[1]
rng = np.random.default_rng(0)
weights = rng.normal(size=(64, 3)).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["embedding", "weights"], ["logits"])],
    "head",
    [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 64])],
    [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    [numpy_helper.from_array(weights, "weights")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
save(model, f"{folder}/float32.onnx")
for name, options in (("int8", {}), ("int8 per channel", {"per_channel": True})):
    quantize_dynamic(f"{folder}/float32.onnx", f"{folder}/{name}.onnx", weight_type=QuantType.QInt8, **options)

rows = rng.normal(size=(500, 64)).astype(np.float32)
neighbour = rng.normal(size=(1, 64)).astype(np.float32)
neighbour[0, 0] = 60.0  # encoders have such dimensions
found = {}
for name in ("float32", "int8", "int8 per channel"):
    session = onnxruntime.InferenceSession(f"{folder}/{name}.onnx", providers=["CPUExecutionProvider"])

    def classes(batch):
        return session.run(None, {"embedding": batch})[0].argmax(axis=1)

    alone = np.array([classes(row[None])[0] for row in rows])
    beside = np.array([classes(np.concatenate([row[None], neighbour]))[0] for row in rows])
    found[name] = int((alone != beside).sum())
    print(f"{name}: {found[name]} of {len(rows)} rows get another class beside another neighbour")
sys.exit(found["float32"] != 0 or found["int8"] == 0 or found["int8 per channel"] == 0)
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder" 2>/dev/null
