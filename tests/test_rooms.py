"""The rooms of scripts/elagage: what each may import, directly or not, and that no module lies in too high a room."""

import ast
import pathlib
import sys

import pytest
from runners import SCRIPTS

TORCH = {"torch", "torch_pruning"}  # not torchvision, of which downloads.py takes what it knows of data sets
ONNX = {"onnx", "onnx_ir", "onnxruntime", "onnxscript"}
FIGURES = {"matplotlib", "pandas"}
PAGE = {"altair", "jinja2", "markupsafe"}
# Room -> what nothing in it may import. What lies in no room, on top, has the name of the package.
WALLS = {"pytorch": set(), "onnx": TORCH} | dict.fromkeys(("figures", "packing", "page", "elagage"), TORCH | ONNX)
# Room -> of which each of its modules imports something, or it belongs into a lower one.
NEEDS = {"pytorch": TORCH, "onnx": ONNX, "figures": FIGURES, "page": PAGE}
# Jobs that train, prune, export, or time eager PyTorch, and the one that tries all of that.
WITH_TORCH = (
    "train train_import prune_channels recover recover_batchnorm recover_reconstruct sensitivity quantize_export "
    "quantize_qat evaluate_latency_eager check_model"
)


def file_of(name: str) -> pathlib.Path | None:
    """Return the file of a module of elagage, or None: the name is that of a package, or of something in a module."""
    file = SCRIPTS / f"{name.replace('.', '/')}.py"
    return file if file.is_file() else None


def imported(file: pathlib.Path) -> set[str]:
    """Return the dotted names that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def reached(file: pathlib.Path) -> tuple[set[pathlib.Path], set[str]]:
    """Return the files of elagage that a file imports, directly or not, itself among them, and all other packages."""
    files, packages, waiting = set(), set(), {file}
    while waiting:
        files |= waiting
        names = set().union(*map(imported, waiting))
        packages |= {name.partition(".")[0] for name in names}
        waiting = {found for name in names if name.startswith("elagage.") and (found := file_of(name))} - files
    return files, packages - {"elagage", *sys.stdlib_module_names}


def modules(room: str) -> list[pathlib.Path]:
    folder = SCRIPTS / "elagage" / ("" if room == "elagage" else room)
    return sorted(folder.glob("*.py"))


EVERY = [
    pytest.param(room, file, id=str(file.relative_to(SCRIPTS).with_suffix("")))
    for room in WALLS
    for file in modules(room)
]


@pytest.mark.parametrize(("room", "file"), EVERY)
def test_a_module_respects_the_walls_of_its_room(room, file):
    assert not reached(file)[1] & WALLS[room]


@pytest.mark.parametrize(("room", "file"), EVERY)
def test_a_module_lies_in_the_lowest_room_whose_walls_it_respects(room, file):
    if room in NEEDS and file.name != "__init__.py":
        assert reached(file)[1] & NEEDS[room]


def test_every_folder_is_a_room():
    folders = {file.parent.name for file in (SCRIPTS / "elagage").rglob("*.py")}
    assert folders <= WALLS.keys()
    assert folders >= {"pytorch", "onnx", "figures", "elagage"}


def test_packing_needs_numpy_and_the_standard_library():
    for file in modules("packing"):
        files, packages = reached(file)
        assert packages <= {"numpy"}, file
        assert {path.parent.name for path in files} == {"packing"}, file


def test_predict_stands_alone_beside_a_deployed_model():
    files, packages = reached(SCRIPTS / "elagage/onnx/predict.py")
    assert packages == {"numpy", "onnxruntime", "PIL"}
    assert len(files) == 1


@pytest.mark.parametrize("script", [file.stem for file in sorted(SCRIPTS.glob("*.py"))])
def test_only_jobs_that_train_prune_export_or_time_pytorch_import_it(script):
    assert bool(reached(SCRIPTS / f"{script}.py")[1] & TORCH) == (script in WITH_TORCH.split())
