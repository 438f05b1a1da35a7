"""The modules of this package as `flat_linker` reads them: definitions and imports by name, found in their source."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

_DATA_FILE = re.compile(r"files\(__package__\)\.joinpath\(\"([\w.]+)\"\)\.read_text\(encoding=\"utf-8\"\)")


@dataclass(frozen=True)
class Import:
    """Where a name comes from: a module of this package (`"scoring.reasons"`) or an external one, and its name."""

    module: str
    name: str | None  # None for `import module`
    ours: bool
    for_types: bool = False
    late: bool = False  # imported in a function


@dataclass
class Module:
    """A parsed module: its definitions and imports by name, and which statements are needed."""

    name: str
    package: str
    lines: list[str]
    tree: ast.Module
    definitions: dict[str, ast.stmt] = field(default_factory=dict)
    imports: dict[str, Import] = field(default_factory=dict)
    loose: list[ast.stmt] = field(default_factory=list)
    needed: list[ast.stmt] = field(default_factory=list)
    used: dict[str, Import] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, package: str) -> "Module":
        """Parse a module of a package, at any depth of folders, or the `__init__` of a folder.

        Raises:
            FileNotFoundError: If there is no such module.
        """
        room, *inner = name.split(".")
        spec = find_spec(f"{package}.{room}")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        path = Path(spec.submodule_search_locations[0], *inner)
        around = name if path.is_dir() else name.rpartition(".")[0]
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        source = path.read_text(encoding="utf-8")
        source = _DATA_FILE.sub(lambda found: _literal((path.parent / found[1]).read_text(encoding="utf-8")), source)
        self = cls(name, around, source.splitlines(), ast.parse(source))
        for node in self.tree.body:
            self._add(node)
        return self

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Import | ast.ImportFrom):
            self.imports |= dict(self.imported(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            self.definitions[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            self.definitions |= dict.fromkeys(names, node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for inner in node.body:
                if isinstance(inner, ast.Import | ast.ImportFrom):
                    self.imports |= dict(self.imported(inner, for_types=True))
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            self.loose.append(node)

    def imported(self, node: ast.Import | ast.ImportFrom, for_types: bool = False) -> Iterator[tuple[str, Import]]:
        """The names that an import statement of this module binds."""
        for alias in node.names:
            if isinstance(node, ast.Import) and alias.asname and "." in alias.name:
                around, _, name = alias.name.rpartition(".")
                yield alias.asname, Import(around, name, False, for_types)
            elif isinstance(node, ast.Import):
                bound = alias.asname or alias.name.partition(".")[0]
                before = self.imports.get(bound)  # `import a.b` and `import a.c` both bind `a`
                modules = ", ".join([*([before.module] if before else []), alias.name])
                yield bound, Import(modules, None, False, for_types)
            elif node.level == 0:
                yield alias.asname or alias.name, Import(node.module or "", alias.name, False, for_types)
            else:
                base = self.package.split(".")
                base = base[: len(base) - node.level + 1]
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield alias.asname or alias.name, Import(module, alias.name, True, for_types)


def outside_imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports of external packages inside a definition, outside of `try`."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.Import) or (isinstance(part, ast.ImportFrom) and part.level == 0):
            yield part
        elif not isinstance(part, ast.Try):
            yield from outside_imports(part)


def own_imports(node: ast.stmt) -> list[ast.ImportFrom]:
    """The imports from this package inside a definition."""
    return [part for part in ast.walk(node) if isinstance(part, ast.ImportFrom) and part.level > 0]


def _literal(text: str) -> str:
    """`text` as a string literal over several lines."""
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}"""'
