"""`labelfusion push` with the real client against a stand-in of the Hub."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard, constants
from labelfusion.hub_scripts.cards.model_card import MARKER, update_card
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.publish.secret_files import refuse_secret_files

from labelfusion import AutoFusionClassifier

KEY = "sk-" + "abc123DEF456" * 3


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(readers=("token-that-may-read",)) as server:
        yield server


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def push(hub: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command in this process; constants that the client reads from the environment at import are set instead."""
    for name in [n for n in os.environ if n.startswith(("HF_", "HUGGING"))]:
        monkeypatch.delenv(name)

    def run(
        *arguments: Any, token: str = hub.token, endpoint: str = hub.url, offline: bool = False, **env: str
    ) -> Done:
        with monkeypatch.context() as patch:
            patch.setattr(constants, "ENDPOINT", endpoint)
            template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
            patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            patch.setattr(constants, "HF_HUB_OFFLINE", offline)
            patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
            patch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
            for name, value in {"HF_TOKEN": token, **env}.items():
                patch.setenv(name, value)
            status = main(["push", *map(str, arguments)])
        out, err = capsys.readouterr()
        return Done(status, out, "\n".join(line for line in err.splitlines() if "error" in line))

    return run


def test_a_model_is_pushed_with_its_card_and_not_twice(
    hub: HubServer, push: Callable[..., Done], saved_model: Callable[..., Path]
) -> None:
    folder = saved_model()
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "reliability.png").write_bytes(b"\x89PNG\0")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"pickle")
    (folder / ".env").write_text("OPENAI_API_KEY=secret")
    done = push(folder, "me/fusion", "--private", "--commit-message", "First")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/me/fusion" in done.stdout
    repo = hub.repos["model:me/fusion"]
    assert repo["private"] is True
    assert repo["commits"] == ["First"]
    expected = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert set(repo["files"]) == expected - {"checkpoint-3/optimizer.pt", ".env"}
    assert repo["files"]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = repo["files"]["README.md"].decode()
    assert 'model="me/fusion"' in card
    assert hub.token not in done.stdout + done.stderr

    sent = hub.uploads
    assert push(folder, "me/fusion").returncode == 0
    assert hub.uploads == sent  # the weights are there already


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("dropped", "/storage/"),
        ("dropped", "/commit/"),
        ("unheard", "/commit/"),
        ("refused", "/objects/batch"),
        (400, "/storage/"),
        (429, "/repos/create"),
        (400, "/preupload/"),
    ],
)
def test_after_a_push_that_broke_off_the_same_command_completes_it(
    hub: HubServer,
    push: Callable[..., Done],
    saved_model: Callable[..., Path],
    fault: int | str,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its own attempts
    folder = saved_model()

    def disturb(method: str, path: str) -> int | str | None:
        return fault if place in path and method in ("POST", "PUT") else None

    hub.disturb = disturb
    done = push(folder, "me/fusion")
    assert done.returncode == 2
    assert hub.token not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    hub.disturb = None
    assert push(folder, "me/fusion").returncode == 0
    files = hub.repos["model:me/fusion"]["files"]
    assert {name: files[name] for name in files if name != ".gitattributes"} == {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_push_to_hub_of_the_classifier(
    hub: HubServer, saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("ENDPOINT", hub.url), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(constants, name, value)
    clf = AutoFusionClassifier.from_pretrained(saved_model())
    assert clf.push_to_hub("me/clf", private=True, token=hub.token) == f"{hub.url}/me/clf"
    files = hub.repos["model:me/clf"]["files"]
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json", "auto_classifier.json"} <= set(files)
    assert 'from_pretrained("me/clf")' in files["README.md"].decode()


def test_no_token(hub: HubServer, push: Callable[..., Done], saved_model: Callable[..., Path]) -> None:
    done = push(saved_model(), "me/fusion", token="")
    assert done.returncode == 2
    assert "hf auth login" in done.stderr
    assert hub.requests == []


def test_refused_tokens_and_names(hub: HubServer, push: Callable[..., Done], saved_model: Callable[..., Path]) -> None:
    folder = saved_model()
    wrong = push(folder, "me/fusion", token="unknown-token")
    assert wrong.returncode == 2
    assert "did not accept the token" in wrong.stderr
    reader = push(folder, "me/fusion", "--token-env", "MINE", MINE="token-that-may-read")
    assert reader.returncode == 2
    assert "may not write to 'me/fusion'" in reader.stderr
    assert "rights to create" in reader.stderr
    absent = push(folder, "me/fusion", "--token-env", "NOT_THERE")
    assert "no environment variable NOT_THERE" in absent.stderr
    name = push(folder, "me/a bad name")
    assert "allows no such name" in name.stderr
    for done in (wrong, reader, absent, name):
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        assert "token-that" not in done.stderr


def test_no_network(hub: HubServer, push: Callable[..., Done], saved_model: Callable[..., Path]) -> None:
    folder = saved_model()
    done = push(folder, "me/fusion", endpoint="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr
    offline = push(folder, "me/fusion", offline=True)
    assert "HF_HUB_OFFLINE" in offline.stderr
    assert offline.returncode == 2


@pytest.mark.parametrize("name", ["notes.txt", "evaluation/run.log", "config.json"])
def test_something_like_a_key_is_not_pushed(
    hub: HubServer, push: Callable[..., Done], saved_model: Callable[..., Path], name: str
) -> None:
    folder = saved_model()
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name == "config.json":
        path.write_text(json.dumps({**json.loads(path.read_text()), "note": KEY}, indent=1))
    else:
        path.write_text(f"first line\nkey = {KEY}\n")
    done = push(folder, "me/fusion")
    assert done.returncode == 2
    assert "credential" in done.stderr
    assert KEY not in done.stderr
    assert hub.requests == []


def test_values_of_secret_variables_are_found_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SERVICE_API_KEY", "correct horse battery")
    (tmp_path / "weights.safetensors").write_bytes(b"\0" * 100 + b"correct horse battery" + b"\0")
    (tmp_path / "tokenizer_config.json").write_text('{"mask_token": "[MASK]"}')
    (tmp_path / "empty").write_text("")
    refuse_secret_files([tmp_path / "tokenizer_config.json", tmp_path / "empty"], tmp_path)
    with pytest.raises(ValueError, match=r"weights\.safetensors holds the value") as error:
        refuse_secret_files([tmp_path / "weights.safetensors"], tmp_path)
    assert "horse" not in str(error.value)
    (tmp_path / "settings.json").write_text('{"api_key": "x"}')
    with pytest.raises(ValueError, match="api_key"):
        refuse_secret_files([tmp_path / "settings.json"], tmp_path)


def test_other_folders_are_refused(
    hub: HubServer, push: Callable[..., Done], tmp_path: Path, saved_model: Callable[..., Path]
) -> None:
    assert "is not a LabelFusion model" in push(tmp_path, "me/fusion").stderr
    folder = saved_model()
    (folder / "model.safetensors").unlink()
    assert "no weights" in push(folder, "me/fusion").stderr
    assert hub.requests == []


def test_a_data_file_is_pushed_as_a_data_set(hub: HubServer, push: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "scored.parquet"
    pd.DataFrame({"text": ["a", "b"], "llm_scores": [[[0.5, 0.5]], None]}).to_parquet(path)
    done = push(path, "me/scores")
    assert done.returncode == 0, done.stderr
    files = hub.repos["dataset:me/scores"]["files"]
    assert files["scored.parquet"] == path.read_bytes()
    assert "data_files: scored.parquet" in files["README.md"].decode()
    (tmp_path / "scored.parquet.md").write_text("---\ntags:\n- mine\n---\n# Mine\n")
    assert push(path, "me/scores").returncode == 0
    assert "# Mine" in hub.repos["dataset:me/scores"]["files"]["README.md"].decode()


def test_an_edited_card_stays(saved_model: Callable[..., Path]) -> None:
    folder = saved_model(multi_label=True, thresholds=[0.3, 0.4, 0.5])
    path = update_card(folder, "me/first")
    text = path.read_text()
    card = ModelCard(text)
    assert card.data.to_dict()["pipeline_tag"] == "text-classification"
    assert "class0 0.3" not in text  # nothing is claimed of thresholds without figures
    assert "me/first" in text
    assert "None" not in text
    assert "nan" not in text.lower().replace("nan where missing", "")
    update_card(folder, "me/second")
    assert "me/second" in path.read_text()
    path.write_text(path.read_text().replace(MARKER, "") + "\nMine.")
    update_card(folder, "me/third")
    assert path.read_text().endswith("Mine.")
    assert "me/third" not in path.read_text()
