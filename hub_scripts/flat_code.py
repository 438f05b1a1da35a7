"""The code of a self-contained repository: this package's own sources, linked into four flat files.

Transformers takes a model's custom code from Python files in the root of its repository, which import each other as
`from .x import y` and nothing else of ours. Each file here holds what the pipeline needs of one or two rooms, word for
word: definitions that nothing reaches, such as those for training, stay out.
"""

import ast
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .flat_modules import Import, Module, outside_imports, own_imports, used_names

# The files, the rooms that they are made of, and what is in them. A file imports only from those above it.
FILES = {
    "configuration_labelfusion": (("configuration",), "Configuration of the model, and the declaration of its LLMs."),
    "modeling_labelfusion": (("modeling_labelfusion",), "The model: an encoder fused with the scores of LLMs."),
    "scoring_labelfusion": (("scoring",), "Asking LLMs for the scores of the classes."),
    "pipeline_labelfusion": (("routing", "pipelines"), "The pipeline: texts in, labels out."),
}
ROOTS = {
    "configuration.configuration_labelfusion": "LabelFusionConfig",
    "modeling_labelfusion.modeling_labelfusion": "LabelFusionForSequenceClassification",
    "pipelines.pipeline_labelfusion": "LabelFusionPipeline",
}
# What Transformers and PyTorch bring along. Transformers refuses a file that imports anything else outside of a `try`.
BROUGHT = frozenset({"huggingface_hub", "numpy", "safetensors", "torch", "tqdm", "transformers", "yaml"})
# What is used from the installed package where there is one, and the extra that has what it needs.
LEFT_OUT = {
    "scoring.likelihood": ("A local LLM", "embedded"),
    "scoring.local_decision": ("A local decision model", "embedded"),
}

_FILE_OF_ROOM = {room: name for name, (rooms, _) in FILES.items() for room in rooms}
# Named where nothing runs: Transformers finds a file's neighbours by such lines, copies them beside it, and saves them
# again with the model.
_NEIGHBOURS = {
    "modeling_labelfusion": "LabelFusionForSequenceClassification",
    "pipeline_labelfusion": "LabelFusionPipeline",
}


@cache
def flat_code() -> dict[str, str]:
    """`{file name: source}` of the code that a self-contained repository needs.

    Raises:
        ValueError: If two definitions of one file have the same name, or a module does something when it is imported.
    """
    linker = _Linker()
    for module, name in ROOTS.items():
        linker.require(module, name)
    return {f"{name}.py": linker.write(name) for name in FILES}


def write_code(folder: str | Path) -> None:
    """Write the code into the root of a repository folder."""
    for name, source in flat_code().items():
        (Path(folder) / name).write_text(source, encoding="utf-8")


def package_version() -> str:
    """Version of this package; 0.0.0 for a source tree that is not installed."""
    try:
        return version("labelfusion-transformers")
    except PackageNotFoundError:
        return "0.0.0"


class _Linker:
    def __init__(self) -> None:
        self.modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """The parsed module `name`."""
        if name not in self.modules:
            self.modules[name] = Module.read(name)
        return self.modules[name]

    def find(self, module: str, name: str) -> tuple[str, str]:
        """The module of ours that defines `name`, and what it is called there, behind any re-exports."""
        here = self.module(module)
        if name in here.definitions:
            return module, name
        source = here.imports.get(name)
        if source is None or not source.ours or source.name is None:
            raise ValueError(f"{module} does not define {name!r} by a statement that can be found in its source.")
        return self.find(source.module, source.name)

    def require(self, module: str, name: str) -> None:
        """Mark the definition of `name` and everything that it uses as needed."""
        here = self.module(module)
        node = here.definitions[name]
        if node in here.needed:
            return
        if here.loose:
            raise ValueError(f"{module} does something at import, in line {here.loose[0].lineno}; it cannot be linked.")
        here.needed.append(node)
        for used in used_names(node):
            if used in here.definitions:
                self.require(module, used)
            elif used in here.imports:
                source = here.imports[used]
                if not source.for_types or used not in here.used:  # what runs somewhere is imported for real
                    here.used[used] = source
                if source.ours and source.name:
                    self.require(*self.find(source.module, source.name))
        for inner in own_imports(node):
            for _, source in here.imported(inner):
                if source.module not in LEFT_OUT and source.name:
                    place, original = self.find(source.module, source.name)
                    here.used[original] = Import(place, original, True)
                    self.require(place, original)

    def write(self, file: str) -> str:
        """The source of one file."""
        modules = self._in_order(file)
        parts = [
            f"# Generated from labelfusion-transformers {package_version()}; change the package, not this file.\n"
            f'# SPDX-License-Identifier: Apache-2.0\n"""{FILES[file][1]}"""\n',
            self._imports(file, modules),
        ]
        defined: dict[str, str] = {}
        for module in modules:
            written = []
            for node in module.tree.body:
                if node in module.needed:
                    text = self._text(module, node)
                    names = [name for name, at in module.definitions.items() if at is node]
                    if all(defined.get(name) == text for name in names):  # each module has its `logger`
                        continue
                    for name in names:
                        if defined.setdefault(name, text) != text:
                            raise ValueError(f"{module.name} defines {name!r}, as another module of its file does.")
                    written.append((node, text))
            aliases = self._aliases(module)
            if written:
                doc = (ast.get_docstring(module.tree) or "").splitlines()
                heading = [f" {module.name.replace('.', '/')}.py ".center(118, "-"), *doc[: (*doc, "").index("")]]
                parts.append("\n\n" + "".join(f"# {line}\n" for line in heading))
                parts.append("".join(f"\n{line}" for line in aliases) + "\n" * bool(aliases))
                parts.append(_spaced(module, written))
        return "".join(parts)

    def _in_order(self, file: str) -> list[Module]:
        """The file's modules, each after those that it imports when it is itself imported."""
        order: list[Module] = []

        def visit(module: Module) -> None:
            if module in order:
                return
            for source in module.imports.values():
                if source.ours and not source.for_types and source.module in self.modules:
                    visit(self.modules[source.module])
            order.append(module)

        for name in sorted(self.modules):
            visit(self.modules[name])
        return [module for module in order if _FILE_OF_ROOM[module.room] == file and module.needed]

    def _aliases(self, module: Module) -> list[str]:
        """Lines for what this module calls by another name than the module where it is defined."""
        lines = []
        for name, source in module.used.items():
            if source.ours and source.name and (original := self.find(source.module, source.name)[1]) != name:
                lines.append(f"{name} = {original}")
        return sorted(lines)

    def _imports(self, file: str, modules: list[Module]) -> str:
        plain: set[str] = set()
        named: dict[tuple[bool, str], set[str]] = {}  # (only for types, module): names
        real: set[str] = set()
        for module in modules:
            for name, source in sorted(module.used.items(), key=lambda item: item[1].for_types):
                target, original = source.module, source.name
                if source.ours and source.name:
                    place, original = self.find(source.module, source.name)
                    if (target := "." + _FILE_OF_ROOM[self.modules[place].room]) == f".{file}":
                        continue
                    name = original
                if original is None:
                    plain.add(f"import {target}" + ("" if name == target.partition(".")[0] else f" as {name}"))
                    continue
                entry = original if name == original else f"{original} as {name}"
                real |= set() if source.for_types else {target + entry}
                named.setdefault((source.for_types, target), set()).add(entry)
        if file == "configuration_labelfusion":
            named |= {(True, f".{neighbour}"): {name} for neighbour, name in _NEIGHBOURS.items()}
        if any(for_types for for_types, _ in named):
            named.setdefault((False, "typing"), set()).add("TYPE_CHECKING")
        lines = sorted(plain)
        only_types: list[str] = []
        for (for_types, target), names in sorted(named.items(), key=lambda item: item[0][1]):
            left = sorted(n for n in names if not (for_types and target + n in real))
            if left:
                line = f"from {target} import {', '.join(left)}"
                (only_types if for_types else lines).append(line)
        groups = [[line for line in lines if _origin(line) == origin] for origin in range(3)]
        text = "\n".join("".join(f"{line}\n" for line in group) for group in groups if group)
        if only_types:
            text += "\nif TYPE_CHECKING:\n" + "".join(f"    {line}\n" for line in only_types)
        return f"\n{text}"

    def _text(self, module: Module, node: ast.stmt) -> str:
        """A statement word for word, with the comments right above it, less the imports of ours in its functions."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while first > 1 and module.lines[first - 2].startswith("#"):
            first -= 1
        lines = dict(enumerate(module.lines[first - 1 : node.end_lineno], first))
        for inner in own_imports(node):
            assert inner.end_lineno is not None
            ((_, source), *_) = module.imported(inner)
            for line in range(inner.lineno, inner.end_lineno + 1):
                del lines[line]
            if source.module in LEFT_OUT:
                lines[inner.lineno] = _from_package(inner, source.module)
            elif not lines.get(inner.end_lineno + 1, "x").strip():
                del lines[inner.end_lineno + 1]
        for optional in outside_imports(node):
            package = optional.module if isinstance(optional, ast.ImportFrom) else optional.names[0].name
            if str(package).partition(".")[0] not in BROUGHT | sys.stdlib_module_names:
                lines[optional.lineno] = _tried(optional)
        return "\n".join(lines[i] for i in sorted(lines))


def _tried(node: ast.stmt) -> str:
    """An import as Transformers wants that of an optional package."""
    lines = ["try:", f"    {ast.unparse(node)}", "except ImportError:  # not needed by everybody", "    raise"]
    return "\n".join(" " * node.col_offset + line for line in lines)


def _from_package(node: ast.ImportFrom, module: str) -> str:
    """The import of something that is not shipped, with a sentence for those who have not installed it."""
    what, extra = LEFT_OUT[module]
    error = f"{what} needs the package: pip install 'labelfusion-transformers[{extra}]'."
    names = ", ".join(alias.name for alias in node.names)
    lines = [
        "try:",
        f"    from labelfusion.{module} import {names}",
        "except ImportError:",
        f'    raise ImportError("{error}") from None',
    ]
    return "\n".join(" " * node.col_offset + line for line in lines)


def _origin(line: str) -> int:
    """0 for an import from the standard library, 1 for another package's, 2 for one of ours."""
    module = line.split()[1].partition(".")[0]
    return 2 if not module else int(module not in sys.stdlib_module_names)


def _spaced(module: Module, written: list[tuple[ast.stmt, str]]) -> str:
    """Statements with the blank lines that they have in the source, two at most."""
    text = ""
    previous: ast.stmt | None = None
    for node, source in written:
        blocks = [isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for n in (previous, node) if n]
        gap = 1 if previous is None else 2 if any(blocks) else int(not module.lines[node.lineno - 2].strip())
        text += "\n" * gap + source + "\n"
        previous = node
    return text
