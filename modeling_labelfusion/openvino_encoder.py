"""Runs the encoder of a model with OpenVINO, which is faster than PyTorch on many CPUs."""

import sys
import warnings
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from .modeling_labelfusion import LabelFusionForSequenceClassification

BACKENDS = ("torch", "openvino")
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MOVED = {"f32": 1e-3, "bf16": 0.1}  # largest accepted difference from PyTorch, relative to the largest number


class _States(nn.Module):
    """The encoder with positional inputs; outputs: the last layer, then the inner ones that are pooled."""

    def __init__(self, model: "LabelFusionForSequenceClassification", inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.encoder, self.inputs, self.layers = model.encoder, inputs, model.config.pooling_layers

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(self.inputs, tensors, strict=True))
        outputs = self.encoder(**given, output_hidden_states=bool(self.layers), return_dict=True)
        states = (outputs.last_hidden_state, *(outputs.hidden_states[i] for i in self.layers))
        # Padding outside of all windows of local attention becomes NaN.
        there = given["attention_mask"].bool().unsqueeze(-1)
        return tuple(torch.where(there, state, 0.0) for state in states)


class OpenVinoEncoder:
    """The compiled encoder of a model, to be called as the encoder itself.

    Args:
        model: The model, on the CPU, in eval mode. Its weights are copied.
        inputs: Names of the inputs.
        bf16: Compute in bfloat16.

    Raises:
        ImportError: Without OpenVINO.
        ValueError: If the encoder cannot be converted, or gives other numbers than with PyTorch.
    """

    def __init__(
        self, model: "LabelFusionForSequenceClassification", inputs: tuple[str, ...], bf16: bool = False
    ) -> None:
        openvino = _import_openvino()
        if model.device.type != "cpu":
            raise ValueError(f"`backend='openvino'` runs on the CPU, and the model is on {str(model.device)!r}.")
        self.inputs, self.layers = inputs, list(model.config.pooling_layers)
        states, precision = _States(model, inputs).eval(), "bf16" if bf16 else "f32"
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the traced graph is compared with the encoder below
                graph = _graph(states, tuple(_example(2, 6, len(inputs))))
            self._compiled = openvino.Core().compile_model(graph, "CPU", options)
            positions = getattr(model.config.encoder_config, "max_position_embeddings", None) or 80
            shapes = ((1, 2), (3, 9), (2, min(40, positions // 2)))
            moved = float(np.max([self._difference(states, *shape) for shape in shapes]))  # NaN if any is
        except Exception as error:  # converter and graph raise anything
            raise ValueError(
                f"OpenVINO cannot run this encoder (a {model.config.encoder_config.model_type!r}): "
                f"{type(error).__name__}: {str(error)[:200]} Give `backend='torch'`."
            ) from None
        if not moved <= _MOVED[precision]:
            raise ValueError(
                f"OpenVINO computes other embeddings for this encoder (a {model.config.encoder_config.model_type!r}) "
                f"than PyTorch, off by {moved:.2g} of the largest number. Give `backend='torch'`."
            )

    def __call__(self, **inputs: Any) -> Any:
        """Token embeddings as of the encoder: `last_hidden_state`, and `hidden_states` by the number of the layer."""
        last, *inner = self._run([inputs[name] for name in self.inputs])
        return SimpleNamespace(last_hidden_state=last, hidden_states=dict(zip(self.layers, inner, strict=True)))

    def _run(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        found = self._compiled([tensor.numpy() for tensor in tensors], share_inputs=True)
        return [torch.from_numpy(found[i]) for i in range(1 + len(self.layers))]

    def _difference(self, states: nn.Module, count: int, length: int) -> float:
        """The largest difference of a token's embedding, relative to the largest number."""
        tensors = _example(count, length, len(self.inputs))
        with torch.no_grad():
            wanted = states(*tensors)
        pairs = zip(wanted, self._run(tensors), strict=True)
        return float(np.max([float((x - y).abs().max() / x.abs().max().clamp_min(1e-6)) for x, y in pairs]))


def openvino_encoder(model: "LabelFusionForSequenceClassification", inputs: Any, bf16: bool = False) -> OpenVinoEncoder:
    """The compiled encoder of a model; compiled once for its weights, inputs, precision and number of threads."""
    names = tuple(name for name in _INPUTS if name in inputs and name in model._encoder_arguments)
    weights = tuple((p.data_ptr(), p._version) for p in model.encoder.parameters())
    kept = model.__dict__.get("_openvino")
    if kept is None or kept.weights != weights:
        kept = model.__dict__["_openvino"] = _Kept(weights)
    key = (names, bf16, torch.get_num_threads(), *model.config.pooling_layers)
    if key not in kept.encoders:
        kept.encoders[key] = OpenVinoEncoder(model, names, bf16)
    return kept.encoders[key]


class _Kept:
    """The compiled encoders of a model, for these weights. A copy of the model compiles its own."""

    def __init__(self, weights: Any = None) -> None:
        self.weights = weights
        self.encoders: dict[Any, OpenVinoEncoder] = {}

    def __deepcopy__(self, memo: Any) -> "_Kept":
        return _Kept()

    def __reduce__(self) -> Any:
        return _Kept, ()


def _import_openvino() -> ModuleType:
    """OpenVINO. Where nothing has imported it yet, its reports of what it is used for are off in this process.

    Else it sends them without a question, from the import on, and keeps a number of the user in the home folder.

    Raises:
        ImportError: Without OpenVINO.
    """
    reports = "openvino_telemetry"
    off = "openvino" not in sys.modules and reports not in sys.modules
    if off:
        sys.modules[reports] = None  # type: ignore[assignment]  # its import fails, for which OpenVINO has a stand-in
    try:
        import openvino
    except ImportError:
        raise ImportError(
            "`backend='openvino'` needs OpenVINO: pip install 'labelfusion-transformers[openvino]'."
        ) from None
    finally:
        if off:
            del sys.modules[reports]
    return openvino


def _graph(states: nn.Module, example: tuple[torch.Tensor, ...]) -> Any:
    """The graph of OpenVINO. `openvino.convert_model` would leave the root logger deaf if it failed."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    converter = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(states, example_input=example)  # it has to live as long as the conversion
    return converter.convert(converter.load(decoder))


def _example(count: int, length: int, inputs: int) -> list[torch.Tensor]:
    """Token ids, a mask that leaves out the end of the last text, and token types."""
    ids = torch.arange(count * length).reshape(count, length) % 7 + 2
    mask = torch.ones_like(ids)
    mask[-1, length // 2 + 1 :] = 0
    return [ids, mask, torch.zeros_like(ids)][:inputs]
