"""The command: verbs, help, configuration files, and how mistakes are told."""

import argparse
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars
from labelfusion.configuration.configuration_labelfusion import FUSION_METHODS
from labelfusion.configuration.llm_provider import METHODS
from labelfusion.hub_scripts import cli
from labelfusion.hub_scripts.commands import score, train
from labelfusion.hub_scripts.options import without_loading_bars
from labelfusion.scoring import ScoringError
from labelfusion.training.calibration.calibration_maps import CALIBRATIONS
from transformers.utils import logging as transformers_logging

Calls = list[argparse.Namespace]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Puts a verb of our own in the place of `score`, and keeps what it was called with."""
    seen: Calls = []
    module = ModuleType("labelfusion.hub_scripts.commands.score")
    module.__spec__ = ModuleSpec(module.__name__, None)

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("input")
        parser.add_argument("--llm", action="append", required=True)
        parser.add_argument("--number", type=int, default=3)
        parser.add_argument("--rate", type=float)
        parser.add_argument("--kind", choices=("a", "b"), default="a")
        parser.add_argument("--names", type=lambda text: text.split(","))
        parser.add_argument("--switch", action="store_true")
        parser.add_argument("--files", nargs="+")

    def run(args: argparse.Namespace) -> int:
        seen.append(args)
        error = {
            "value": ValueError("bad\nvalue sk-0123456789abcdef0123"),
            "scoring": ScoringError("no key"),
            "bug": KeyError("x"),
        }
        if args.input in error:
            raise error[args.input]
        if args.input == "interrupt":
            raise KeyboardInterrupt
        return 0

    module.add_arguments, module.run = add_arguments, run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "labelfusion.hub_scripts.commands.score", module)
    return seen


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return str(path)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from labelfusion.hub_scripts.cli import main; main(['--help']);"
        "print(sorted({'torch', 'transformers', 'numpy', 'datasets'} & {*sys.modules}))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.endswith("[]\n")
    for verb in ("score", "cache"):
        assert f"\n    {verb} " in output


@pytest.mark.parametrize("verb", ["score", "cache"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "--help"]) == 0
    assert "--config FILE.yaml" in capsys.readouterr().out


def test_without_a_verb_it_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 0
    assert "COMMAND" in capsys.readouterr().out
    assert cli.main(["frobnicate"]) == 2
    assert "unknown command 'frobnicate'" in capsys.readouterr().err


def test_a_verb_is_listed_only_if_it_exists(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.VERBS, "juggle", "not written yet")
    cli.main(["--help"])
    assert "juggle" not in capsys.readouterr().out


def test_a_configuration_file_gives_defaults(calls: Calls, tmp_path: Path) -> None:
    config = write(
        tmp_path,
        "input: data.csv\nllm: [one, {model: two}]\nnumber: 5\nrate: 1e-3\nkind: b\nnames: [x, y]\nswitch: true\n"
        "files: [f, g]\n",
    )
    assert cli.main(["score", "--config", config]) == 0
    args = vars(calls[0])
    assert args["input"] == "data.csv"
    assert args["llm"] == ["one", '{"model": "two"}']
    assert (args["number"], args["rate"], args["kind"], args["names"], args["switch"]) == (
        5,
        1e-3,
        "b",
        ["x", "y"],
        True,
    )
    assert args["files"] == ["f", "g"]


def test_the_command_line_wins(calls: Calls, tmp_path: Path) -> None:
    config = write(tmp_path, "input: data.csv\nllm: one\nnumber: 5\nkind: b\n")
    assert cli.main(["score", "other.csv", "--config", config, "--llm", "three", "--number", "7"]) == 0
    args = calls[0]
    assert (args.input, args.llm, args.number, args.kind) == ("other.csv", ["three"], 7, "b")


def test_a_section_is_for_its_verb_alone(calls: Calls, tmp_path: Path) -> None:
    config = write(tmp_path, "llm: one\ntrain:\n  epochs: 3\nscore:\n  number: 9\n")
    assert cli.main(["score", "in", "--config", config]) == 0
    assert (calls[0].llm, calls[0].number) == (["one"], 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numbr: 5", "unknown option 'numbr' for `labelfusion score`; did you mean 'number'?"),
        ("max-cost-usd: 5", "unknown option 'max-cost-usd'"),
        ("number: many", "'number': many is not valid"),
        ("number: 3.5", "'number': 3.5 is not valid"),
        ("kind: c", "'kind' is 'c'; expected one of a, b"),
        ("switch: 3", "'switch' is a switch: true or false, not 3"),
        ("- a\n- b", "must hold `option: value` lines, got a list"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_mistakes_in_a_configuration_file(
    calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert cli.main(["score", "in", "--llm", "m", "--config", write(tmp_path, text)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert calls == []


def test_a_missing_configuration_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "in", "--llm", "m", "--config", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_a_users_mistake_is_one_line(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["score", "value", "--llm", "m"]) == 2
    assert capsys.readouterr().err == "labelfusion score: error: bad value [redacted]\n"
    assert cli.main(["score", "scoring", "--llm", "m"]) == 2
    assert capsys.readouterr().err == "labelfusion score: error: no key\n"
    assert cli.main(["score", "interrupt", "--llm", "m"]) == 130


def test_a_bug_is_not_hidden(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        cli.main(["score", "bug", "--llm", "m"])
    monkeypatch.setenv("LABELFUSION_TRACEBACK", "1")
    with pytest.raises(ValueError, match="bad"):
        cli.main(["score", "value", "--llm", "m"])


def test_the_installed_command_runs(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("labelfusion")
    if not script.exists():
        pytest.skip("the package is not installed")
    result: Any = subprocess.run(
        [script, "cache", "info", "--store", tmp_path / "no.sqlite"], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert "no score store yet" in result.stderr


def test_choices_of_options_are_the_librarys() -> None:
    """They are written out in the commands, whose help would take seconds to import them."""

    def choices(module: Any, option: str) -> set[Any]:
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        (action,) = (a for a in parser._actions if option in a.option_strings)
        return set(action.choices or ())

    assert choices(score, "--method") == set(METHODS) - {"recorded", "callable"}
    assert choices(train, "--fusion") == set(FUSION_METHODS)
    assert choices(train, "--calibration") == set(CALIBRATIONS)


@pytest.mark.parametrize("shown", [True, False])
def test_bars_of_loading_weights_are_hidden_in_a_command_alone(shown: bool) -> None:
    was = transformers_logging.is_progress_bar_enabled()
    (transformers_logging.enable_progress_bar if shown else transformers_logging.disable_progress_bar)()
    try:
        for hub_shows in (shown, False):
            if not hub_shows:
                disable_progress_bars()
            with without_loading_bars():
                assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.is_progress_bar_enabled() == shown
            assert are_progress_bars_disabled() != hub_shows
    finally:
        (transformers_logging.enable_progress_bar if was else transformers_logging.disable_progress_bar)()
