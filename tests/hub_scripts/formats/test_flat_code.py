"""Linking modules into flat files: folders in folders, and names that several modules have."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from labelfusion.hub_scripts.formats.flat_linker import Layout, Linker

SOURCES = {
    "config/__init__.py": "from .settings.limits import LIMIT\n",
    "config/settings/__init__.py": "",
    "config/settings/limits.py": """
        from typing import TypeVar

        T = TypeVar("T")
        LIMIT = 3

        def same(value: T) -> T:
            return value
    """,
    "work/__init__.py": "",
    "work/methods/__init__.py": "from .plus import compute\n",
    "work/methods/plus.py": '''
        import logging
        from operator import add as combine
        from typing import TYPE_CHECKING, Literal

        from ...config import LIMIT
        from ..shared import Table

        if TYPE_CHECKING:
            from ..base import Base

        logger = logging.getLogger(__name__)
        _CACHE: dict[int, int] = {}

        def _step(value: int, kind: Literal["_step", "other"] = "_step") -> int:
            """The `_step` of plus."""
            return combine(value, LIMIT)

        def compute(base: "Base", value: int) -> int:
            _CACHE[value] = _step(value)
            return _CACHE[value]

        def table() -> Table:
            return Table({"plus": _step(0)})
    ''',
    "work/methods/times.py": '''
        import logging
        import os
        import os.path
        import os.path as paths
        from operator import mul as combine

        from ...config import LIMIT
        from ..base import Base, _step as base_step

        logger = logging.getLogger(__name__)
        _CACHE: dict[int, int] = {}

        class _Helper(Base):
            """A `Base` of its own."""

            _step = 7

            def __init__(self, start: int) -> None:
                super().__init__()
                self.start = start

            def describe(self) -> str:
                # _step stays in comments, and in the text of a string
                return f"_step {_step(self.start)} {base_step(self.start):{LIMIT}} {self._step}"

        def _step(value: int) -> int:
            global _calls
            _calls += len(os.path.join("a", "b")) - len(paths.join("a", os.curdir)) + 1
            return combine(value, LIMIT)

        _calls = 0

        def compute(helper: "_Helper | None", value: int) -> int:
            def inner(_step: int) -> int:
                return _step + 1

            again = [_step for _step in (1, 2)]
            _CACHE[value] = _step(value) + inner(_step=1) + sum(again)
            return _CACHE[value]

        def calls() -> int:
            return _calls
    ''',
    "work/base.py": """
        import logging

        logger = logging.getLogger(__name__)

        class Base:
            def describe(self) -> str:
                return "base"

        def _step(value: int) -> int:
            return -value
    """,
    "work/shared.py": """
        class Table(dict[str, int]):
            pass
    """,
    "use/__init__.py": "",
    "use/pipe.py": """
        from ..config.settings import limits
        from ..config.settings.limits import same
        from ..work.base import Base
        from ..work.methods import compute
        from ..work.methods import plus as plus_module
        from ..work.methods.plus import _CACHE as kept, table
        from ..work.methods.times import _CACHE, _Helper, calls as count, compute as times

        def _step(value: int) -> int:
            return value

        class Pipe:
            def __call__(self) -> dict[str, object]:
                from ..work.methods.times import _step as late

                values = {"plus": compute(Base(), 2), "times": times(None, 2), "own": _step(9), "late": late(2)}
                return values | {
                    "describe": _Helper(4).describe(), "calls": self.calls(), "same": same(5), "table": dict(table()),
                    "caches": [dict(kept), dict(_CACHE)],
                }

            def calls(self, calls: int = 0) -> int:
                return calls + count()
    """,
}
FILES = {"config_flat": (("config",), "One."), "work_flat": (("work",), "Two."), "pipe_flat": (("use",), "Three.")}
EXPECTED = {
    "plus": 5, "times": 6 + 2 + 3, "own": 9, "late": 6, "describe": "_step 12  -4 7", "calls": 3, "same": 5,
    "table": {"plus": 3}, "caches": [{2: 5}, {2: 11}],
}  # fmt: skip


def write(folder: Path, sources: dict[str, str]) -> None:
    for name, source in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        lines = source.splitlines()
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        (folder / name).write_text("\n".join(line[indent:] for line in lines) + "\n")


@pytest.fixture
def link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """`link(changes)`: the flat files of the package `made`, with some of its modules changed."""

    def link(changes: dict[str, str] | None = None) -> dict[str, str]:
        sources = {"__init__.py": "", **SOURCES, **(changes or {})}
        write(tmp_path, {f"made/{name}": source for name, source in sources.items()})
        roots = {"config.settings.limits": "LIMIT", "work.shared": "Table", "use.pipe": "Pipe"}
        return Linker(Layout(FILES, roots, package="made")).link()

    monkeypatch.syspath_prepend(tmp_path)
    yield link
    for name in [name for name in sys.modules if name.partition(".")[0] in ("made", "flat")]:
        del sys.modules[name]


def test_what_is_linked_does_what_the_modules_do(link: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    write(tmp_path / "flat", {"__init__.py": "", **{f"{name}.py": source for name, source in link().items()}})
    original: Any = importlib.import_module("made.use.pipe").Pipe
    flat: Any = importlib.import_module("flat.pipe_flat").Pipe
    assert original()() == flat()() == EXPECTED


def test_only_names_that_collide_are_changed(link: Callable[..., dict[str, str]]) -> None:
    work, pipe = (link()[name] for name in ("work_flat", "pipe_flat"))
    for line in (
        'def _step(value: int, kind: Literal["_step", "other"] = "_step") -> int:',  # of the first module
        "def _base_step(value: int) -> int:",
        '    """The `_step` of plus."""',
        "    _step = 7",
        "        # _step stays in comments, and in the text of a string",
        '        return f"_step {_times_step(self.start)} {_base_step(self.start):{LIMIT}} {self._step}"',
        'def compute(base: "Base", value: int) -> int:',
        'def times_compute(helper: "_Helper | None", value: int) -> int:',
        "        return _step + 1",
        "    again = [_step for _step in (1, 2)]",
        "from .config_flat import LIMIT",
        "_TIMES_CACHE: dict[int, int] = {}",  # what changes is never shared
        "from operator import add as combine, mul as operator_combine",
    ):
        assert line in work.splitlines(), f"{line}\n{work}"
    assert "logger" not in work  # nothing uses it
    assert "def _step(value: int) -> int:" in pipe
    assert "plus_module" not in pipe


def test_a_module_that_does_something_at_import(link: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"work.base does something at import, in line 5"):
        link({"work/base.py": "class Base:\n    pass\n\ndef _step(): ...\nprint('loaded')\n"})


def test_a_module_that_is_not_there(link: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere"):
        link({"work/shared.py": "from .nowhere import Table\n"})


def test_an_import_from_a_later_file(link: Callable[..., dict[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"config.settings.limits imports 'Table' from work.shared, which comes after"):
        link({"config/settings/limits.py": "from ...work.shared import Table\n\nLIMIT = Table()\n\ndef same(x): ...\n"})
