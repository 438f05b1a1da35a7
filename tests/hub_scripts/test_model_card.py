"""The model card: what it says of a run, what the Hub reads of it, and what people add."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from hub_server import HubServer, point_client_at
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results
from labelfusion.configuration import LabelFusionConfig
from labelfusion.hub_scripts.cards.card_metadata import EVAL_RESULTS, is_hub_id
from labelfusion.hub_scripts.cards.emissions import measured
from labelfusion.hub_scripts.cards.model_card import update_card
from labelfusion.hub_scripts.options import add_card_metadata
from labelfusion.hub_scripts.publish.hub import push_folder
from made_report import make_report

CLASSES = ["class0", "class1", "class2"]


@pytest.fixture
def evaluated(saved_model: Callable[..., Path]) -> Callable[..., Path]:
    """`evaluated(report_fields, fusion_report)`: a model's folder with a report of its evaluation."""

    def make(fields: dict[str, Any], trained: dict[str, Any] | None = None, **options: Any) -> Path:
        folder = saved_model(**{"llm_providers": ["openai/gpt-5-nano"], **options})
        config = LabelFusionConfig.from_pretrained(folder)
        config.fusion_report = {"rows": 300, "scored_rows": 200, "encoder_training": "probe", **(trained or {})}
        config.save_pretrained(folder)
        (folder / "evaluation").mkdir()
        report = {**make_report(CLASSES, multi_label=bool(options.get("multi_label"))), **fields}
        (folder / "evaluation" / "report.json").write_text(json.dumps(report))
        return folder

    return make


def test_what_the_hub_reads(evaluated: Callable[..., Path]) -> None:
    folder = evaluated({"data": "user/news:test"}, {"data": "user/news"})
    update_card(folder, "me/news-model", license="apache-2.0", language=["en", "de"])
    card = ModelCard.load(folder / "README.md")
    data = card.data.to_dict()
    assert (data["license"], data["language"], data["datasets"]) == ("apache-2.0", ["en", "de"], ["user/news"])
    assert data["pipeline_tag"] == "text-classification"
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "news-model"
    accuracy = next(r for r in results if r.metric_type == "accuracy")
    expected = json.loads((folder / "evaluation" / "report.json").read_text())["sources"]["Fusion"]["accuracy"]["value"]
    assert (accuracy.dataset_type, accuracy.dataset_split) == ("user/news", "test")
    assert accuracy.metric_value == pytest.approx(expected, abs=1e-4)
    (entry,) = parse_eval_result_entries(yaml.safe_load((folder / EVAL_RESULTS).read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("user/news", "default", accuracy.metric_value)
    assert entry.source_url == "https://huggingface.co/me/news-model/blob/main/evaluation/report.md"
    assert "120 rows of the split test" in str(entry.notes)

    report = folder / "evaluation" / "report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "data": "test.csv"}))
    update_card(folder, "me/news-model")  # measured anew, on a file: nothing for the Hub's leaderboards
    assert not (folder / EVAL_RESULTS).exists()
    card = ModelCard.load(folder / "README.md")
    assert {r.dataset_type for r in card.data.eval_results or []} == {"custom"}
    assert card.data.to_dict()["license"] == "apache-2.0"  # people's own words stay


def test_what_people_read(evaluated: Callable[..., Path]) -> None:
    folder = evaluated(
        {"llm_asked": 60, "cost_usd": 0.012},
        {"seconds_in_all": 12.0, "cost_usd": 0.034, "emissions": {"kg": 2e-5, "kwh": 5e-5, "country": "DEU"}},
    )
    for name in ("reliability.png", "tradeoff.png"):
        (folder / "evaluation" / name).write_bytes(b"\x89PNG")
    text = update_card(folder, license="cc-by-4.0").read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert sections == ["How to use it", "Results", "Calibration", "Cost", "Training", "Limits", "Licence"]
    assert "needs its key in the environment (OPENAI_API_KEY)" in text
    assert "queried about 60 of 120 texts, for $0.012: $0.20 per 1,000 queried texts" in text
    assert "![Accuracy against the share of queried texts](evaluation/tradeoff.png)" in text
    assert "$0.034 of LLM answers" in text
    assert "0.05 Wh and 0.02 g of CO2 equivalent for this machine (DEU)" in text
    assert ModelCard(text).data.to_dict()["co2_eq_emissions"]["emissions"] == 0.02
    assert text.rstrip().endswith("cc-by-4.0")
    assert re.search(r"\| Fusion \| \d+\.\d% \[", text)  # with its confidence interval
    for word in ("TODO", "More Information Needed", "None", "[]", "{{", "}}", "..."):
        assert word not in text, word
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(block, "card", "exec")


@pytest.mark.parametrize(
    ("provider", "said"),
    [
        ({"model": "openai/gpt-5-nano", "price": (1.0, 4.0)}, "nothing was paid then, because the answers were stored"),
        ({"model": "openai/a-model-without-a-price"}, "not counted, because no price is known here for"),
        ({"model": "openai/m", "api_base": "http://127.0.0.1:1/v1"}, "the price is 0 by declaration, or because"),
        ({"model": "local/some/model", "method": "likelihood"}, "because the models run locally"),
    ],
)
def test_a_card_says_why_nothing_was_counted(
    evaluated: Callable[..., Path], provider: dict[str, Any], said: str
) -> None:
    folder = evaluated({"llm_asked": 60, "cost_usd": 0.0}, llm_providers=[provider])
    text = update_card(folder).read_text()
    assert re.search(rf"queried about 60 of 120 texts: [^.]*{said}", text)
    assert "for nothing that was recorded" not in text


def test_nothing_is_said_of_what_is_not_known(
    evaluated: Callable[..., Path], saved_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = update_card(
        evaluated({"llm_asked": 0, "cost_usd": 0.0}, {"seconds_in_all": 3.0, "cost_usd": 0.0})
    ).read_text()
    for word in ("## Cost", "CO2", "co2", "$0", "## Licence", "license"):
        assert word not in text, word
    folder = saved_model(num_providers=1)
    alone = update_card(folder).read_text()
    assert "llm_policy" not in alone  # recorded scores are given, not asked for
    code = re.search(r"As a pipeline:\n\n```python\n(.*?)```", alone, re.DOTALL)
    assert code is not None
    assert '"llm_scores": scores' in code[1]
    monkeypatch.chdir(folder.parent)  # the card names it as the repository
    exec(code[1], {})  # runs as it stands
    assert "## Results" not in alone


def test_a_licence_for_a_card_that_somebody_has_edited(evaluated: Callable[..., Path]) -> None:
    folder = evaluated({})
    path = folder / "README.md"
    path.write_text("---\ntags:\n- mine\n---\n# Mine\n")
    update_card(folder, license="mit")
    assert ModelCard(path.read_text()).data.to_dict() == {"tags": ["mine"], "license": "mit"}
    assert path.read_text().endswith("# Mine\n")
    path.write_text("---\ntags: [\n---\n# Mine\n")
    with pytest.raises(ValueError, match="not valid YAML"):
        update_card(folder, license="mit")


def test_results_are_pushed(evaluated: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer() as hub:
        point_client_at(hub.url, monkeypatch)
        push_folder(evaluated({"data": "user/news:test"}), "me/model", token=hub.token)
        files = hub.repos["model:me/model"]["files"]
    assert ("POST", "/api/validate-yaml") in hub.requests  # the client had the metadata checked
    assert EVAL_RESULTS.as_posix() in files
    assert b"me/model/blob/main" in files[EVAL_RESULTS.as_posix()]


def test_emissions_are_measured_only_where_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Tracker:
        final_emissions_data = SimpleNamespace(energy_consumed=5e-5)

        def __init__(self, **options: Any) -> None:
            asked.update(options)

        def start(self) -> None: ...

        def stop(self) -> float:
            return 2e-5

    with measured(None) as found:
        pass
    assert found == {}
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(ImportError, match="pip install codecarbon"), measured("deu"):
        pass
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = Tracker  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    with measured("deu") as found:
        assert found == {}
    assert found == {"kg": 2e-5, "kwh": 5e-5, "country": "DEU"}
    assert asked["save_to_file"] is False  # the file would hold the machine's coordinates


def test_languages() -> None:
    from argparse import ArgumentParser

    parser = ArgumentParser()
    add_card_metadata(parser)
    assert parser.parse_args(["--language", "en"]).language == "en"
    assert parser.parse_args(["--language", "en,de"]).language == ["en", "de"]


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert all(map(is_hub_id, ("imdb", "user/data", "FacebookAI/roberta-base")))
    assert not any(map(is_hub_id, ("test.jsonl", "a/b/c", "mine", "/tmp/x", "embedded/x", "", "training data")))
