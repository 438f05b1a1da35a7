"""Finds the names in a statement that refer to its module, and renames them."""

import ast
import copy
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_IN_BRACES = re.compile(rb"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}")


class Reference(NamedTuple):
    """A use or definition of a module-level name: its node, and the enclosing f-string, if any."""

    name: str
    node: ast.AST
    joined: ast.JoinedStr | None = None


def references(statement: ast.stmt) -> Iterator[Reference]:
    """Every use of a module-level name in a statement, including quoted annotations.

    Names that a function binds (arguments, variables) are local and skipped. Names that a function imports from this
    package count as module-level, as the linker moves these imports to the top.
    """
    if isinstance(statement, _DEFINITIONS):
        yield Reference(statement.name, statement)
    yield from _walk(statement, frozenset(), frozenset(), None)


def _walk(
    node: ast.AST, own: frozenset[str], enclosing: frozenset[str], joined: ast.JoinedStr | None
) -> Iterator[Reference]:
    """References below `node`; `own` names are bound in this scope, `enclosing` ones in functions around a class."""
    if isinstance(node, ast.Name) and node.id not in own:
        yield Reference(node.id, node, joined)
    elif isinstance(node, ast.Global):
        for name in node.names:
            yield Reference(name, node)
    for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
        if annotation is not None:
            yield from _quoted(annotation, own)
    if isinstance(node, ast.JoinedStr):
        joined = joined or node
    if isinstance(node, _FUNCTIONS):
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        inner = enclosing | _bound(body, node.args)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, *((inner, inner) if child in body else (own, enclosing)), joined)
    elif isinstance(node, ast.ClassDef):
        inner = own | _bound(node.body)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, inner if child in node.body else own, enclosing, joined)
    elif isinstance(node, _COMPREHENSIONS):
        inner = own | _bound(part.target for part in node.generators)
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, inner, enclosing | inner, joined)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _walk(child, own, enclosing, joined)


def _quoted(annotation: ast.AST, own: frozenset[str]) -> Iterator[Reference]:
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        for name in re.findall(r"[A-Za-z_]\w*", annotation.value):
            if name not in own:
                yield Reference(name, annotation)
    elif not (isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value).endswith("Literal")):
        for child in ast.iter_child_nodes(annotation):
            yield from _quoted(child, own)


def _bound(body: Iterable[ast.AST], arguments: ast.arguments | None = None) -> frozenset[str]:
    """The names that a scope binds, except those that it declares global or imports from this package."""
    names = {part.arg for part in ast.walk(arguments) if isinstance(part, ast.arg)} if arguments else set()
    outside: set[str] = set()
    parts = list(body)
    while parts:
        part = parts.pop()
        if isinstance(part, _DEFINITIONS):
            names.add(part.name)
        elif isinstance(part, ast.Global):
            outside |= set(part.names)
        elif isinstance(part, _COMPREHENSIONS):  # `:=` in a comprehension binds in the enclosing scope
            walrus = (inner.target for inner in ast.walk(part) if isinstance(inner, ast.NamedExpr))
            names |= {target.id for target in walrus if isinstance(target, ast.Name)}
        elif not isinstance(part, ast.Lambda):
            if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
                names.add(part.id)
            elif isinstance(part, ast.Import) or (isinstance(part, ast.ImportFrom) and part.level == 0):
                names |= {alias.asname or alias.name.partition(".")[0] for alias in part.names}
            elif isinstance(part, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and part.name:
                names.add(part.name)
            elif isinstance(part, ast.MatchMapping) and part.rest:
                names.add(part.rest)
            parts += ast.iter_child_nodes(part)
    return frozenset(names - outside)


def inner_names(statement: ast.stmt) -> set[str]:
    """The names that the functions, classes and comprehensions of a statement bind: arguments, variables, members."""
    names: set[str] = set()
    for part in ast.walk(statement):
        if isinstance(part, _FUNCTIONS):
            names |= _bound([part.body] if isinstance(part, ast.Lambda) else part.body, part.args)
        elif isinstance(part, ast.ClassDef):
            names |= _bound(part.body)
        elif isinstance(part, _COMPREHENSIONS):
            names |= _bound(generator.target for generator in part.generators)
    return names


def renamed(lines: list[str], statement: ast.stmt, names: dict[str, str]) -> list[str]:
    """The lines of a module with the names in one statement replaced, and all else unchanged.

    Raises:
        ValueError: If a name cannot be replaced in the text, such as one deep in an f-string.
    """
    if not any(reference.name in names for reference in references(statement)):
        return lines
    expected = copy.deepcopy(statement)
    text = "\n".join(lines).encode()
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line.encode()) + 1)
    edits: dict[tuple[int, int], tuple[dict[str, str], bool]] = {}
    for name, node, joined in list(references(expected)):
        if (new := names.get(name)) is not None:
            place = joined or node
            assert isinstance(place, ast.expr | ast.stmt)
            assert place.end_lineno is not None
            assert place.end_col_offset is not None
            start = starts[place.lineno - 1] + place.col_offset
            end = starts[place.end_lineno - 1] + place.end_col_offset
            if isinstance(node, _DEFINITIONS):
                found = re.compile(rb"(?:def|class)\s+").search(text, start)
                assert found is not None
                start, end = found.end(), found.end() + len(name.encode())
            edits.setdefault((start, end), ({}, joined is not None))[0][name] = new
            _rename(node, name, new)
    for (start, end), (new_names, in_braces) in sorted(edits.items(), reverse=True):
        text = text[:start] + _replaced(text[start:end], new_names, in_braces) + text[end:]
    result = text.decode().split("\n")
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    (now,) = ast.parse("\n".join(result[first - 1 : statement.end_lineno])).body
    if ast.dump(now) != ast.dump(expected):
        raise ValueError(f"Cannot give other names to {', '.join(names)} in: {lines[statement.lineno - 1].strip()}")
    return result


def _rename(node: ast.AST, old: str, new: str) -> None:
    if isinstance(node, ast.Name):
        node.id = new
    elif isinstance(node, _DEFINITIONS):
        node.name = new
    elif isinstance(node, ast.Global):
        node.names = [new if name == old else name for name in node.names]
    elif isinstance(node, ast.Constant):
        node.value = _replaced(str(node.value).encode(), {old: new}).decode()


def _replaced(text: bytes, names: dict[str, str], in_braces: bool = False) -> bytes:
    """`text` with whole words replaced in one pass, optionally only those in braces; attributes stay."""
    if in_braces:
        return _IN_BRACES.sub(lambda found: _replaced(found[0], names), text)
    pattern = rb"(?<![\w.])(?:" + b"|".join(re.escape(name.encode()) for name in names) + rb")\b"
    return re.sub(pattern, lambda found: names[found[0].decode()].encode(), text)
