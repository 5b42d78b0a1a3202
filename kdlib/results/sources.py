"""The code that a result depends on: the modules of this package that it imports, as syntax.

Comments, docstrings and layout compute nothing, so modules that differ only in these count as the
same. Which modules count follows from the imports, so that no list can be out of date.
"""

import ast
import hashlib
from pathlib import Path

import kdlib

_ROOT = Path(kdlib.__file__).parent
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def syntax(source: str) -> str:
    """Return the sha256 of the syntax tree of Python source, without docstrings."""
    tree = _WithoutTexts().visit(ast.parse(source))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def closure(source: str, deferred: bool = True) -> dict[str, Path]:
    """Modules of this package that Python source imports, directly or indirectly.

    Imports inside functions, which run at a call, count only if ``deferred``.

    Returns
    -------
    dict
        Dotted name -> file, by name; the package's own ``__init__`` is left out.
    """
    todo = imported_modules(source, deferred=deferred)
    found: dict[str, Path] = {}
    while todo:
        name = todo.pop()
        path = _module_path(name)
        if path is None or name in found:
            continue
        found[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        parents = {".".join(name.split(".")[:n]) for n in range(2, name.count(".") + 1)}
        todo |= imported_modules(path.read_text(encoding="utf-8"), package, deferred) | parents
    return dict(sorted(found.items()))


def imported_modules(source: str, package: str = "", deferred: bool = True) -> set[str]:
    """Return the dotted names that Python source may import, submodules of `from` included.

    Relative imports start from ``package``, a dotted name. Imports inside functions count only if
    ``deferred``; those for type checkers never do.
    """
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(source)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            todo += node.orelse
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join(parents) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
        elif deferred or not isinstance(node, _FUNCTIONS):
            todo += ast.iter_child_nodes(node)
    return names


def text_constants(source: str) -> set[str]:
    """Return all string literals of Python source."""
    return {
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _module_path(name: str) -> Path | None:
    """Source file of a kdlib module; None for other names and for the package itself."""
    first, *rest = name.split(".")
    if first != "kdlib" or not rest:
        return None
    base = _ROOT.joinpath(*rest)
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


class _WithoutTexts(ast.NodeTransformer):
    """Drops statements that are only a text: docstrings, also those below a field."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Keep a statement unless it is only a text."""
        constant = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if constant else node
