"""What a user runs after the install line, against stand-ins of the LLM and the Hub, in processes of their own.

Here with the environment of the tests; `make test-newest` puts another one into `LABELFUSION_BIN`: empty but for what
`pip install "labelfusion-transformers[openai]"` brings on that day.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hub_server import HubServer
from llm_server import LLMServer, truth

pytestmark = pytest.mark.slow

BIN = Path(os.environ.get("LABELFUSION_BIN", Path(sys.executable).parent)).absolute()
SUBJECTS = {"business": "market stock price bank", "sports": "team game match goal", "science": "data code chip phone"}
LABELS = sorted(SUBJECTS)
FIT = """
import sys
from labelfusion import AutoFusionClassifier, LLMProvider
encoder, url, data = sys.argv[1:]
llm = LLMProvider("m", api_base=url, method="json")
clf = AutoFusionClassifier(encoder=encoder, llm=llm, encoder_training="probe").fit(data)
print(*clf.predict(["the team scored a goal", "the bank and the stock market"], llm_policy="always"))
"""


def run(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in `folder`, with nothing of this process's environment but the path."""
    plain = {"PATH": os.environ["PATH"], "HOME": str(folder), "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(BIN / command[0]), *map(str, command[1:])],
        env=plain | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [(f"the {SUBJECTS[name].split()[i % 4]} was good w{i % 10} {i}", name) for i in range(20) for name in LABELS]
    path = tmp_path / "data.csv"
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return path


def test_score_train_predict_push(tmp_path: Path, data: Path, tiny_encoder_dir: str) -> None:
    with LLMServer(labels=LABELS) as llm, HubServer() as hub:
        provider = f'{{"model": "m", "api_base": "{llm.url}", "method": "json"}}'
        asked = ("--llm", "m", "--api-base", llm.url, "--method", "json")
        good(run(tmp_path, "labelfusion", "score", data, "scored.parquet", *asked))
        scored = pd.read_parquet(tmp_path / "scored.parquet")
        told = np.stack([np.stack(row)[0] for row in scored["llm_scores"]])
        np.testing.assert_allclose(told, [truth(text, LABELS) for text in scored["text"]], atol=0.02)

        encoder = ("--encoder", tiny_encoder_dir, "--encoder-training", "probe")
        good(run(tmp_path, "labelfusion", "train", data, "--output-dir", "model", "--llm", provider, *encoder))
        good(run(tmp_path, "labelfusion", "predict", "model", data, "answers.csv", LABELFUSION_SERVERS=llm.url))
        answers: Any = pd.read_csv(tmp_path / "answers.csv")
        assert len(answers) == 60

        to_hub = {"HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token}
        assert f"{hub.url}/me/model" in good(run(tmp_path, "labelfusion", "push", "model", "me/model", **to_hub))
        weights = (tmp_path / "model" / "model.safetensors").read_bytes()
        assert hub.repos["model:me/model"]["files"]["model.safetensors"] == weights


def test_fit_and_predict_in_python(tmp_path: Path, data: Path, tiny_encoder_dir: str) -> None:
    with LLMServer(labels=LABELS) as llm:
        answers = good(run(tmp_path, "python", "-c", FIT, tiny_encoder_dir, llm.url, data)).split()[-2:]
        assert llm.requests > 0
    assert set(answers) <= set(LABELS)


def test_a_hub_and_an_llm_that_cannot_be_reached(tmp_path: Path, data: Path, tiny_encoder_dir: str) -> None:
    encoder = ("--encoder", tiny_encoder_dir, "--encoder-training", "probe", "--llm", "none")
    good(run(tmp_path, "labelfusion", "train", data, "--output-dir", "model", *encoder))
    nowhere = "http://127.0.0.1:9"
    done = run(tmp_path, "labelfusion", "push", "model", "me/model", HF_ENDPOINT=nowhere, HF_TOKEN="a-token")
    assert done.returncode == 2
    assert f"{nowhere} cannot be reached (ConnectError): is there a network?" in done.stderr
    assert "Traceback" not in done.stderr
    asked = ("--llm", "m", "--api-base", nowhere, "--method", "json")
    done = run(tmp_path, "labelfusion", "score", data, "scored.parquet", *asked)
    assert done.returncode != 0
    assert "connection failed" in done.stderr
    assert "Traceback" not in done.stderr
