"""To the Hub and back: what is pushed in every way, what comes back, what happens when something goes wrong."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hub_server import HubServer, point_client_at
from huggingface_hub import ModelCard, constants
from labelfusion.hub_scripts.formats.flat_code import FILES
from labelfusion.hub_scripts.publish.hub import push_folder
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from plain import plain_site, run_python
from transformers import PreTrainedTokenizerFast, TrainingArguments, pipeline

from labelfusion import AutoFusionClassifier, LabelFusionTrainer

CODE = {f"{name}.py" for name in FILES}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The stand-in, as the place where this process's client goes."""
    with HubServer() as server:
        for name in [n for n in os.environ if n.startswith(("HF_", "HUGGING"))]:
            monkeypatch.delenv(name)
        point_client_at(server.url, monkeypatch)
        monkeypatch.setenv("HF_TOKEN", server.token)
        yield server


PROGRAM = """
import importlib.util, json
assert importlib.util.find_spec("labelfusion") is None
from transformers import pipeline
pipe = pipeline("labelfusion-classification", model="me/fusion", trust_remote_code=True, device="cpu")
answer = pipe({"text": "a good movie", "llm_scores": [0.1, 0.8, 0.1]}, top_k=None)
pipe.save_pretrained("saved")
module = type(pipe).__module__
print("RESULTS", json.dumps([answer, module, open("saved/config.json").read()]))
"""


def test_a_self_contained_model_comes_back_from_the_hub(
    hub: HubServer, saved_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = saved_model()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    push_folder(folder, "me/fusion", self_contained=True, private=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    files = hub.repos["model:me/fusion"]["files"]
    assert set(files) >= {*before, *CODE, "README.md"}
    assert "me/fusion" in files["README.md"].decode()
    assert "pass `trust_remote_code=True`" in files["README.md"].decode()
    (tmp_path / "home").mkdir()
    done = run_python(
        PROGRAM, tmp_path / "home", plain_site(tmp_path / "site"),
        HF_ENDPOINT=hub.url, HF_TOKEN=hub.token, HF_HUB_DISABLE_XET="1",
    )  # fmt: skip
    assert "RESULTS" in done.stdout, done.stderr
    answer, module, config = json.loads(done.stdout.partition("RESULTS")[2])
    assert module.startswith("transformers_modules.me.fusion.")
    load: Any = pipeline
    inputs = {"text": "a good movie", "llm_scores": [0.1, 0.8, 0.1]}
    here = load("labelfusion-classification", model=str(folder), device="cpu")(inputs, top_k=None)
    assert [a["label"] for a in answer] == [a["label"] for a in here]
    assert [a["score"] for a in answer] == pytest.approx([a["score"] for a in here], abs=1e-6)
    assert {path.name for path in (tmp_path / "home" / "saved").iterdir()} > CODE
    assert "me/fusion--" not in config


def test_the_trainer_pushes_a_model_that_loads(
    hub: HubServer,
    make_model: Callable[..., LabelFusionForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    data = Dataset.from_dict({"text": ["a good movie", "the bank"] * 2, "labels": [0, 1] * 2})
    model = make_model()
    model.config.self_contained = True
    trainer = LabelFusionTrainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path / "run"), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            push_to_hub=True, hub_model_id="me/trained", hub_private_repo=True, hub_token=hub.token, save_steps=1,
        ),
        train_dataset=data.map(lambda row: tiny_tokenizer(row["text"], truncation=True)),
        eval_dataset=data.map(lambda row: tiny_tokenizer(row["text"], truncation=True)),
        processing_class=tiny_tokenizer,
    )  # fmt: skip
    trainer.train()
    trainer.evaluate()
    trainer.push_to_hub(tags="mine")
    repo = hub.repos["model:me/trained"]
    assert repo["private"] is True
    assert {*CODE, "config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(repo["files"])
    assert "checkpoint" not in " ".join(repo["files"])
    card = repo["files"]["README.md"].decode()
    assert 'model="me/trained"' in card
    assert "## Last evaluation in training" in card
    assert "mine" in ModelCard(card).data.to_dict()["tags"]
    assert "More information needed" not in card  # as the Trainer's own card says
    assert len(repo["commits"]) >= 2  # in training, and the last
    assert not [name for name, content in repo["files"].items() if hub.token.encode() in content]
    (tmp_path / "run" / "run.log").write_text(f"used {hub.token}\n")
    with pytest.raises(ValueError, match=r"Nothing was pushed: run\.log"):
        trainer.push_to_hub()
    assert "run.log" not in repo["files"]
    clf = AutoFusionClassifier.from_pretrained("me/trained")
    assert clf.predict(["a good movie"], llm_policy="never")[0] in model.config.label_names


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ("no token", PermissionError, "hf auth login"),
        ("reader", PermissionError, "may not write to 'me/trained'"),
        ("no network", ConnectionError, "cannot be reached"),
    ],
)
def test_what_the_trainer_says_when_it_cannot_push(
    hub: HubServer,
    make_model: Callable[..., LabelFusionForSequenceClassification],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    problem: str,
    error: type[Exception],
    message: str,
) -> None:
    hub.readers = ("token-that-may-read",)
    monkeypatch.setenv("HF_TOKEN", {"no token": "", "reader": "token-that-may-read"}.get(problem, hub.token))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    if problem == "no network":
        point_client_at("http://127.0.0.1:9", monkeypatch)
    args = TrainingArguments(
        str(tmp_path / "run"), report_to=[], push_to_hub=True, hub_model_id="me/trained", use_cpu=True
    )
    with pytest.raises(error, match=message):
        LabelFusionTrainer(model=make_model(), args=args, processing_class=tiny_tokenizer)


@pytest.mark.parametrize("status", [400, 403, 500])
def test_what_a_hub_says_is_told_without_secrets(hub: HubServer, saved_model: Callable[..., Path], status: int) -> None:
    key = "hf_" + "abcd1234" * 5
    hub.fail, hub.says = status, f"no such token: {key}"
    with pytest.raises(Exception, match="no such token") as caught:
        push_folder(saved_model(), "me/fusion")
    assert key not in str(caught.value)
    assert "[redacted]" in str(caught.value)


def test_a_push_that_broke_off_goes_on(hub: HubServer, saved_model: Callable[..., Path]) -> None:
    folder = saved_model()
    hub.fail, hub.fail_at = 500, "/commit/"  # after the weights were sent
    with pytest.raises(ConnectionError, match="try again later"):
        push_folder(folder, "me/fusion")
    assert hub.repos["model:me/fusion"]["files"] == {}
    assert hub.uploads == 1
    hub.fail = None
    push_folder(folder, "me/fusion")
    assert hub.uploads == 1  # not once more
    assert hub.repos["model:me/fusion"]["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_no_secret_is_in_any_pushed_byte(
    hub: HubServer, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "OPENAI_API_KEY": "sk-" + "planted0" * 4,
        "DB_PASSWORD": "planted battery staple",
        "MINE_TOKEN": "planted-and-not-found",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    folder = saved_model(llm_providers=[{"model": "openai/gpt-5-nano", "api_key_env": "MINE_TOKEN"}])
    (folder / ".env").write_text("\n".join(f"{name}={value}" for name, value in secrets.items()))
    log = folder / "evaluation" / "run.log"
    log.parent.mkdir()
    for value in secrets.values():
        log.write_text(f"asking with {value}\n")
        for self_contained in (False, True):
            with pytest.raises(ValueError, match=r"Nothing was pushed: evaluation/run\.log"):
                push_folder(folder, "me/fusion", self_contained=self_contained)
    model = LabelFusionForSequenceClassification.from_pretrained(folder)
    model.config.note = secrets["OPENAI_API_KEY"]
    with pytest.raises(ValueError, match="looks like a credential"):
        model.push_to_hub("me/fusion")
    assert not any(repo["files"] for repo in hub.repos.values())
    log.write_text("asked\n")
    push_folder(folder, "me/library")
    push_folder(folder, "me/own", self_contained=True)
    AutoFusionClassifier.from_pretrained(folder).push_to_hub("me/clf", self_contained=True)
    assert "configuration_labelfusion.py" in hub.repos["model:me/clf"]["files"]
    sent = [*hub.bodies, *hub.blobs.values(), *(f for repo in hub.repos.values() for f in repo["files"].values())]
    assert any(b"MINE_TOKEN" in content for content in sent)  # the name of a variable is no secret
    assert not [value for value in [*secrets.values(), hub.token] if any(value.encode() in content for content in sent)]
