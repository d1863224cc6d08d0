"""The user's own Python files: where their imports are looked up, and how they are imported."""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import keyword
import os
import pathlib
import sys
import types
from collections.abc import Iterator

SCRIPTS = pathlib.Path(os.path.abspath(__file__)).parents[1]
_users: dict[str, types.ModuleType] = {}  # modules of the user's that have names of ours, by name


def import_roots(file: str | os.PathLike) -> tuple[pathlib.Path, ...]:
    """Return the folders, absolute, in which the imports of a user's file are looked up, in this order.

    Its own folder, as for a script; if that is a package, which has an __init__.py, the folder that the outermost
    package lies in; and the working directory, as for `python -m`.
    """
    folder = pathlib.Path(os.path.abspath(file)).parent
    outside = folder
    while (outside / "__init__.py").is_file() and outside != outside.parent:
        outside = outside.parent
    return tuple(dict.fromkeys((folder, outside, pathlib.Path.cwd())))


def module_name(file: str | os.PathLike) -> str | None:
    """Return the dotted name under which a user's file can be imported from its import roots, its packages with it.

    None if it lies in no package and in no folder below the working directory: it is a script by itself.
    """
    path = pathlib.Path(os.path.abspath(file))
    for root in import_roots(file)[1:]:
        if path.is_relative_to(root) and path.parent != root:
            parts = path.relative_to(root).with_suffix("").parts
            if all(part.isidentifier() and not keyword.iskeyword(part) for part in parts):
                return ".".join(parts)
    return None


@contextlib.contextmanager
def users_first(file: str | os.PathLike) -> Iterator[None]:
    """Let imports of the block be those of a script in the place of the user's file: its import roots come first.

    What is imported already stays, but for modules of ours whose name the user's files have: within the block it is
    theirs. After the block the import roots are the last places of sys.path but for the folder of our scripts, which
    nothing of ours needs any more.
    """
    roots = [str(root) for root in import_roots(file)]
    others = [place for place in sys.path if place not in roots and os.path.abspath(place or ".") != str(SCRIPTS)]
    ours = {name: module for name, module in sys.modules.items() if _is_hidden(name.partition(".")[0], roots)}
    sys.path[:] = [*roots, *others]
    for name in ours:
        del sys.modules[name]
    sys.modules.update(_users)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        tops = {name.partition(".")[0] for name in ours}
        _users.update({name: module for name, module in sys.modules.items() if name.partition(".")[0] in tops})
        for name in _users:
            sys.modules.pop(name, None)
        sys.modules.update(ours)
        sys.path[:] = [*others, *roots, str(SCRIPTS)]


def _is_hidden(name: str, roots: list[str]) -> bool:
    """Return whether an imported module is one of ours whose name a module or folder of the user's has, too."""
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None or not pathlib.Path(file).is_relative_to(SCRIPTS):
        return False
    spec = importlib.machinery.PathFinder.find_spec(name, roots)
    return spec is not None and spec.origin != file


def import_user_module(path: str) -> types.ModuleType:
    """Import a user's file, in a block of `users_first`, and return the module.

    It has its dotted name if there is one, so that relative imports work. Raises whatever the file raises.
    """
    name = module_name(path)
    if name is not None and _is_its_package(name, path):
        importlib.import_module(name.rpartition(".")[0])
        if name in sys.modules:  # which the package itself has imported
            return sys.modules[name]
    else:
        name = None
    spec = importlib.util.spec_from_file_location(name or f"user_model_{pathlib.Path(path).stem}", path)
    assert spec and spec.loader, f"{path} does not end in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module of a class
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def imports_forgotten(file: str | os.PathLike) -> Iterator[None]:
    """Let what the block imports of a user's own files be read anew when it is imported again."""
    before, roots = {*sys.modules}, import_roots(file)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before:
            place = pathlib.Path(getattr(sys.modules[name], "__file__", None) or os.devnull)
            others = place.is_relative_to(SCRIPTS) or place.is_relative_to(sys.prefix) or "site-packages" in place.parts
            if not others and any(place.is_relative_to(root) for root in roots):
                del sys.modules[name]
        _users.clear()


def _is_its_package(name: str, file: str | os.PathLike) -> bool:
    """Return whether the first package of a dotted name is a folder of the file, not an installed one of that name."""
    package, *inner = name.split(".")
    spec = importlib.util.find_spec(package)
    folder = pathlib.Path(os.path.abspath(file)).parents[len(inner) - 1]
    return spec is not None and str(folder) in (spec.submodule_search_locations or ())
