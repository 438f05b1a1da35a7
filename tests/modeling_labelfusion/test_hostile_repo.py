"""Repositories that are damaged, of another version, or meant to do harm: a clear error, and nothing of theirs runs."""

import json
import os
import pickle
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from hub_server import HubServer, point_client_at
from huggingface_hub import constants
from labelfusion.configuration import LabelFusionConfig, LLMProvider
from labelfusion.hub_scripts.cli import main
from labelfusion.hub_scripts.formats.self_contained import export_model
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from labelfusion.scoring.model_scorers import build_scorers
from labelfusion.scoring.score_batch import ScoringError
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from labelfusion import AutoFusionClassifier

Edit = Callable[[dict[str, Any]], Any]
pipeline: Any = transformers.pipeline  # its overloads know only the tasks of Transformers


def nameless(config: dict[str, Any], num_labels: int) -> None:
    del config["id2label"], config["label2id"]
    config["num_labels"] = num_labels


@pytest.fixture
def edited(saved_model: Callable[..., Path]) -> Callable[..., Path]:
    """`edited(edit)`: a model's folder whose config.json went through the function `edit`."""

    def make(edit: Edit, **options: Any) -> Path:
        folder = saved_model(**options)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        edit(config)
        path.write_text(json.dumps(config))
        return folder

    return make


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Four gigabytes more than the process has now: what would build a huge model fails, not the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("auto", [AutoModelForSequenceClassification, AutoModel, LabelFusionForSequenceClassification])
def test_weights_that_are_cut_off(saved_model: Callable[..., Path], auto: Any) -> None:
    folder = saved_model()
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:5], b"", b"\xff" * 1000):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(OSError, match=r"The weights of '.*' are damaged"):
            auto.from_pretrained(folder)


def test_shards_that_are_cut_off(
    make_model: Callable[..., LabelFusionForSequenceClassification], tmp_path: Path
) -> None:
    make_model().save_pretrained(tmp_path, max_shard_size="20KB")
    index = tmp_path / "model.safetensors.index.json"
    whole = index.read_text()
    for content in (whole[: len(whole) // 2], "{}"):
        index.write_text(content)
        with pytest.raises(
            OSError, match=r"model\.safetensors\.index\.json of .* is damaged: copy or download it again"
        ):
            AutoModelForSequenceClassification.from_pretrained(tmp_path)
    index.write_text(whole)
    shard = next(iter(tmp_path.glob("model-*.safetensors")))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(OSError, match=r"weights of .* are damaged"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)
    shard.unlink()
    with pytest.raises(OSError, match=shard.name):
        AutoModelForSequenceClassification.from_pretrained(tmp_path)


def test_other_files_that_are_cut_off(saved_model: Callable[..., Path]) -> None:
    folder = saved_model()
    AutoFusionClassifier.from_pretrained(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text()[:100])
    with pytest.raises(OSError, match=r"config\.json' is not a valid JSON file"):
        AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("way", ["classifier", "task", "no task", "predict", "evaluate"])
def test_a_tokenizer_that_is_damaged(
    saved_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    folder, data = saved_model(), tmp_path / "data.csv"
    data.write_text("text,label\na good movie,x\nthe bank,y\n")
    ways: dict[str, Callable[[], Any]] = {
        "classifier": lambda: AutoFusionClassifier.from_pretrained(folder),
        "task": lambda: pipeline("labelfusion-classification", model=str(folder)),
        "no task": lambda: pipeline(model=str(folder)),
        "predict": lambda: main(["predict", str(folder), str(data), str(tmp_path / "out.csv")]),
        "evaluate": lambda: main(["evaluate", str(folder), str(data)]),
    }

    def error() -> str:
        if way not in ("predict", "evaluate"):
            with pytest.raises(OSError, match="tokenizer") as caught:
                ways[way]()
            return str(caught.value)
        assert ways[way]() == 2
        return capsys.readouterr().err

    for name in ("tokenizer.json", "tokenizer_config.json"):
        whole = (folder / name).read_text()
        for damaged in (whole[:50], "", "{}" if name == "tokenizer.json" else "[]"):
            (folder / name).write_text(damaged)
            said = error()
            assert f"{name} of '{folder}' is damaged (" in said
            assert "copy or download it again" in said
        (folder / name).write_text(whole)
    (folder / "tokenizer.json").unlink()
    assert f"No tokenizer could be loaded for '{folder}'" in error()


@pytest.mark.parametrize("content", ['{"classes": ["a", "b"', "[]", '{"params": 3}', '{"classes": ["a"]}', '{"x": 1}'])
def test_settings_of_the_classifier_that_are_damaged(saved_model: Callable[..., Path], content: str) -> None:
    folder = saved_model()
    (folder / "auto_classifier.json").write_text('{"params": {"encoder": 1, "batch_size": 7, "nonsense": 2}}')
    assert AutoFusionClassifier.from_pretrained(folder).batch_size == 7  # what is not its own is passed over
    (folder / "auto_classifier.json").write_text(content)
    if content == '{"x": 1}':
        AutoFusionClassifier.from_pretrained(folder)
        return
    with pytest.raises(OSError, match=r"auto_classifier\.json of '.*' is damaged \(.*\): copy or download it again"):
        AutoFusionClassifier.from_pretrained(folder)


def test_a_newer_version(edited: Callable[..., Path], saved_model: Callable[..., Path]) -> None:
    assert json.loads((saved_model() / "config.json").read_text())["format_version"] == 1
    LabelFusionForSequenceClassification.from_pretrained(
        edited(lambda c: c.pop("format_version"))
    )  # before it was there
    for version in (2, "2.0", None):
        with pytest.raises(ValueError, match=r"by a newer one\. pip install --upgrade labelfusion-transformers"):
            AutoModelForSequenceClassification.from_pretrained(edited(lambda c, v=version: c.update(format_version=v)))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(to_dict=1), "no argument 'to_dict'"),
        (lambda c: c.update(hidden_size=8), "no argument 'hidden_size'"),
        (lambda c: nameless(c, 10**9), "`num_labels` is 1000000000; it can be 100000 at"),
        (lambda c: c.update(num_labels=10**9), "`num_labels` is 1000000000"),
        (lambda c: nameless(c, 100_000), "other shapes than its config.json says"),
        (lambda c: c.update(kernel_size=10**12), "`kernel_size` is 1000000000000; it must be a whole number from 0 to"),
        (lambda c: c.update(novelty_size="many"), "`novelty_size` is 'many'; it must be a whole number"),
        (lambda c: c.update(inner_novelty_size=2), "needs a `novelty_size` and `pooling_layers`"),
        (lambda c: c.update(label_set_size=-1), "`label_set_size` is -1; it must be a whole number"),
        (lambda c: c.update(fusion_hidden_size=10**10), "other shapes than its config.json says"),
        (lambda c: c.update(llm_providers=c["llm_providers"] * 10_000), "llm_providers` is 10000; it can be 100 at"),
        (lambda c: c.update(llm_providers=[{"model": "x", "exec": "rm"}]), "unknown fields"),
        (lambda c: c.update(llm_providers=[{"model": "x/y", "params": {"base_url": "http://e"}}]), "name a server"),
        (lambda c: c["encoder_config"].update(hidden_size=2**30), "other shapes than its config.json says"),
        (lambda c: c["encoder_config"].update(hidden_size=-1), "other shapes than its config.json says"),
        (lambda c: c["encoder_config"].update(vocab_size=10**12), "other shapes than its config.json says"),
        (lambda c: c["encoder_config"].update(num_hidden_layers=10**8), "num_hidden_layers` is 100000000; it can be"),
        (lambda c: c["encoder_config"].update(model_type="strange"), "strange"),
    ],
)
def test_strange_configs(edited: Callable[..., Path], little_memory: None, edit: Edit, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoModelForSequenceClassification.from_pretrained(edited(edit))


def test_unknown_keys_are_kept_and_do_nothing(edited: Callable[..., Path]) -> None:
    folder = edited(lambda c: c.update(from_the_future={"a": 1}))
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.from_the_future == {"a": 1}


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_pickle_is_never_read(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, mark = saved_model(), tmp_path / "ran"
    data = pickle.dumps(Payload(mark))
    for name in ("pytorch_model.bin", "training_args.bin", "model.pt", "auto_classifier.pkl"):
        (folder / name).write_bytes(data)
    AutoFusionClassifier.from_pretrained(folder)  # safetensors are there
    (folder / "model.safetensors").unlink()
    for load in (
        AutoModelForSequenceClassification.from_pretrained,
        LabelFusionForSequenceClassification.from_pretrained,
        AutoFusionClassifier.from_pretrained,
        lambda path: pipeline("labelfusion-classification", model=str(path)),
    ):
        # `pipeline` wraps the error of the model.
        with pytest.raises((OSError, ValueError), match=r"no (file named )?model\.safetensors"):
            load(folder)  # type: ignore[operator]
    assert not mark.exists()
    pickle.loads(data)  # it would have worked
    assert mark.exists()


def test_code_in_a_repository_does_not_run_without_trust(saved_model: Callable[..., Path], tmp_path: Path) -> None:
    folder, mark = export_model(saved_model(), tmp_path / "own"), tmp_path / "ran"
    for path in folder.glob("*.py"):
        path.write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    config = json.loads((folder / "config.json").read_text())
    config["encoder_config"]["auto_map"] = {
        "AutoModel": "modeling_labelfusion.X",
        "AutoConfig": "modeling_labelfusion.X",
    }
    (folder / "config.json").write_text(json.dumps(config))
    for options in ({}, {"trust_remote_code": False}):
        AutoConfig.from_pretrained(folder, **options)
        AutoModelForSequenceClassification.from_pretrained(folder, **options)
        pipeline("labelfusion-classification", model=str(folder), **options)("a good movie", llm_policy="never")
    LabelFusionForSequenceClassification.from_pretrained(folder)
    AutoFusionClassifier.from_pretrained(folder)
    assert not mark.exists()


def test_a_model_from_the_hub_may_not_choose_where_keys_go(
    saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider: Any = {"model": "openai/x", "api_base": "https://evil.example/v1", "api_key_env": "HF_TOKEN"}
    folder = saved_model(llm_providers=[provider])
    with HubServer() as hub:
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        hub.repos["model:me/evil"] = {"private": False, "files": files, "commits": []}
        point_client_at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", hub.token)
        pipe = pipeline("labelfusion-classification", model="me/evil")
        clf = AutoFusionClassifier.from_pretrained("me/evil")
        model = LabelFusionForSequenceClassification.from_pretrained("me/evil")
    message = (
        r"me/evil wants texts, and the key in HF_TOKEN sent to evil\.example.*"
        r"LABELFUSION_SERVERS=evil\.example and LABELFUSION_KEYS=HF_TOKEN"
    )
    with pytest.raises(ScoringError, match=message):
        pipe("a good movie")
    with pytest.raises(ScoringError, match=message):
        clf.predict(["a good movie"])
    with pytest.raises(ScoringError, match=message):
        build_scorers(model.config)
    assert len(clf.predict(["a good movie"], llm_policy="never")) == 1
    build_scorers(model.config, LLMProvider(**provider))  # the user's own words
    monkeypatch.setenv("LABELFUSION_SERVERS", "other.example, evil.example")
    with pytest.raises(
        ScoringError, match=r"wants the key in HF_TOKEN sent to evil\.example.*variable LABELFUSION_KEYS"
    ):
        build_scorers(model.config)
    monkeypatch.setenv("LABELFUSION_KEYS", "HF_TOKEN")
    build_scorers(model.config)
    monkeypatch.delenv("LABELFUSION_SERVERS")
    build_scorers(LabelFusionConfig.from_pretrained(folder))  # a folder of one's own
