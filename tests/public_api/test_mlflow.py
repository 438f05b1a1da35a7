"""`labelfusion.mlflow`: save, log and load as MLflow does, and predict with parameters."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from forked import run
from labelfusion.configuration import LabelFusionConfig
from llm_server import LLMServer

from labelfusion import AutoFusionClassifier

mlflow = pytest.importorskip("mlflow", reason="needs the extra `mlflow`")

import labelfusion.mlflow as flavor  # noqa: E402

CLASSES = ["class0", "class1", "class2"]
TEXTS = ["the team is great", "the bank", "rain", "w0 w1 w2 w3"]
KEY = "sk-secretofthellmprovider"


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LLMServer]:
    monkeypatch.setenv("LLM_KEY", KEY)
    monkeypatch.setenv("LABELFUSION_STORE", str(tmp_path / "scores.sqlite"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with LLMServer(labels=CLASSES) as server:
        yield server


@pytest.fixture
def model(saved_model: Callable[..., Path], llm: LLMServer) -> Path:
    provider = {"model": "openai/m", "name": "m", "api_base": llm.url, "api_key_env": "LLM_KEY", "method": "json"}
    return saved_model(llm_providers=[{**provider, "price": [1.0, 1.0]}])


def test_a_saved_model_predicts_with_parameters(model: Path, tmp_path: Path, llm: LLMServer) -> None:
    clf = AutoFusionClassifier.from_pretrained(model)
    flavor.save_model(clf, tmp_path / "saved", llm_policy="never")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    data = pd.DataFrame({"text": TEXTS})

    never = loaded.predict(data)
    assert never["predicted_label"].tolist() == clf.predict(TEXTS, llm_policy="never").tolist()
    assert (llm.requests, never["llm_called"].any()) == (0, False)
    half = loaded.predict(data, params={"llm_policy": "0.5"})
    assert half["llm_called"].sum() == llm.requests == 2
    always = loaded.predict(data, params={"llm_policy": "always"})
    found = clf.predict_sources(TEXTS)
    assert always["score"].tolist() == pytest.approx(found.probabilities.max(axis=1).tolist(), abs=1e-5)
    assert json.loads(always["sources"][0])["m"] == pytest.approx(
        dict(zip(CLASSES, found.llm_scores[0, 0].tolist(), strict=True)), abs=1e-5
    )
    poor = loaded.predict(pd.DataFrame({"text": ["a new text"]}), params={"llm_policy": "always", "max_cost_usd": 0.0})
    assert poor["llm_missing"].tolist() == ["`max_cost_usd` of $0 reached"]
    for params in ({"llm_policy": "sometimes"}, {"llm_policy": "2"}, {"max_cost_usd": -1.0}):
        with pytest.raises(ValueError, match=next(iter(params))):
            loaded.predict(data, params=params)
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(pd.DataFrame({"words": TEXTS}))


def test_the_files_hold_no_pickle_and_no_key(model: Path, tmp_path: Path) -> None:
    flavor.save_model(model, tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {"", ".json", ".safetensors", ".txt", ".yaml", ".jinja"}
    assert any(path.suffix == ".safetensors" for path in files)
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    needed = (tmp_path / "saved" / "requirements.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in needed]
    assert {"labelfusion-transformers[openai]", "torch", "transformers", "openai"} <= set(names)
    assert all("==" in line and "+" not in line for line in needed)


def test_logged_and_loaded_as_a_classifier(model: Path, tmp_path: Path) -> None:
    info = flavor.log_model(AutoFusionClassifier.from_pretrained(model), name="news", llm_policy="never")
    loaded = flavor.load_model(info.model_uri, device="cpu")
    clf = AutoFusionClassifier.from_pretrained(model)
    assert loaded.predict(TEXTS).tolist() == clf.predict(TEXTS).tolist()
    assert LabelFusionConfig.from_pretrained(model).label_names == loaded.model_.config.label_names
    names = [param.name for param in info.signature.params]
    assert names == list(flavor.ROUTING)
    assert mlflow.pyfunc.load_model(info.model_uri).predict(pd.DataFrame({"text": TEXTS})).shape == (4, 6)


def test_several_classes_for_a_text(saved_model: Callable[..., Path], llm: LLMServer, tmp_path: Path) -> None:
    folder = saved_model(multi_label=True, num_providers=0)
    flavor.save_model(folder, tmp_path / "saved")
    found = mlflow.pyfunc.load_model(str(tmp_path / "saved")).predict(pd.DataFrame({"text": TEXTS}))
    expected = AutoFusionClassifier.from_pretrained(folder).predict(TEXTS)
    assert [sorted(labels) for labels in found["predicted_labels"]] == [sorted(labels) for labels in expected]


def test_a_wheel_goes_with_the_model(model: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "labelfusion_transformers-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    flavor.save_model(model, tmp_path / "saved", wheel=wheel, extra_pip_requirements=["psycopg[binary]"])
    assert (tmp_path / "saved" / "wheels" / wheel.name).read_bytes() == b"a wheel"
    line = f"./wheels/{wheel.name}[openai]"
    for name in ("requirements.txt", "conda.yaml"):
        text = (tmp_path / "saved" / name).read_text()
        assert line in text
        assert "psycopg[binary]" in text
        assert "labelfusion-transformers" not in text
    with pytest.raises(ValueError, match="`wheel` is"):
        flavor.save_model(model, tmp_path / "other", wheel=tmp_path / "numpy-2.0.0-py3-none-any.whl")


def test_what_is_no_model(saved_model: Callable[..., Path], llm: LLMServer, tmp_path: Path) -> None:
    for wrong in (tmp_path, "nothing", 3, None):
        with pytest.raises(ValueError, match="expected a fitted AutoFusionClassifier"):
            flavor.save_model(wrong, tmp_path / "saved")
    with pytest.raises(ValueError, match="llm_policy"):
        flavor.save_model(saved_model(num_providers=0), tmp_path / "saved", llm_policy="sometimes")
    mlflow.pyfunc.save_model(tmp_path / "other", loader_module="json", data_path=str(saved_model(num_providers=0)))
    with pytest.raises(ValueError, match=r"is no model that `labelfusion\.mlflow` has saved"):
        flavor.load_model(str(tmp_path / "other"))


def test_the_command_of_mlflow_predicts(saved_model: Callable[..., Path], llm: LLMServer, tmp_path: Path) -> None:
    folder = saved_model(num_providers=0)
    flavor.save_model(folder, tmp_path / "saved")
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "in.csv", index=False)
    command = [sys.executable, "-m", "mlflow", "models", "predict", "-m", str(tmp_path / "saved"), "-t", "csv"]
    command += ["-i", str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.json"), "--env-manager", "local"]
    run(command, check=True, timeout=240, capture_output=True)
    rows = json.loads((tmp_path / "out.json").read_text())["predictions"]
    expected = AutoFusionClassifier.from_pretrained(folder).predict(TEXTS)
    assert [row["predicted_label"] for row in rows] == expected.tolist()
