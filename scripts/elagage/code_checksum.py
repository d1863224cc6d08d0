"""Checksums of what Python code does: of a file and of all that it imports below given folders, directly or not.

All forms of the import statement are followed, wherever they stand. What a file loads by other means is not seen:
importlib, __import__, exec, data files, modules that are not Python source, folders added to sys.path or __path__.
"""

import ast
import functools
import hashlib
import os
import pathlib
from collections.abc import Iterable, Iterator

Folders = tuple[pathlib.Path, ...]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef  # what may have a docstring


def source_files(file: str | os.PathLike, roots: Folders) -> list[pathlib.Path]:
    """Return the file and all that it imports below the roots, directly or not, sorted.

    A superset of what a run of the file imports; the same set if all imports stand at module level.
    """
    sources: set[pathlib.Path] = set()
    waiting = {_absolute(file), *_packages_of(_absolute(file), roots)}
    while waiting:
        sources |= waiting
        waiting = set().union(*(_imported(path, roots) for path in waiting)) - sources
    return sorted(sources)


def code_checksums(file: str | os.PathLike, roots: Folders) -> str:
    """Return "path:checksum" of source_files(file, roots), with paths from the root that they lie in, in one line.

    As a parameter of a rule it makes an edit rerun the rules that use the edited file, and only those. Input files
    would not do: they have times, which a new clone changes, and paths, which change when a study moves.
    """
    return " ".join(f"{_from_root(path, roots)}:{_checksum(path)}" for path in source_files(file, roots))


def digest(source: bytes) -> str:
    """Return the checksum, 64 hexadecimal digits, of what Python source does: comments, docstrings and layout aside.

    It is the same in all versions of Python. They agree on ast.unparse, not on ast.dump; f-strings become tuples,
    because their quotes differ. Source that ast cannot take is hashed as it is.
    """
    try:
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, Documented) and _has_docstring(node):
                node.body = node.body[1:] or [ast.Pass()]
        plain = ast.unparse(ast.fix_missing_locations(_WithoutFStrings().visit(tree)))
    # The job that runs a user's file says what is wrong with it; very long expressions are too deep for ast.
    except (SyntaxError, ValueError, RecursionError):
        return hashlib.sha256(source).hexdigest()
    return hashlib.sha256(plain.encode(errors="surrogatepass")).hexdigest()


class _WithoutFStrings(ast.NodeTransformer):
    """Replaces each f-string by the tuple of its parts, and each value in it by (value, conversion, format)."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Tuple:
        self.generic_visit(node)
        # Python 3.12 adds empty texts.
        parts = [part for part in node.values if not (isinstance(part, ast.Constant) and part.value == "")]
        return ast.Tuple(parts, ast.Load())

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.Tuple:
        self.generic_visit(node)
        return ast.Tuple(
            [node.value, ast.Constant(node.conversion), node.format_spec or ast.Constant(None)], ast.Load()
        )


def _from_root(file: pathlib.Path, roots: Folders) -> pathlib.Path:
    return next((file.relative_to(root) for root in roots if file.is_relative_to(root)), file)


def _absolute(file: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(os.path.abspath(file))  # not resolve(): what stands beside a link is imported, as it is named


def _packages_of(file: pathlib.Path, roots: Folders) -> set[pathlib.Path]:
    """Return the __init__.py of each package that a file lies in, up to the roots."""
    inside = (folder for root in roots for folder in file.parents if folder.is_relative_to(root) and folder != root)
    return {path for folder in inside if (path := folder / "__init__.py").is_file()}


def _has_docstring(node: Documented) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


@functools.cache
def _checksum(file: pathlib.Path) -> str:
    return digest(file.read_bytes())[:16] if file.is_file() else "missing"


@functools.cache
def _imported(file: pathlib.Path, roots: Folders) -> frozenset[pathlib.Path]:
    """Return the files below the roots that the import statements of a file run."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return frozenset()
    files: set[pathlib.Path] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                files |= _files_of_import(alias.name, roots)
        elif isinstance(node, ast.ImportFrom):
            # A relative import starts at the file's own folder, whatever the name of its package.
            folders = (file.parents[node.level - 1],) if 0 < node.level <= len(file.parents) else roots
            files |= _files_of_from_import(node.module or "", [alias.name for alias in node.names], folders)
    return frozenset(files)


def _files_of_import(name: str, roots: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Return the files that `import a.b.c` runs: that of the module, and __init__.py of each package above it."""
    # Of all roots: a package in a later one goes before a folder without __init__.py in an earlier one.
    return {file for root in roots for file in _files_of_name(root, name.split("."))}


def _files_of_from_import(module: str, names: list[str], roots: Iterable[pathlib.Path]) -> set[pathlib.Path]:
    """Return the files that `from module import names` runs; a name may be that of a module in the package."""
    files = _files_of_import(module, roots) if module else set()
    if names == ["*"]:
        names = [name for root in roots for name in _starred(_package(root, module))]
    for name in names:
        files |= _files_of_import(f"{module}.{name}".lstrip("."), roots)
    return files | ({path for root in roots if (path := root / "__init__.py").is_file()} if not module else set())


def _package(root: pathlib.Path, module: str) -> pathlib.Path:
    return root.joinpath(*module.split(".")) if module else root


def _files_of_name(folder: pathlib.Path, parts: list[str]) -> Iterator[pathlib.Path]:
    """Yield the files below a folder that importing the dotted name of these parts runs, as far as they are there.

    A package goes before a module of the same name, and that before a folder without __init__.py, as in Python.
    """
    for part in parts:
        folder /= part
        if (init := folder / "__init__.py").is_file():
            yield init
        elif (file := folder.with_name(f"{part}.py")).is_file():
            yield file
            return
        elif not folder.is_dir():
            return


def _starred(package: pathlib.Path) -> list[str]:
    """Return what `import *` may import as modules of a package: those in its __all__, all if that is computed."""
    try:
        tree = ast.parse((package / "__init__.py").read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    assigned = [
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    uses = [node for node in ast.walk(tree) if "__all__" in (getattr(node, "id", ""), getattr(node, "name", ""))]
    names = [name for value in assigned for name in (value.elts if isinstance(value, ast.List | ast.Tuple) else [None])]
    if len(uses) == len(assigned) and all(isinstance(name, ast.Constant) for name in names):
        return [str(name.value) for name in names if isinstance(name, ast.Constant)]
    return [path.stem for path in package.iterdir() if path.suffix in ("", ".py")]
