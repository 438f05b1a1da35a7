"""What is installed, what an import loads, and how the source is laid out."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
ROOMS = [
    "configuration",
    "modeling_labelfusion",
    "scoring",
    "routing",
    "pipelines",
    "evaluation",
    "training",
    "hub_scripts",
    "labelfusion",
]
# Modules whose whole subject is one of the heavy packages; they are themselves imported late.
WRAPPERS = {
    ("score_store.py", "sqlite3"),
    ("sqlite_file.py", "sqlite3"),
    ("plots.py", "matplotlib"),
    ("explanation_plot.py", "matplotlib"),
    ("evaluate_modules.py", "datasets"),
}
HEAVY = {"litellm", "openai", "sqlite3", "matplotlib", "datasets", "gguf", "sentence_transformers"}
HEAVY |= {"gradio", "onnx", "onnxruntime", "mlflow"}


def sources(*folders: str) -> list[Path]:
    return sorted(chain.from_iterable((ROOT / folder).rglob("*.py") for folder in folders))


# --- The wheel -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over from another build gets in, and without a network."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for folder in SETUPTOOLS["package-dir"].values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(source))
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of an otherwise empty environment with the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder)})) / "python"
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    return python


def pip(*arguments: str) -> None:
    before = ["--python", arguments[1]] if arguments[0] == "--python" else []
    command, *rest = arguments[len(before) :]
    options = ["--quiet", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *before, command, *options, *rest], check=True, timeout=300)


def python(executable: Path | str, code: str) -> str:
    """Run `code` where `labelfusion` is the installed one and its dependencies are those of the tests."""
    environment = {"PYTHONPATH": sysconfig.get_path("purelib"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(executable), "-c", code], env=environment, cwd="/", capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_empty_environment_gets_nothing_but_labelfusion(installed: Path) -> None:
    (purelib,) = installed.parent.parent.rglob("site-packages")
    names = sorted(path.name for path in purelib.iterdir())
    assert names == ["labelfusion", f"labelfusion_transformers-{PROJECT['project']['version']}.dist-info"]
    assert (installed.parent / "labelfusion").exists()


def test_the_wheel_holds_every_source_and_data_file(wheel: Path) -> None:
    expected = set()
    for package, folder in SETUPTOOLS["package-dir"].items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert "labelfusion/py.typed" in expected
    assert any(name.endswith(".csv") for name in expected)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_every_folder_with_code_is_installed_or_known_not_to_be() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders - {"tests", "benchmarks"} == set(ROOMS) == set(SETUPTOOLS["package-dir"].values())
    assert all((path.parent / "__init__.py").exists() for path in sources(*ROOMS))


def test_the_command_starts(installed: Path) -> None:
    done = subprocess.run(
        [str(installed.parent / "labelfusion"), "--help"],
        env={"PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout


# --- Importing -------------------------------------------------------------------------------------------------------

CHECK = """
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY
config = AutoConfig.for_model("labelfusion", num_labels=3, encoder_config={"model_type": "bert", "hidden_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 20})
for auto in (AutoModel, AutoModelForSequenceClassification):
    assert type(auto.from_config(config)).__name__ == "LabelFusionForSequenceClassification"
assert PIPELINE_REGISTRY.check_task("labelfusion-classification")[0] == "labelfusion-classification"
import labelfusion
print(labelfusion.__file__)
"""


@pytest.mark.parametrize(
    "first",
    [
        "import labelfusion",
        "import transformers.models.auto.configuration_auto; import labelfusion",
        "import transformers.pipelines; import labelfusion",
        "from labelfusion import LabelFusionTrainer",
    ],
)
def test_registration_whatever_is_imported_first(installed: Path, first: str) -> None:
    assert str(installed.parent.parent) in python(installed, f"{first}\n{CHECK}")


def test_every_public_name_is_there(installed: Path) -> None:
    code = "from labelfusion import *; import labelfusion; print(set(labelfusion.__all__) - set(globals()))"
    assert python(installed, code) == "set()"


NEW_MODULES = """
import sys
def new(*names):
    before = set(sys.modules)
    for name in names:
        __import__(name)
    print(*(set(sys.modules) - before))
"""


def test_importing_loads_nothing_heavy(installed: Path) -> None:
    code = f"{NEW_MODULES}\nnew('labelfusion'); new('labelfusion.scoring')"
    alone, scoring = (set(line.split()) for line in python(installed, code).splitlines())
    assert not alone & {*HEAVY, "torch", "transformers.modeling_utils", "pandas", "sklearn"}
    assert "labelfusion.scoring" in scoring
    assert not scoring & HEAVY
    beside = python(installed, f"import transformers, torch\n{NEW_MODULES}\nnew('labelfusion')").split()
    assert {name.partition(".")[0] for name in beside} <= {"labelfusion", "wrapt"}


# --- The layout of the source ----------------------------------------------------------------------------------------


def test_heavy_packages_are_imported_in_the_functions_that_use_them() -> None:
    wrong = set()
    for path in sources(*ROOMS):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            wrong |= {(path.name, name.partition(".")[0]) for name in names if name.partition(".")[0] in HEAVY}
    assert not wrong - WRAPPERS


@pytest.mark.parametrize("room", ROOMS)
def test_module_names_are_unique(room: str) -> None:
    names = [path.name for path in sources(room) if path.name != "__init__.py"]
    twice = {name for name in names if names.count(name) > 1}
    assert not twice


def test_files_are_short() -> None:
    for folders, limit in ((ROOMS, 400), (("tests", "benchmarks"), 500)):
        lengths = {path.name: len(path.read_text("utf-8").splitlines()) for path in sources(*folders)}
        assert not {name: length for name, length in lengths.items() if length > limit}


def test_no_pickle() -> None:
    """Neither written nor read: weights are safetensors, everything else JSON, SQLite or Parquet."""
    for path in sources(*ROOMS):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "joblib", "dill", "cloudpickle"} & set(names), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert f"{node.value.id}.{node.attr}" not in ("torch.load", "torch.save"), path


def pinned(text: str) -> dict[str, set[str]]:
    """`{name: versions}` of the pins in a requirements file."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^ \n]+)", text, re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


def test_pins_are_in_the_declared_ranges() -> None:
    """Every direct dependency has a pinned version in constraints.txt, in its declared range."""
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    for requirement in declared():
        (pin,) = pins.get(canonicalize_name(requirement.name), {""})
        assert pin, f"{requirement.name} is not in constraints.txt; run `make lock`"
        assert requirement.specifier.contains(pin), f"{requirement} excludes the pinned {pin}; run `make lock`"


def test_the_lock_has_the_pinned_versions_with_hashes_and_names_no_index() -> None:
    files = {
        name: (ROOT / "requirements" / f"{name}.txt").read_text("utf-8") for name in ("lock", "torch", "torch-cpu")
    }
    locked = pinned(files["lock"]) | pinned(files["torch"])
    pins = pinned((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert {name: versions for name, versions in pins.items() if not versions <= locked.get(name, set())} == {}
    assert pinned(files["torch-cpu"]) == {"torch": {f"{version}+cpu" for version in pins["torch"]}}
    for text in files.values():
        blocks = re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE)[1:]
        assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
        assert "://" not in text
        assert "--index" not in text
        assert "--find-links" not in text


# What is used where it happens to be installed: an error says how to install it, or something smaller takes its place.
NOT_DECLARED = {"autogluon", "codecarbon", "lime", "locust", "psutil", "pyspark", "setfit", "shap", "spacy"}


@pytest.mark.parametrize("rooms", [ROOMS, ["tests", "benchmarks"]])
def test_everything_that_is_imported_is_declared(rooms: list[str]) -> None:
    own = {*ROOMS, *(path.stem for path in sources("tests", "benchmarks", *ROOMS))}
    names = {canonicalize_name(requirement.name) for requirement in declared(tests=rooms is not ROOMS)}
    distributions = packages_distributions()
    for path in sources(*rooms):
        if "fixtures" in path.parts:  # scripts that run inside the tools whose files they make
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for module in {module.partition(".")[0] for module in modules} - own - sys.stdlib_module_names:
                of = {canonicalize_name(name) for name in distributions.get(module, [module])}
                assert of & (names | NOT_DECLARED), (
                    f"{path.name} imports {module}, which pyproject.toml does not declare"
                )


def declared(tests: bool = True) -> list[Requirement]:
    """The requirements of the package and its extras."""
    extras = PROJECT["project"]["optional-dependencies"]
    texts = chain(PROJECT["project"]["dependencies"], *(extras[name] for name in extras if tests or name != "test"))
    return [Requirement(text) for text in texts]
