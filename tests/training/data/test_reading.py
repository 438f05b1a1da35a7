"""Files as people have them, read alike by `fit`, `train`, `score`, `predict` and the pipeline."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from reading import check, make_models
from reading_cases import CASES, Case


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: str) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("models"), tiny_encoder_dir)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_entry_reads_the_same(case: Case, models: dict[str, Path], tiny_encoder_dir: str, tmp_path: Path) -> None:
    found = check(case, models, tiny_encoder_dir, tmp_path)
    assert {entry: answer for entry, (answer, right) in found.items() if not right} == {}, json.dumps(found, indent=1)
