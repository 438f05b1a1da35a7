"""MLflow: save, log and load classifiers as MLflow models, and predict with them as `pyfunc`.

```python
import labelfusion.mlflow

labelfusion.mlflow.log_model(clf, name="news")                      # or save_model(clf, "folder")
model = mlflow.pyfunc.load_model("models:/news/1")
model.predict(pd.DataFrame({"text": texts}), params={"llm_policy": "0.2"})
clf = labelfusion.mlflow.load_model("models:/news/1")               # the classifier itself
```

The model's files are the folder of `save_pretrained`: JSON and safetensors. Nothing is pickled, and no key is saved.
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import Model
    from mlflow.models.model import ModelInfo
    from mlflow.models.signature import ModelSignature

    from .classifier import AutoFusionClassifier

NAME = "labelfusion-transformers"
WHEELS = "wheels"
ROUTING = ("llm_policy", "max_cost_usd", "target_accuracy", "deadline_s", "max_risk")


def save_model(
    model: Any,
    path: str | Path,
    *,
    llm_policy: str | float = "always",
    wheel: str | Path | None = None,
    pip_requirements: list[str] | None = None,
    extra_pip_requirements: list[str] | None = None,
    signature: "ModelSignature | None" = None,
    input_example: Any = None,
    metadata: dict[str, Any] | None = None,
    mlflow_model: "Model | None" = None,
) -> None:
    """Save a classifier as an MLflow model.

    Args:
        model: A fitted `AutoFusionClassifier`, a `LabelFusionPipeline`, or the folder of a saved model.
        path: The new folder.
        llm_policy: The policy of predictions without the parameter `llm_policy`.
        wheel: Wheel of this package to save with the model, if it is not on the index that the model is installed from.
        pip_requirements: Instead of the pinned packages that the model needs.
        extra_pip_requirements: Besides these.
        signature: Instead of `model_signature`.
        input_example: As of MLflow, which predicts it at once: the LLMs are queried about it as `llm_policy` says.
        metadata: As of MLflow.
        mlflow_model: The MLflow model that is being logged.

    Raises:
        ImportError: Without MLflow.
        ValueError: For anything else than a model, or a wheel of another package.
    """
    mlflow = _mlflow()
    path = Path(path)
    with tempfile.TemporaryDirectory() as folder:
        source = _saved(model, Path(folder))
        config = _config(source)
        needed = pip_requirements or default_requirements(source)
        wheel = None if wheel is None else _checked_wheel(Path(wheel))
        mlflow.pyfunc.save_model(
            path,
            loader_module=__name__,
            data_path=str(source),
            mlflow_model=mlflow_model,
            signature=signature or model_signature(config, llm_policy),
            input_example=input_example,
            pip_requirements=[*needed, *(extra_pip_requirements or [])],
            metadata=metadata,
        )
    if wheel is not None:
        _add_wheel(path, wheel)


def log_model(model: Any, name: str = "model", **options: Any) -> "ModelInfo":
    """Log a classifier to the active MLflow run, or a new one.

    Args:
        model: As for `save_model`.
        name: The model's name in MLflow.
        **options: Those of `save_model`, and of `mlflow.models.Model.log` (`registered_model_name`, ...).
    """
    return _mlflow().models.Model.log(None, flavor=sys.modules[__name__], name=name, model=model, **options)


def load_model(model_uri: str, **options: Any) -> "AutoFusionClassifier":
    """The classifier of an MLflow model.

    Args:
        model_uri: `models:/name/version`, `runs:/run/name`, or a folder.
        **options: Those of `AutoFusionClassifier.from_pretrained`.

    Raises:
        ValueError: If it is a model of another kind.
    """
    from .classifier import AutoFusionClassifier

    mlflow = _mlflow()
    folder = Path(mlflow.artifacts.download_artifacts(model_uri))
    flavor = mlflow.models.Model.load(folder).flavors.get("python_function", {})
    if flavor.get("loader_module") != __name__:
        raise ValueError(f"{model_uri} is no model that `{__name__}` has saved.")
    return AutoFusionClassifier.from_pretrained(folder / flavor["data"], **options)


def model_signature(config: Any, llm_policy: str | float = "always") -> "ModelSignature":
    """The signature: a column `text`, the columns of `labelfusion predict --with-sources`, and the parameters.

    Args:
        config: The model's config.
        llm_policy: Default of the parameter, a text: `"always"`, `"never"`, `"auto"` or a share such as `"0.2"`.
    """
    _mlflow()
    from mlflow.models.signature import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    _policy(llm_policy)  # raises for what is none
    text, number = DataType.string, DataType.double
    several = config.multi_label
    outputs: list[Any] = [
        ColSpec(Array(text) if several else text, "predicted_labels" if several else "predicted_label"),
        ColSpec(Array(number) if several else number, "score"),
        ColSpec(DataType.boolean, "llm_called"),
        ColSpec(number, "cost_usd"),
        ColSpec(text, "llm_missing", required=False),
        ColSpec(text, "sources"),
    ]
    params = [ParamSpec("llm_policy", text, str(llm_policy))]
    params += [ParamSpec(name, number, None) for name in ROUTING if name != "llm_policy"]
    return ModelSignature(Schema([ColSpec(text, "text")]), Schema(outputs), ParamSchema(params))


def default_requirements(folder: str | Path) -> list[str]:
    """The packages that the model in a folder needs, at the versions installed here."""
    from .hub_scripts.cards.llm_needs import clients

    extras = clients(_config(Path(folder)))
    own = f"{NAME}[{','.join(extras)}]" if extras else NAME
    pinned = ("torch", "transformers", "safetensors", "numpy", "pandas", "scikit-learn", *extras)
    # A local version such as 2.9.0+cpu is on no index.
    return [f"{name}=={version(name.partition('[')[0]).partition('+')[0]}" for name in (own, *pinned)]


def _load_pyfunc(path: str) -> "_PyfuncModel":
    """What `mlflow.pyfunc.load_model` calls."""
    from .classifier import AutoFusionClassifier

    return _PyfuncModel(AutoFusionClassifier.from_pretrained(path))


class _PyfuncModel:
    """Predicts for `mlflow.pyfunc`."""

    def __init__(self, clf: "AutoFusionClassifier") -> None:
        self.clf = clf

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """The columns of `labelfusion predict --with-sources`, `sources` as JSON.

        Args:
            data: Data with a column `text`, or texts.
            params: `ROUTING`; None for a value stands for the default.
        """
        import pandas as pd

        from .pipelines.answer_columns import AnswerColumns
        from .pipelines.inference import Inference
        from .routing.run_options import Routing

        given = {name: value for name, value in (params or {}).items() if value is not None}
        if "llm_policy" in given:
            given["llm_policy"] = _policy(given["llm_policy"])
        if "text_pair" in getattr(data, "columns", ()):
            raise ValueError("The data have a column `text_pair`, and pairs of texts are not predicted through MLflow.")
        texts = data["text"] if hasattr(data, "columns") else data
        texts = texts.tolist() if hasattr(texts, "tolist") else list(texts)
        config = self.clf.model_.config
        routing = Routing.parse(config, **given)
        parts = list(self.clf.stream_sources([(text, None) for text in texts], **given))
        columns = AnswerColumns(config, [str(c) for c in self.clf.classes_], None, True, routing.control)
        rows = list(columns.rows(Inference.concatenate(parts or [Inference.empty(config)])))
        for row in rows:
            row["sources"] = json.dumps(row["sources"], ensure_ascii=False)
        return pd.DataFrame(rows, columns=columns.names)


def _policy(text: Any) -> str | float:
    """A policy from a text: parameters of MLflow have one type.

    Raises:
        ValueError: If it is none.
    """
    from .routing.policy import check_policy

    try:
        value: Any = float(text)
    except ValueError:
        value = text
    return check_policy(value)  # type: ignore[return-value]


def _saved(model: Any, folder: Path) -> Path:
    """A folder with the model, in `folder` if it is not saved yet."""
    if hasattr(model, "save_pretrained"):
        target = folder / "model"
        model.save_pretrained(target)
        return target
    if not isinstance(model, str | Path) or not (Path(model) / "config.json").is_file():
        raise ValueError(
            f"`model` is {model if isinstance(model, str | Path) else type(model).__name__!r}; expected a fitted "
            "AutoFusionClassifier, a LabelFusionPipeline, or the folder of a saved model."
        )
    return Path(model)


def _config(folder: Path) -> Any:
    from .configuration import LabelFusionConfig

    return LabelFusionConfig.from_pretrained(folder)


def _checked_wheel(wheel: Path) -> Path:
    if wheel.suffix != ".whl" or not wheel.is_file() or not wheel.name.startswith(NAME.replace("-", "_") + "-"):
        raise ValueError(f"`wheel` is {str(wheel)!r}; expected the file of a wheel of {NAME}, as `make wheel` builds.")
    return wheel


def _add_wheel(path: Path, wheel: Path) -> None:
    """Put the wheel into the model, and its place into the requirements, which are relative to the model's folder."""
    import yaml

    (path / WHEELS).mkdir()
    shutil.copy(wheel, path / WHEELS / wheel.name)

    def placed(line: str) -> str:
        extras = line.removeprefix(NAME).partition("==")[0]
        return f"./{WHEELS}/{wheel.name}{extras}" if line.startswith(NAME) else line

    listed, conda = path / "requirements.txt", path / "conda.yaml"
    lines = map(placed, listed.read_text(encoding="utf-8").splitlines())
    listed.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    environment = yaml.safe_load(conda.read_text(encoding="utf-8"))
    for part in environment["dependencies"]:
        if isinstance(part, dict):
            part["pip"] = list(map(placed, part["pip"]))
    conda.write_text(yaml.safe_dump(environment), encoding="utf-8")


def _mlflow() -> Any:
    try:
        import mlflow
        import mlflow.pyfunc
    except ImportError:
        raise ImportError("This needs MLflow: pip install 'labelfusion-transformers[mlflow]'.") from None
    return mlflow
