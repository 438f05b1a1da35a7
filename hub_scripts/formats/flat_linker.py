"""Links modules of this package into flat files.

Each file holds a verbatim copy of what its roots need from one or two packages. Unreachable definitions, such as those
for training, are left out. If modules of one file define the same name, all but the first get their module's name as a
prefix.
"""

import ast
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from .flat_modules import Import, Module, outside_imports, own_imports
from .flat_names import inner_names, references, renamed

_SAFE_CALLS = {"TypeVar", "frozenset", "logging.getLogger", "logging.get_logger", "re.compile"}


@dataclass(frozen=True)
class Layout:
    """The layout of a set of flat files.

    Attributes:
        files: `{file: (packages, docstring)}`; a file imports only from those above it.
        roots: `{module: name}` of the entry points. These names stay unchanged.
        brought: Packages that are always installed; imports of others are put into a `try`.
        left_out: `{module: (description, extra)}` of modules used from the installed package, if present.
        package: Import name of the package that holds the modules.
    """

    files: Mapping[str, tuple[tuple[str, ...], str]]
    roots: dict[str, str]
    brought: frozenset[str] = frozenset()
    left_out: dict[str, tuple[str, str]] = field(default_factory=dict)
    package: str = "labelfusion"

    def file_of(self, module: str) -> str:
        """The file that a module goes to.

        Raises:
            ValueError: If its package is in no file.
        """
        room = module.partition(".")[0]
        for file, (rooms, _) in self.files.items():
            if room in rooms:
                return file
        raise ValueError(f"{module} is needed in a self-contained repository, and its room in none of the files.")


class Linker:
    """Finds the needed definitions, names them, and writes the files.

    A name resolves to an `Import`: a definition in this package, where it is defined, or an external one.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.modules: dict[str, Module] = {}
        self.names: dict[str, dict[Import, str]] = {}  # names of all definitions and imports of a file
        self.same: dict[Import, Import] = {}  # definitions duplicated verbatim in another module of the file

    def link(self) -> dict[str, str]:
        """`{file: source}`."""
        for module in self.layout.left_out:
            self.module(module)  # raises if the module was moved
        for module, name in self.layout.roots.items():
            self._require(Import(module, name, True))
        for file in self.layout.files:
            self.name(file)
        return {file: self.write(file) for file in self.layout.files}

    def module(self, name: str) -> Module:
        """The parsed module `name`."""
        if name not in self.modules:
            self.modules[name] = Module.read(name, self.layout.package)
        return self.modules[name]

    def find(self, source: Import) -> Import:
        """Resolve an import to the place of definition, through any re-exports."""
        if not source.ours:
            module = source.module if source.name else re.split(r"\W", source.module)[0]
            return Import(module, source.name, False)
        here = self.module(source.module)
        if source.name in here.definitions:
            found = Import(source.module, source.name, True)
            return self.same.get(found, found)
        behind = here.imports.get(source.name or "")
        if behind is None or not behind.ours:
            raise ValueError(f"{source.module} does not define {source.name!r} by a statement found in its source.")
        return self.find(behind)

    def require(self, module: str, name: str) -> None:
        """Mark the definition of `name` and its dependencies as needed."""
        here = self.module(module)
        node = here.definitions[name]
        if node in here.needed:
            return
        if here.loose:
            raise ValueError(f"{module} does something at import, in line {here.loose[0].lineno}; it cannot be linked.")
        here.needed.append(node)
        late = [
            pair
            for inner in own_imports(node)
            for pair in here.imported(inner)
            if pair[1].module not in self.layout.left_out
        ]
        used = [
            (reference.name, here.imports[reference.name])
            for reference in references(node)
            if reference.name in here.imports and reference.name not in here.definitions
        ]
        for bound, source in [*used, *((bound, replace(source, late=True)) for bound, source in late)]:
            before = here.used.get(bound)  # what runs somewhere is imported for real, when the module is if it can be
            if before is None or (before.for_types, before.late) > (source.for_types, source.late):
                here.used[bound] = source
            if source.ours:
                self._require(source)
        for reference in references(node):
            if reference.name in here.definitions:
                self.require(module, reference.name)

    def _require(self, source: Import) -> None:
        found = self.find(source)
        assert found.name is not None
        self.require(found.module, found.name)

    def name(self, file: str) -> None:
        """Name the definitions and imports of a file: as in their module, unless the name is taken."""
        modules = self._in_order(file)
        words = set().union(*(re.findall(r"\w+", line) for module in modules for line in module.lines))
        names = self.names[file] = {}
        taken: dict[str, Import] = {}
        hidden: dict[Import, set[str]] = {}  # by the inner names of a module that calls the thing by another name
        for module in modules:
            inner = set().union(*(inner_names(node) for node in module.needed))
            for name, source in module.used.items():
                hidden.setdefault(self.find(source), set()).update(inner - {name})

        def give(meaning: Import, wanted: str, module: str) -> None:
            if meaning not in names:
                if wanted in hidden.get(meaning, ()) or taken.setdefault(wanted, meaning) != meaning:
                    wanted = _free_name(wanted, module, words)
                    taken[wanted] = meaning
                    words.add(wanted)
                names[meaning] = wanted

        for root_module, name in self.layout.roots.items():  # Transformers looks them up by name
            if self._file(root := self.find(Import(root_module, name, True))) == file:
                give(root, name, root_module)
        for module in modules:
            for name, source in module.used.items():
                meaning = self.find(source)
                if not meaning.ours:
                    give(meaning, name, meaning.module)
                elif (other := self._file(meaning)) != file:
                    if other not in self.names:
                        raise ValueError(f"{module.name} imports {name!r} from {source.module}, which comes after it.")
                    give(meaning, self.names[other][meaning], meaning.module)
        for module in modules:
            for name, node in module.definitions.items():
                if node in module.needed:
                    meaning = Import(module.name, name, True)
                    twin = taken.get(name)
                    if twin and twin != meaning and self._are_same(twin, meaning):
                        self.same[meaning] = twin
                    else:
                        give(meaning, name, module.name)

    def _file(self, meaning: Import) -> str:
        return self.layout.file_of(meaning.module)

    def _are_same(self, one: Import, other: Import) -> bool:
        """Whether two definitions have the same text, refer to the same names, and hold no mutable state."""
        found = []
        for module, name in ((self.modules[at.module], at.name) for at in (one, other) if at.ours and at.name):
            node = module.definitions[name]
            used = {reference.name for reference in references(node)} & {*module.definitions, *module.imports} - {name}
            meanings = {self._meaning(module, inner) for inner in used}
            found.append((ast.dump(node), _holds_still(node), meanings))
        return len(found) == 2 and found[0] == found[1] and found[0][1]

    def _meaning(self, module: Module, name: str) -> Import:
        if name in module.definitions:
            meaning = Import(module.name, name, True)
            return self.same.get(meaning, meaning)
        return self.find(module.imports[name])

    def write(self, file: str) -> str:
        """The source of one file."""
        modules = self._in_order(file)
        parts = [f'"""{self.layout.files[file][1]}"""\n', self._imports(file, modules)]
        for module in modules:
            new_names = self._new_names(file, module)
            written = []
            for node in module.tree.body:
                names = [Import(module.name, name, True) for name, at in module.definitions.items() if at is node]
                if node in module.needed and not all(name in self.same for name in names):
                    written.append((node, self._text(module, node, new_names)))
            if written:
                doc = (ast.get_docstring(module.tree) or "").splitlines()
                heading = [f" {module.name.replace('.', '/')}.py ".center(118, "-"), *doc[: (*doc, "").index("")]]
                parts.append("\n\n" + "".join(f"# {line}\n" for line in heading))
                parts.append(_spaced(module, written))
        return "".join(parts)

    def _new_names(self, file: str, module: Module) -> dict[str, str]:
        """The names with another meaning or spelling in the file than in the module."""
        meanings = {name: self.find(source) for name, source in module.used.items()}
        for name, node in module.definitions.items():
            if node in module.needed:
                meanings[name] = self._meaning(module, name)
        names = {name: self.names[file][meaning] for name, meaning in meanings.items()}
        return {name: new for name, new in names.items() if name != new}

    def _in_order(self, file: str) -> list[Module]:
        """The file's modules, each after those that it imports at import time."""
        order: dict[str, Module] = {}
        visited: set[str] = set()

        def visit(module: Module) -> None:
            if module.name in visited:
                return
            visited.add(module.name)
            for source in module.used.values():
                if source.ours and not source.for_types and not source.late:
                    visit(self.modules[self.find(source).module])
            order[module.name] = module

        for name in sorted(self.modules):
            visit(self.modules[name])
        return [module for module in order.values() if module.needed and self.layout.file_of(module.name) == file]

    def _imports(self, file: str, modules: list[Module]) -> str:
        plain: set[str] = set()
        named: dict[tuple[bool, str], set[str]] = {}  # (only for types, module): names
        real: set[str] = set()
        for module in modules:
            for source in sorted(module.used.values(), key=lambda source: source.for_types):
                meaning = self.find(source)
                target, original, bound = source.module, source.name, self.names[file][meaning]
                if meaning.ours:
                    if (other := self._file(meaning)) == file:
                        continue
                    target, original = f".{other}", self.names[other][meaning]
                if original is None:
                    for whole in target.split(", "):
                        plain.add(f"import {whole}" + ("" if bound == meaning.module else f" as {bound}"))
                    continue
                entry = original if bound == original else f"{original} as {bound}"
                real |= set() if source.for_types else {target + entry}
                named.setdefault((source.for_types, target), set()).add(entry)
        if file == next(iter(self.layout.files)):
            # Transformers follows such imports to find the other files, and copies and saves them with the model.
            roots = ((self.layout.file_of(module), name) for module, name in self.layout.roots.items())
            named |= {(True, f".{other}"): {name} for other, name in roots if other != file}
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

    def _text(self, module: Module, node: ast.stmt, new_names: dict[str, str]) -> str:
        """A statement verbatim with the comments above it, without this package's imports inside its functions."""
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        while first > 1 and module.lines[first - 2].startswith("#"):
            first -= 1
        lines = dict(enumerate(renamed(module.lines, node, new_names)[first - 1 : node.end_lineno], first))
        for inner in own_imports(node):
            assert inner.end_lineno is not None
            ((_, source), *_) = module.imported(inner)
            for line in range(inner.lineno, inner.end_lineno + 1):
                del lines[line]
            if source.module in self.layout.left_out:
                lines[inner.lineno] = _from_package(
                    inner, f"{self.layout.package}.{source.module}", *self.layout.left_out[source.module]
                )
            elif not lines.get(inner.end_lineno + 1, "x").strip():
                del lines[inner.end_lineno + 1]
        for optional in outside_imports(node):
            package = optional.module if isinstance(optional, ast.ImportFrom) else optional.names[0].name
            if str(package).partition(".")[0] not in self.layout.brought | sys.stdlib_module_names:
                lines[optional.lineno] = _tried(optional)
        return "\n".join(lines[i] for i in sorted(lines))


def _free_name(name: str, module: str, words: set[str]) -> str:
    """`name` prefixed by its module's: `_read` of `json_answer` becomes `_json_answer_read`; `words` are taken."""
    for prefix in (module.rpartition(".")[2], module.replace(".", "_")):
        bare = name.lstrip("_")
        if name.isupper():
            prefix = prefix.upper()
        elif bare[:1].isupper():
            prefix = "".join(part.capitalize() for part in prefix.split("_"))
        new = f"{'_' * name.startswith('_')}{prefix}{'' if prefix[0].isupper() and not name.isupper() else '_'}{bare}"
        if new not in words:
            return new
    raise ValueError(f"There is no other name for {name!r} of {module}: {new!r} means something else.")


def _holds_still(node: ast.stmt) -> bool:
    """Whether two such definitions can be merged: a function, a class, a logger, a constant."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        calls = (ast.unparse(part.func) for part in ast.walk(node) if isinstance(part, ast.Call))
        kinds = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
        return _SAFE_CALLS.issuperset(calls) and not any(isinstance(part, kinds) for part in ast.walk(node))
    return not getattr(node, "decorator_list", [])


def _tried(node: ast.stmt) -> str:
    """An import in the form that Transformers accepts for an optional package."""
    lines = ["try:", f"    {ast.unparse(node)}", "except ImportError:  # not needed by everybody", "    raise"]
    return "\n".join(" " * node.col_offset + line for line in lines)


def _from_package(node: ast.ImportFrom, module: str, what: str, extra: str) -> str:
    """The import of a module that is not exported, with an error message if it is not installed."""
    error = f"{what} needs the package: pip install 'labelfusion-transformers[{extra}]'."
    names = ", ".join(alias.name for alias in node.names)
    lines = [
        "try:",
        f"    from {module} import {names}",
        "except ImportError:",
        f'    raise ImportError("{error}") from None',
    ]
    return "\n".join(" " * node.col_offset + line for line in lines)


def _origin(line: str) -> int:
    """0 for an import from the standard library, 1 for another package, 2 for this package."""
    module = line.split()[1].partition(".")[0]
    return 2 if not module else int(module not in sys.stdlib_module_names)


def _spaced(module: Module, written: list[tuple[ast.stmt, str]]) -> str:
    """Statements with the blank lines between them as in the source, at most two."""
    text = ""
    previous: ast.stmt | None = None
    for node, source in written:
        blocks = [isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for n in (previous, node) if n]
        gap = 1 if previous is None else 2 if any(blocks) else int(not module.lines[node.lineno - 2].strip())
        text += "\n" * gap + source + "\n"
        previous = node
    return text
