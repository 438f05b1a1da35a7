"""Every way to load a model: with the package or without, with trust or without, from either kind of repository."""

import json
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from labelfusion.hub_scripts.formats.self_contained import export_model
from labelfusion.modeling_labelfusion import LabelFusionForSequenceClassification
from plain import plain_site, run_python
from transformers import PreTrainedTokenizerFast

TEXT, SCORES = "a good movie", [0.1, 0.8, 0.1]
WAYS = ("task", "no task", "auto", "class")
KINDS = ("library", "self-contained")

PROGRAM = """
import importlib.util, json, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
installed, folders, text, scores = json.loads(CELL)
assert (importlib.util.find_spec("labelfusion") is not None) == installed
if installed:
    import labelfusion
tokens = AutoTokenizer.from_pretrained(folders["library"])([text], return_tensors="pt")

def load(way, folder, **options):
    if way == "class":
        from labelfusion import LabelFusionForSequenceClassification
        return LabelFusionForSequenceClassification.from_pretrained(folder, **options)
    if way == "auto":
        return AutoModelForSequenceClassification.from_pretrained(folder, **options)
    return pipeline(*["labelfusion-classification"] * (way == "task"), model=folder, device="cpu", **options)

def cell(way, folder, **options):
    try:
        loaded = load(way, folder, **options)
        if hasattr(loaded, "tokenizer"):
            answers = loaded({"text": text, "llm_scores": scores}, top_k=None)
            probs = [a["score"] for a in sorted(answers, key=lambda a: a["label"])]
        else:
            with torch.no_grad():
                logits = loaded.eval()(**tokens, llm_scores=torch.tensor([[scores]])).logits
            probs = logits.softmax(-1)[0].tolist()
        return {"probs": probs, "module": type(loaded).__module__}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}

for options in ({}, {"trust_remote_code": True}):  # without trust first: nothing can be left over from code that ran
    found = {f"{kind}, {way}": cell(way, folder, **options) for kind, folder in folders.items() for way in WAYS}
    print("RESULTS", json.dumps(found))
"""


@pytest.fixture(scope="module")
def tiny_model(make_model: Callable[..., LabelFusionForSequenceClassification]) -> LabelFusionForSequenceClassification:
    return make_model()


@pytest.fixture(scope="module")
def folders(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: LabelFusionForSequenceClassification,
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("repositories")
    tiny_model.save_pretrained(folder / "library")
    tiny_tokenizer.save_pretrained(folder / "library")
    export_model(folder / "library", folder / "self-contained")
    return {kind: str(folder / kind) for kind in KINDS}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, folders: dict[str, str]) -> Callable[..., dict[str, Any]]:
    """`results(installed, trust)`: what the cells gave, tried by one process with the package and one without."""
    site = plain_site(tmp_path_factory.mktemp("plain") / "site")
    known: dict[bool, list[dict[str, Any]]] = {}

    def run(installed: bool, trust: bool) -> dict[str, Any]:
        if installed not in known:
            cell = json.dumps([installed, folders, TEXT, SCORES])
            done = run_python(
                f"CELL, WAYS = {cell!r}, {WAYS!r}\n{PROGRAM}",
                tmp_path_factory.mktemp("home"),
                None if installed else site,
                HF_HUB_OFFLINE="1",
            )
            out, *found = done.stdout.split("RESULTS")
            assert len(found) == 2, done.stderr
            known[installed] = [json.loads(part.splitlines()[0]) for part in found]
            known[installed][0]["asked"] = "Do you wish to run" in out
        return known[installed][trust]

    return run


@pytest.mark.parametrize(
    ("installed", "trust", "kind", "way"), list(product((True, False), (False, True), KINDS, WAYS))
)
def test_cell(
    results: Callable[..., dict[str, Any]],
    tiny_model: LabelFusionForSequenceClassification,
    tiny_tokenizer: PreTrainedTokenizerFast,
    installed: bool,
    trust: bool,
    kind: str,
    way: str,
) -> None:
    result = results(installed, trust)[f"{kind}, {way}"]
    if installed or (trust and kind == "self-contained" and way != "class"):
        with torch.no_grad():
            tokens = tiny_tokenizer([TEXT], return_tensors="pt")
            logits = tiny_model(**tokens, llm_scores=torch.tensor([[SCORES]])).logits
        assert result.get("error") is None
        assert result["probs"] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-6)
        assert result["module"].startswith("labelfusion." if installed else "transformers_modules.")
    elif way == "class":
        assert "No module named 'labelfusion'" in result["error"]
    elif kind == "library":
        what_to_do = "`pip install labelfusion-transformers`, and `import labelfusion` before loading this model"
        assert what_to_do in result["error"]
        if not trust:  # Transformers asks for it after that
            before, _, after = result["error"].partition("`trust_remote_code=True`, even if the next lines ask for it,")
            assert "does not help" in after
            assert "trust_remote_code=True" not in before
    else:
        assert "trust_remote_code=True" in result["error"]


def test_nobody_with_the_package_is_asked_for_trust(results: Callable[..., dict[str, Any]]) -> None:
    assert not results(True, False)["asked"]
    assert results(False, False)["asked"]  # the question is found where it is put
