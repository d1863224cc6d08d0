"""The user's own Python files: where their imports are looked up, and how they are imported."""

import importlib
import importlib.util
import keyword
import os
import pathlib
import sys
import types


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


def import_user_module(path: str) -> types.ModuleType:
    """Import a user's file and return the module; its import roots come after all other places of sys.path.

    It has its dotted name if there is one, so that relative imports work. Raises whatever the file raises.
    """
    sys.path += [folder for folder in map(str, import_roots(path)) if folder not in sys.path]
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


def _is_its_package(name: str, file: str | os.PathLike) -> bool:
    """Return whether the first package of a dotted name is a folder of the file, not an installed one of that name."""
    package, *inner = name.split(".")
    spec = importlib.util.find_spec(package)
    folder = pathlib.Path(os.path.abspath(file)).parents[len(inner) - 1]
    return spec is not None and str(folder) in (spec.submodule_search_locations or ())
