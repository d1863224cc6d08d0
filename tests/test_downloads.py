"""torchvision's data sets: read as they are, downloaded into the study only, and never trusted with code or paths."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import pathlib
import pickle
import shutil
import struct
import tarfile
import threading

import numpy
import pytest

from elagage.downloads import read_downloaded
from elagage.errors import UserError

# torchvision takes seconds to import: let one worker do it.
pytestmark = pytest.mark.xdist_group("torchvision")

CLASSES = ("ant", "bee", "cow")
NAMES = ["CIFAR10", "CIFAR100", "FashionMNIST"]


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 did, in which the data sets were pickled."""

    def save_string(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}


def python2_pickle(content: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty folder for a study, where every test runs; only servers on this machine can be reached."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    folder = tmp_path / "study"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def md5(path: pathlib.Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def raw(count: int, shape: tuple[int, ...], seed: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    images = numpy.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=numpy.uint8)
    return images, numpy.arange(count) % len(CLASSES)


def classes_of(name: str):
    import torchvision

    return getattr(torchvision.datasets, name)


def write_cifar(path: pathlib.Path, name: str, monkeypatch, dump=python2_pickle) -> list:
    """Write a small unpacked data set in CIFAR's format, known to torchvision; return its parts' images and labels."""
    cifar = classes_of(name)
    folder = path / cifar.base_folder
    folder.mkdir(parents=True)
    parts = [raw(30, (32, 32, 3), 0), raw(9, (32, 32, 3), 1)]
    for (images, labels), pieces in zip(parts, (cifar.train_list, cifar.test_list), strict=True):
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for (file, _), chosen in zip(pieces, numpy.array_split(numpy.arange(len(labels)), len(pieces)), strict=True):
            labels_key = "fine_labels" if name == "CIFAR100" else "labels"
            (folder / file).write_bytes(dump({"data": rows[chosen], labels_key: labels[chosen].tolist()}))
    (folder / cifar.meta["filename"]).write_bytes(dump({cifar.meta["key"]: list(CLASSES)}))
    know(folder, name, monkeypatch)
    return parts


def know(folder: pathlib.Path, name: str, monkeypatch) -> None:
    """Make torchvision expect the checksums of the unpacked files as they are: an attacker's who can forge MD5."""
    cifar = classes_of(name)
    for kind in ("train_list", "test_list"):
        monkeypatch.setattr(cifar, kind, [[file, md5(folder / file)] for file, _ in getattr(cifar, kind)])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": md5(folder / cifar.meta["filename"])})


def pack_cifar(path: pathlib.Path, name: str, monkeypatch, change=lambda tar: None) -> pathlib.Path:
    """Put the unpacked files into an archive known to torchvision, with what `change` adds; return the archive."""
    cifar = classes_of(name)
    archive = path / cifar.filename
    with tarfile.open(archive, "w:gz") as tar:
        change(tar)
        for file in (path / cifar.base_folder).iterdir():
            if f"{cifar.base_folder}/{file.name}" not in tar.getnames():
                tar.add(file, f"{cifar.base_folder}/{file.name}")
    shutil.rmtree(path / cifar.base_folder)
    monkeypatch.setattr(cifar, "tgz_md5", md5(archive))
    return archive


def idx(array: numpy.ndarray) -> bytes:
    # http://yann.lecun.com/exdb/mnist/: unsigned bytes (8), number of dimensions, each dimension, values.
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(numpy.uint8).tobytes()


def write_fashion_mnist(path: pathlib.Path, monkeypatch) -> list:
    """Write the archives of a small data set in Fashion-MNIST's format, as write_cifar does."""
    folder = path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    parts = [raw(30, (28, 28), 0), raw(9, (28, 28), 1)]
    for prefix, part in zip(("train", "t10k"), parts, strict=True):
        for kind, array in zip(("images-idx3", "labels-idx1"), part, strict=True):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    resources = [(file.name, md5(file)) for file in folder.iterdir()]
    monkeypatch.setattr(classes_of("FashionMNIST"), "resources", resources)
    monkeypatch.setattr(classes_of("FashionMNIST"), "classes", list(CLASSES))
    return parts


def write_packed(name: str, path: pathlib.Path, monkeypatch) -> list:
    if name == "FashionMNIST":
        return write_fashion_mnist(path, monkeypatch)
    parts = write_cifar(path, name, monkeypatch)
    pack_cifar(path, name, monkeypatch)
    return parts


def write_unpacked(name: str, path: pathlib.Path, monkeypatch) -> list:
    if name != "FashionMNIST":
        return write_cifar(path, name, monkeypatch)
    parts = write_fashion_mnist(path, monkeypatch)
    for archive in (path / "FashionMNIST/raw").glob("*.gz"):
        archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
        archive.unlink()
    return parts


def tree(folder: pathlib.Path) -> dict[str, bytes | None]:
    """Return every path below a folder with the content of files."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_read(name: str, path: str | os.PathLike, parts: list) -> None:
    train, test, classes = read_downloaded(name, str(path))
    assert classes == list(CLASSES)
    for (images, labels), (expected_images, expected_labels) in zip((train, test), parts, strict=True):
        assert (images.dtype, labels.dtype) == (numpy.uint8, numpy.int64)
        assert numpy.array_equal(images, expected_images)
        assert numpy.array_equal(labels, expected_labels)


def refused(name: str, path: str | os.PathLike, *words: str) -> None:
    """Assert that reading the data set says each of the words, in one line, and changes no file."""
    before = tree(pathlib.Path(".."))
    with pytest.raises(UserError) as error:
        read_downloaded(name, str(path))
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    assert "\n" not in str(error.value)
    files = {path: content for path, content in tree(pathlib.Path("..")).items() if content is not None}
    assert files == {path: content for path, content in before.items() if content is not None}


# --- files that are there


@pytest.mark.parametrize("place", ["data", "../shared", "/", "~/shared"])
@pytest.mark.parametrize("write", [write_packed, write_unpacked])
@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_there_are_read_where_they_are(tmp_path, monkeypatch, name, write, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    path = str(tmp_path / "absolute") if place == "/" else place
    parts = write(name, pathlib.Path(path).expanduser(), monkeypatch)
    before = tree(tmp_path)
    assert_read(name, path, parts)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("dump", [python2_pickle, functools.partial(pickle.dumps, protocol=4)])
@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_arrays_are_read_as_numpy_1_and_2_pickle_them(monkeypatch, name, dump):
    assert_read(name, "data", write_cifar(pathlib.Path("data"), name, monkeypatch, dump))


def test_an_array_in_the_order_of_fortran_is_read(monkeypatch):
    def dump(content: dict) -> bytes:
        return python2_pickle(
            {key: numpy.asfortranarray(value) if key == "data" else value for key, value in content.items()}
        )

    parts = write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch, dump)
    assert_read("CIFAR10", "data", parts)


# --- downloads


@pytest.fixture
def server(tmp_path):
    """Serve the folder `served` on a free port; return its address."""
    (tmp_path / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def serve(name: str, address: str, served: pathlib.Path, monkeypatch) -> list:
    """Put a data set's archives on the server and tell torchvision so."""
    parts = write_packed(name, served, monkeypatch)
    if name == "FashionMNIST":
        monkeypatch.setattr(classes_of(name), "mirrors", [f"{address}FashionMNIST/raw/"])
    else:
        monkeypatch.setattr(classes_of(name), "url", address + classes_of(name).filename)
    return parts


@pytest.mark.parametrize("path", ["data", "some/folder", "./~/data"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_downloaded_into_the_study_and_kept(tmp_path, monkeypatch, server, name, path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    parts = serve(name, server, tmp_path / "served", monkeypatch)
    assert_read(name, path, parts)
    archives = [file.relative_to(tmp_path / "served") for file in (tmp_path / "served").rglob("*.gz")]
    found = [file.relative_to(path) for file in pathlib.Path(path).rglob("*") if file.is_file()]
    assert sorted(found) == sorted(archives)
    assert not (tmp_path / "home").exists()
    shutil.rmtree(tmp_path / "served")
    assert_read(name, path, parts)


@pytest.mark.parametrize("name", NAMES)
def test_a_download_goes_where_the_users_own_link_in_the_study_leads(tmp_path, monkeypatch, server, name):
    parts = serve(name, server, tmp_path / "served", monkeypatch)
    (tmp_path / "large_disk").mkdir()
    pathlib.Path("data").symlink_to(tmp_path / "large_disk")
    assert_read(name, "data", parts)
    assert list((tmp_path / "large_disk").rglob("*.gz"))


@pytest.mark.parametrize("place", ["absolute", "..", "data/../../shared", "data/..", "~/data", "~"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_downloaded_outside_the_study(tmp_path, monkeypatch, server, name, place):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    serve(name, server, tmp_path / "served", monkeypatch)
    path = str(tmp_path / "absolute") if place == "absolute" else place
    refused(name, path, "dataset.path", "outside the study", server, "in the study, such as data")
    assert sorted(os.listdir(tmp_path)) == ["served", "study"]
    assert not os.listdir()


@pytest.mark.parametrize("name", NAMES)
def test_a_download_without_a_network_says_where_to_put_files_by_hand(name):
    refused(name, "data", f"dataset.name: {name}", "dataset.path 'data'", "network", "by hand as data/")


@pytest.mark.parametrize("name", NAMES)
def test_a_download_that_is_not_the_expected_file_is_refused(tmp_path, monkeypatch, server, name):
    serve(name, server, tmp_path / "served", monkeypatch)
    for archive in (tmp_path / "served").rglob("*.gz"):
        archive.write_bytes(b"<html>Sign in to the network of this hotel</html>")
    refused(name, "data", f"dataset.name: {name}", "corrupted", "network")


# --- damaged files


PACKED = {
    "CIFAR10": "cifar-10-python.tar.gz",
    "CIFAR100": "cifar-100-python.tar.gz",
    "FashionMNIST": "FashionMNIST/raw/t10k-images-idx3-ubyte.gz",
}
UNPACKED = {
    "CIFAR10": "cifar-10-batches-py/data_batch_3",
    "CIFAR100": "cifar-100-python/train",
    "FashionMNIST": "FashionMNIST/raw/t10k-images-idx3-ubyte",
}
DAMAGE = {
    "empty": lambda content: b"",
    "short": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "one byte more": lambda content: content + b"\0",
    "another file": lambda content: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("write, files", [(write_packed, PACKED), (write_unpacked, UNPACKED)])
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_and_kept(monkeypatch, name, write, files, damage):
    write(name, pathlib.Path("data"), monkeypatch)
    file = pathlib.Path("data", files[name])
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    refused(name, "data", f"data/{files[name]}: damaged", "delete it", "good copy")


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_archive_with_the_expected_checksum_is_named(monkeypatch, name):
    write_packed(name, pathlib.Path("data"), monkeypatch)
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda path, md5: True)
    file = pathlib.Path("data", PACKED[name])
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
    refused(name, "data", f"data/{PACKED[name]}", "damaged")


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_an_archive_without_one_of_the_files_is_named(monkeypatch, name):
    write_cifar(pathlib.Path("data"), name, monkeypatch)
    pathlib.Path("data", UNPACKED[name]).unlink()
    pack_cifar(pathlib.Path("data"), name, monkeypatch)
    refused(name, "data", f"data/{PACKED[name]}: damaged", UNPACKED[name])


def test_an_incomplete_folder_gives_way_to_the_archive(monkeypatch):
    parts = write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    shutil.copytree("data", "copy")
    pack_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    shutil.copytree("copy", "data", dirs_exist_ok=True)
    pathlib.Path("data", UNPACKED["CIFAR10"]).unlink()
    assert_read("CIFAR10", "data", parts)


# --- hostile archives: all have the checksum that is expected


def member(name: str, link: str | None = None, kind: bytes = tarfile.SYMTYPE):
    """Return what adds a member to a tar archive: a file with a text, or a link."""

    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        if link is None:
            info.size = 5
            tar.addfile(info, io.BytesIO(b"trap\n"))
        else:
            info.type, info.linkname = kind, link
            tar.addfile(info)

    return add


FOLDER = "cifar-10-batches-py"
HOSTILE_MEMBERS = {
    "parent": [member("../trap")],
    "parent of the folder": [member(f"{FOLDER}/../../trap")],
    "absolute": [member("/tmp/elagage_trap")],
    "link out": [member("out", ".."), member("out/trap")],
    "absolute link": [member(f"{FOLDER}/out", "/tmp"), member(f"{FOLDER}/out/elagage_trap")],
    "folder that is a link": [member(FOLDER, "../..")],
    "hard link": [member("passwd", "/etc/passwd", tarfile.LNKTYPE)],
    "device": [member("null", "", tarfile.CHRTYPE)],
    "pipe": [member("pipe", "", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("members", HOSTILE_MEMBERS.values(), ids=HOSTILE_MEMBERS)
def test_an_archive_writes_nothing_anywhere(tmp_path, monkeypatch, members):
    parts = write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    pack_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch, lambda tar: [add(tar) for add in members])
    before = tree(tmp_path)
    assert_read("CIFAR10", "data", parts)
    assert tree(tmp_path) == before
    assert not os.path.exists("/tmp/elagage_trap")


@pytest.mark.parametrize("link", ["/etc/passwd", "../../../etc/passwd", "data_batch_1"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_a_link_in_an_archive_does_not_stand_for_a_file(monkeypatch, link, kind):
    write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    pack_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch, member(f"{FOLDER}/test_batch", link, kind))
    refused("CIFAR10", "data", "data/cifar-10-python.tar.gz: damaged", f"no file {FOLDER}/test_batch")


# --- hostile pickles: all have the checksum that is expected


def call(module: str, name: str, *arguments: str) -> bytes:
    """Return a pickle that calls module.name with texts."""
    opened = b"".join(b"X" + struct.pack("<I", len(text)) + text.encode() for text in arguments)
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + opened + b"tR."


def array_pickle(flags: int, kind: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """Return a batch whose array has a dtype, flags of the dtype, a shape and bytes that need not fit together."""

    class Dtype:
        def __reduce__(self):
            return numpy.dtype, (kind, False, True), (3, "|", None, None, None, -1, -1, flags)

    class Array:
        def __reduce__(self):
            state = (1, shape, Dtype(), False, content)
            return numpy._core.multiarray._reconstruct, (numpy.ndarray, (0,), b"b"), state

    return pickle.dumps({"data": Array(), "labels": [0, 1, 2]}, protocol=4)


def batch(rows: object, labels: object) -> bytes:
    return python2_pickle({"data": rows, "labels": labels})


ROWS = numpy.zeros((3, 3072), numpy.uint8)
HOSTILE_PICKLES = {
    "shell": (call("os", "system", "touch executed"), "'os.system'"),
    "shell of Python 2": (call("posix", "system", "touch executed"), "'posix.system'"),
    "eval": (call("builtins", "eval", "open('executed', 'w')"), "'builtins.eval'"),
    "eval of Python 2": (call("__builtin__", "eval", "open('executed', 'w')"), "'__builtin__.eval'"),
    "file": (call("io", "open", "executed", "w"), "'io.open'"),
    "numpy's file": (call("numpy", "memmap", "executed"), "'numpy.memmap'"),
    "numpy's pickles": (call("numpy", "load", "executed"), "'numpy.load'"),
    "a method": (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "'numpy.ndarray.tofile'"),
    "a module's module": (b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.", "'numpy.os.system'"),
    "neighbour": (call("numpy.core.multiarray", "fromfile", "executed"), "'numpy.core.multiarray.fromfile'"),
    "control characters": (call("\x1b[2J", "x"), r"'\x1b[2J.x'"),
    "long name": (call("x" * 10_000, "y"), "x" * 100 + "'"),
    "extension": (b"\x80\x02\x82\x01.", "extension code"),
    "persistent": (b"\x80\x02X\x01\0\0\0xQ.", "persistent"),
    "wild pointers": (array_pickle(0, "O", (3072,), b"A" * 8 * 3072), "'O'"),
    "larger shape": (array_pickle(0, "u1", (2**40, 3072), b"A" * 3071), "3071"),
    "no dictionary": (python2_pickle([1, 2]), "TypeError"),
    "an array alone": (python2_pickle(ROWS), "_Note"),
    "no array": (batch([1, 2], [0, 1]), "'list'"),
    "no data": (python2_pickle({"labels": [0]}), "'data'"),
    "no labels": (python2_pickle({"data": ROWS}), "labels"),
    "floats": (batch(ROWS.astype(numpy.float64), [0, 1, 2]), "'f8'"),
    "other images": (batch(ROWS[:, :-1], [0, 1, 2]), "3072"),
    "no image": (batch(ROWS[:0], []), "0 images"),
    "few labels": (batch(ROWS, [0, 1]), "3 images have labels of shape (2,)"),
    "many labels": (batch(ROWS, [0, 1, 2, 0]), "3 images have labels of shape (4,)"),
    "deep labels": (batch(ROWS, [[0], [1], [2]]), "3 images have labels of shape (3, 1)"),
    "label without class": (batch(ROWS, [0, 1, 3]), "its labels are 0 to 3, for 3 classes"),
    "negative label": (batch(ROWS, [0, -1, 2]), "its labels are -1 to 2"),
    "huge label": (batch(ROWS, [0, 10**30, 2]), "OverflowError"),
    "text as label": (batch(ROWS, ["a", "b", "c"]), "'a'"),
    "array as labels": (batch(ROWS, numpy.zeros(3, numpy.int64)), "_Note"),
    "empty": (b"", "EOFError"),
    "zeros": (b"\0" * 100, "UnpicklingError"),
    "truncated": (batch(ROWS, [0, 1, 2])[:5000], "truncated"),
    "end of stack": (b"\x80\x02.", "UnpicklingError"),
}


@pytest.mark.parametrize("content, word", HOSTILE_PICKLES.values(), ids=HOSTILE_PICKLES)
def test_a_hostile_pickle_is_named_and_runs_nothing(monkeypatch, content, word):
    write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    file = pathlib.Path("data", UNPACKED["CIFAR10"])
    file.write_bytes(content)
    know(file.parent, "CIFAR10", monkeypatch)
    refused("CIFAR10", "data", f"{file}: damaged", word, "delete it")
    assert not os.path.exists("executed")


@pytest.mark.parametrize(
    "content, word",
    [
        (call("os", "system", "touch executed"), "'os.system'"),
        (python2_pickle({}), "'label_names'"),
        (python2_pickle({"label_names": 3}), "label_names is no list of names"),
        (python2_pickle({"label_names": ["ant", 3]}), "label_names is no list of names"),
        (python2_pickle({"label_names": numpy.zeros(3)}), "label_names is no list of names"),
    ],
)
def test_hostile_class_names_are_refused(monkeypatch, content, word):
    write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    file = pathlib.Path("data", FOLDER, "batches.meta")
    file.write_bytes(content)
    know(file.parent, "CIFAR10", monkeypatch)
    refused("CIFAR10", "data", f"{file}: damaged", word)


def test_a_hostile_pickle_in_an_archive_names_the_archive(monkeypatch):
    write_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    file = pathlib.Path("data", UNPACKED["CIFAR10"])
    file.write_bytes(call("os", "system", "touch executed"))
    know(file.parent, "CIFAR10", monkeypatch)
    archive = pack_cifar(pathlib.Path("data"), "CIFAR10", monkeypatch)
    refused("CIFAR10", "data", f"{archive}, {UNPACKED['CIFAR10']}: damaged", "'os.system'")
    assert not os.path.exists("executed")


# --- hostile files of Fashion-MNIST, whose unpacked files torchvision knows no checksums of


IMAGES, LABELS = (numpy.zeros((30, 28, 28)), numpy.arange(30) % len(CLASSES))
HOSTILE_IDX = {
    **{f"{length} bytes of images": ("images-idx3", idx(IMAGES)[:length], "bytes") for length in (0, 3, 4, 15, 16, 20)},
    **{f"{length} bytes of labels": ("labels-idx1", idx(LABELS)[:length], "bytes") for length in (0, 3, 4, 7, 8, 20)},
    "images beyond memory": ("images-idx3", struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), "says 3367254359280"),
    "sizes that overflow": ("images-idx3", struct.pack(">4I", 0x803, 2**31, 2**31, 4), "header"),
    "labels beyond memory": ("labels-idx1", struct.pack(">2I", 0x801, 2**32 - 1), "says 4294967295"),
    "longer than it says": ("images-idx3", idx(IMAGES) + b"\0", "its header says 23520"),
    "oblong images": ("images-idx3", idx(IMAGES.reshape(30, 14, 56)), "header"),
    "flat images": ("images-idx3", idx(IMAGES.reshape(30, 784)), "header"),
    "many dimensions": ("images-idx3", b"\0\0\x08\xff" + b"\0\0\0\1" * 255, "header"),
    "unknown type": ("images-idx3", b"\0\0\x0a" + idx(IMAGES)[3:], "header"),
    "floats": ("images-idx3", b"\0\0\x0d" + idx(IMAGES)[3:], "header"),
    "other byte order": ("images-idx3", struct.pack("<4I", 0x803, 30, 28, 28) + bytes(30 * 784), "header"),
    "labels as images": ("images-idx3", idx(LABELS), "header"),
    "images as labels": ("labels-idx1", idx(IMAGES), "header"),
    "few labels": ("labels-idx1", idx(LABELS[:-1]), "30 images have labels of shape (29,)"),
    "label without class": ("labels-idx1", idx(LABELS + 1), "its labels are 1 to 3, for 3 classes"),
    "archive": ("images-idx3", gzip.compress(idx(IMAGES)), "header"),
}


@pytest.mark.parametrize("kind, content, word", HOSTILE_IDX.values(), ids=HOSTILE_IDX)
def test_a_hostile_idx_file_is_named(monkeypatch, kind, content, word):
    write_unpacked("FashionMNIST", pathlib.Path("data"), monkeypatch)
    file = pathlib.Path("data/FashionMNIST/raw", f"train-{kind}-ubyte")
    file.write_bytes(content)
    refused("FashionMNIST", "data", f"{file}: damaged", word, "delete it")


def test_no_images_at_all_are_refused(monkeypatch):
    write_unpacked("FashionMNIST", pathlib.Path("data"), monkeypatch)
    for kind, content in (("images-idx3", idx(IMAGES[:0])), ("labels-idx1", idx(LABELS[:0]))):
        pathlib.Path("data/FashionMNIST/raw", f"train-{kind}-ubyte").write_bytes(content)
    refused("FashionMNIST", "data", "0 images")


def test_a_pickle_in_the_place_of_old_versions_of_torchvision_is_not_read(monkeypatch):
    parts = write_unpacked("FashionMNIST", pathlib.Path("data"), monkeypatch)
    for name in ("training.pt", "test.pt"):
        pathlib.Path("data/FashionMNIST/processed").mkdir(exist_ok=True)
        pathlib.Path("data/FashionMNIST/processed", name).write_bytes(call("os", "system", "touch executed"))
    assert_read("FashionMNIST", "data", parts)
    assert not os.path.exists("executed")
