"""The errors that users meet first: they name what was given, and what to do."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pandas as pd
import pytest
from hub_server import HubServer, point_client_at
from labelfusion.hub_scripts.cli import main
from labelfusion.scoring.local.causal_lm import load_causal_lm
from labelfusion.scoring.score_batch import ScoringError

from labelfusion import AutoFusionClassifier

ROOT = Path(__file__).parents[2]
ROOMS = "modeling_labelfusion scoring routing pipelines evaluation training hub_scripts labelfusion"
TEXTS, LABELS = ["good film", "bad film", "nice food", "awful food"], ["p", "n", "p", "n"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["nowhere.xlsx", "nowhere", "me/nowhere"])
def test_a_data_set_that_is_nowhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=f"There is no file '{name}' here, and no data set of this name"):
        AutoFusionClassifier(llm=None).fit(name)
    scoring = ["score", name, "out.csv", "--labels", "a,b", "--llm", "openai/gpt-5-nano"]
    for command in (["train", name, "--output-dir", "m"], scoring):
        assert main(command) == 2
        assert f"There is no file '{name}' here" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["roberta-bas", "local/nowhere"])
def test_an_encoder_without_a_network(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short = name.removeprefix("local/")
    with pytest.raises(OSError, match=f"The Hub could not be reached, and '{short}' is not in the cache") as caught:
        AutoFusionClassifier(name, llm=None).fit(TEXTS, LABELS)
    assert "give a folder, or `encoder='embedded/" in str(caught.value)
    assert "docs/troubleshooting.md#keys-and-models" in str(caught.value)
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv("data.csv", index=False)
    assert main(["train", "data.csv", "--output-dir", "m", "--encoder", name]) == 2
    assert "`--encoder embedded/" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all"])
def test_an_encoder_that_is_nowhere(name: str) -> None:
    with pytest.raises(OSError, match=f"There is no model '{name}': no folder here"):
        AutoFusionClassifier(name, llm=None).fit(TEXTS, LABELS)


def test_a_model_that_the_hub_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        point_client_at(hub.url, monkeypatch)
        with pytest.raises(OSError, match="There is no model 'me/none': no folder here"):
            AutoFusionClassifier("me/none", llm=None).fit(TEXTS, LABELS)
        with pytest.raises(OSError, match=r"No LabelFusion model 'me/none': .*, and none on the Hub"):
            AutoFusionClassifier.from_pretrained("me/none")


@pytest.mark.parametrize("name", ["nomodel", "./nowhere"])
def test_a_saved_model_that_is_nowhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = f"No LabelFusion model '{name}': no folder of this name in {tmp_path}, and "
    with pytest.raises(OSError, match=re.escape(told)):
        AutoFusionClassifier.from_pretrained(name)
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv("data.csv", index=False)
    for command in (["predict", name, "data.csv", "out.csv"], ["evaluate", name, "data.csv"], ["serve", name]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert told in said
        assert "`labelfusion train --output-dir` wrote" in said
        assert "roberta" not in said


@pytest.mark.parametrize("lacks", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_model(
    lacks: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("folder").mkdir()
    if lacks != "config.json":
        Path("folder", "config.json").write_text('{"model_type": "labelfusion"}')
    with pytest.raises(
        OSError, match=f"'folder' is not a LabelFusion model: it has no {re.escape(lacks)}\\. Expected a folder"
    ):
        AutoFusionClassifier.from_pretrained("folder")
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv("data.csv", index=False)
    Path("data").mkdir()
    Path("data.csv").rename("data/data.csv")
    for command in (["predict", "folder", "data/data.csv", "out.csv"], ["predict", "folder", "data", "out"]):
        assert main(command) == 2
        assert f"it has no {lacks}" in capsys.readouterr().err
    monkeypatch.setenv("LABELFUSION_TRACEBACK", "1")
    with pytest.raises(OSError, match="is not a LabelFusion model"):
        main(["predict", "folder", "data/data.csv", "out.csv"])
    with pytest.raises(OSError, match=r"'data/data\.csv' is not a LabelFusion model: it is a file"):
        AutoFusionClassifier.from_pretrained("data/data.csv")


def test_no_key(tiny_encoder_dir: str) -> None:
    with pytest.raises(Exception, match=r"needs a key: set the environment .* OPENAI_API_KEY.*troubleshooting\.md"):
        AutoFusionClassifier(tiny_encoder_dir).fit(TEXTS, LABELS)


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("given", ["opnai/gpt-5-nano", "gpt-5-nano"])
def test_a_misspelt_provider(
    given: str,
    installed: bool,
    tiny_encoder_dir: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "litellm", None)
    elif "/" not in given or find_spec("litellm") is None:
        pytest.skip("litellm knows models without a provider's name")
    with pytest.raises(ScoringError, match=r"did you mean 'openai/gpt-5-nano'.*Built in are openai, gemini, deepseek"):
        AutoFusionClassifier(tiny_encoder_dir, given, cache=False).fit(TEXTS, LABELS)
    pd.DataFrame({"text": TEXTS}).to_csv("texts.csv", index=False)
    dry = ["score", "texts.csv", "o.csv", "--labels", "a,b", "--no-cache", "--dry-run", "--llm"]
    assert main([*dry, given]) == 2
    said = capsys.readouterr()
    assert "did you mean 'openai/gpt-5-nano'?" in said.err
    assert "$" not in said.out
    if not installed:
        assert main([*dry, "petals/some"]) == 0
        assert "Asking petals/some needs litellm: pip install" in capsys.readouterr().out
        monkeypatch.setitem(sys.modules, "openai", None)
        assert main([*dry, "openai/gpt-5-nano"]) == 0
        assert "needs the openai package: pip install" in capsys.readouterr().out


def test_an_encoder_is_no_llm(tiny_encoder_dir: str) -> None:
    with pytest.raises(ValueError, match="is no causal language model"):
        load_causal_lm(tiny_encoder_dir, "float32", "cpu")


def test_a_server_that_does_not_run(tiny_encoder_dir: str, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    address = "http://127.0.0.1:9/v1"  # the discard port
    llm: Any = {"model": "openai/m", "api_base": address, "method": "auto"}
    clf = AutoFusionClassifier(tiny_encoder_dir, llm, encoder_training="probe", cache=False)
    with pytest.raises(ValueError, match=r"The LLM gave no answer for any of 4 rows: .*connection failed"):
        clf.fit(TEXTS, LABELS)
    assert f"Is a server running at {address}?" in caplog.text


def test_too_few_rows_and_no_label_column(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pd.DataFrame({"text": TEXTS[:2], "label": LABELS[:2]}).to_csv("few.csv", index=False)
    assert main(["train", "few.csv", "--output-dir", "m"]) == 2
    assert re.search(r"2 labelled rows are too few .* docs/unlabelled\.md\.", capsys.readouterr().err)
    pd.DataFrame({"text": TEXTS}).to_csv("texts.csv", index=False)
    assert main(["train", "texts.csv", "--output-dir", "m"]) == 2
    assert "no column 'label' or 'labels'; the columns are text." in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "\ufeff", "\n\n"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("empty.csv", "a header line such as `text,label`"),
        ("empty.tsv", "a header line such as `text` and `label`, with a tab"),
        ("empty.json", "objects such as {"),
        ("empty.jsonl", "objects such as {"),
    ],
)
def test_an_empty_file(name: str, expected: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(name).write_text(content, encoding="utf-8")
    told = f"{name} is empty: expected {expected}"
    with pytest.raises(ValueError, match=f"^{re.escape(told)}"):
        AutoFusionClassifier(llm=None).fit(name)
    scoring = ["score", name, "out.csv", "--labels", "a,b", "--llm", "openai/gpt-5-nano"]
    for command in (["train", name, "--output-dir", "m"], scoring, ["predict", "m", name, "o.csv"]):
        assert main(command) == 2
        assert f"error: {told}" in capsys.readouterr().err


def test_a_text_column_of_another_name(capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"label": LABELS, "body": TEXTS})
    with pytest.raises(ValueError, match="Name the one with the texts: `text_column='body'`"):
        AutoFusionClassifier(llm=None).fit(frame)
    with pytest.raises(ValueError, match="The data are empty"):
        AutoFusionClassifier(llm=None).fit(pd.DataFrame())
    frame.to_csv("body.csv", index=False)
    scoring = ["score", "body.csv", "out.csv", "--llm", "openai/gpt-5-nano"]
    for command in (["train", "body.csv", "--output-dir", "m"], scoring):
        assert main(command) == 2
        assert "Name the one with the texts: `--text-column body`; see docs/data.md." in capsys.readouterr().err


def test_labels_of_rows_for_those_of_classes() -> None:
    told = "`labels` must name each class once; it has 4 values, 2 of them distinct. Labels of rows go into `fit"
    with pytest.raises(ValueError, match=re.escape(told)):
        AutoFusionClassifier(llm=None, labels=LABELS).fit(TEXTS, LABELS)


def test_labels_of_a_file_given_twice() -> None:
    pd.DataFrame({"text": TEXTS, "label": LABELS}).to_csv("data.csv", index=False)
    with pytest.raises(ValueError, match=r"'data\.csv', the path of a file.* and `y` was given too: leave out `y`"):
        AutoFusionClassifier(llm=None).fit("data.csv", LABELS)


def test_pairs_in_one_list() -> None:
    with pytest.raises(ValueError, match=r"For pairs, give two lists: `fit\(texts, labels\)`"):
        AutoFusionClassifier(llm=None).fit(list(zip(TEXTS, LABELS, strict=True)))


def test_texts_and_labels_swapped(tiny_encoder_dir: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts, labels = [f"text {i}" for i in range(20)], ["p", "n"] * 10
    told = "The data have 20 classes for 20 rows, each once: are texts and labels swapped?"
    with pytest.raises(ValueError, match=re.escape(told)):
        AutoFusionClassifier("nowhere", llm="openai/gpt-5-nano").fit(labels, texts)
    pd.DataFrame({"text": labels, "label": texts}).to_csv("swapped.csv", index=False)
    assert main(["train", "swapped.csv", "--encoder", tiny_encoder_dir, "--output-dir", "m"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (
            "train d.csv --output-dir m --encodr x",
            "train: error: unknown option --encodr. Did you mean --encoder?",
        ),
        (
            "train d.csv --output-dir m --encodr=x",
            "train: error: unknown option --encodr. Did you mean --encoder?",
        ),
        ("train d.csv --output-dir m --qqq", "train: error: unknown option --qqq. See `labelfusion train --help`."),
        (
            "train d.csv e.csv --output-dir m",
            "error: unexpected argument 'e.csv'. See `labelfusion train --help`",
        ),
        ("trian d.csv", "labelfusion: error: unknown command 'trian'. Did you mean train? See `labelfusion --help`."),
        (
            "--versoin",
            "error: unknown option --versoin. Did you mean --version? See `labelfusion --help`.",
        ),
    ],
)
def test_an_unknown_option(command: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def test_the_pages_that_messages_name_exist() -> None:
    from test_docs import anchors

    named = 0
    for room in ROOMS.split():
        for path in (ROOT / room).rglob("*.py"):
            for page, anchor in re.findall(r"docs/([\w/-]+\.md)(?:#([\w-]+))?", path.read_text(encoding="utf-8")):
                assert (ROOT / "docs" / page).exists(), (path, page)
                assert not anchor or anchor in anchors(ROOT / "docs" / page), (path, anchor)
                named += 1
    assert named >= 5
