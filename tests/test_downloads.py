"""torchvision's data sets: read as they are, downloaded into the study only, and recognized when they are damaged."""

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

from elagage.downloads import SHA256, read_downloaded
from elagage.errors import UserError
from elagage.files import sha256

CLASSES = ["ant", "bee", "cow"]
LABELS = numpy.arange(30) % len(CLASSES)


def noise(seed: int, *shape: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)


# Images and labels of training and of test.
CIFAR = [(noise(0, 30, 32, 32, 3), LABELS), (noise(1, 9, 32, 32, 3), LABELS[:9])]
FASHION_MNIST = [(noise(0, 30, 28, 28), LABELS), (noise(1, 9, 28, 28), LABELS[:9])]
PARTS = {"CIFAR10": CIFAR, "CIFAR100": CIFAR, "FashionMNIST": FASHION_MNIST}

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


class Python2Pickler(pickle._Pickler):
    """Writes texts, bytes and types of arrays as Python 2 and its NumPy did, which pickled the data sets."""

    def save_string(self, text: str | bytes) -> None:
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {str: save_string, bytes: save_string}

    def reducer_override(self, content: object) -> object:
        if not isinstance(content, numpy.dtype):
            return NotImplemented
        return numpy.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)


def python2_pickle(content: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")


@pytest.fixture(autouse=True)
def study(tmp_path, monkeypatch) -> None:
    """Run each test in an empty folder; only servers on this machine can be reached, and the home directory is new."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")


def source_of(name: str) -> type:
    import torchvision

    return getattr(torchvision.datasets, name)


def md5(path: pathlib.Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def idx(array: numpy.ndarray) -> bytes:
    # http://yann.lecun.com/exdb/mnist/: unsigned bytes (8), number of dimensions, each dimension, values.
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(numpy.uint8).tobytes()


def expect_unpacked(cifar: type, folder: pathlib.Path, monkeypatch) -> None:
    """Make torchvision expect the unpacked files of CIFAR as they are."""
    for kind in ("train_list", "test_list"):
        monkeypatch.setattr(cifar, kind, [[file, md5(folder / file)] for file, _ in getattr(cifar, kind)])
    monkeypatch.setattr(cifar, "meta", cifar.meta | {"md5": md5(folder / cifar.meta["filename"])})


def write_unpacked(name: str, root: pathlib.Path, monkeypatch) -> None:
    """Write a small data set that takes the place of the real one, in the layout and format of torchvision."""
    source = source_of(name)
    if name == "FashionMNIST":
        folder = root / "FashionMNIST/raw"
        folder.mkdir(parents=True)
        monkeypatch.setattr(source, "classes", CLASSES)
        for prefix, (images, labels) in zip(("train", "t10k"), FASHION_MNIST, strict=True):
            (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
            (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels))
        return
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    labels_key = "fine_labels" if name == "CIFAR100" else "labels"
    for (images, labels), pieces in zip(CIFAR, (source.train_list, source.test_list), strict=True):
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for (file, _), chosen in zip(pieces, numpy.array_split(numpy.arange(len(labels)), len(pieces)), strict=True):
            batch = {"data": rows[chosen], labels_key: labels[chosen].tolist()}
            (folder / file).write_bytes(python2_pickle(batch))
    (folder / source.meta["filename"]).write_bytes(python2_pickle({source.meta["key"]: CLASSES}))
    expect_unpacked(source, folder, monkeypatch)


def write_packed(name: str, root: pathlib.Path, monkeypatch) -> None:
    """Write the archives of a small data set, whose checksums are those that are expected from now on."""
    write_unpacked(name, root, monkeypatch)
    source = source_of(name)
    if name == "FashionMNIST":
        for file in list((root / "FashionMNIST/raw").iterdir()):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
    else:
        with tarfile.open(root / source.filename, "w:gz") as tar:
            tar.add(root / source.base_folder, source.base_folder)
        shutil.rmtree(root / source.base_folder)
        monkeypatch.setattr(source, "tgz_md5", md5(root / source.filename))
    archives = list(root.rglob("*.gz"))
    for archive in archives:
        monkeypatch.setitem(SHA256, archive.name, sha256(archive))
    if name == "FashionMNIST":
        monkeypatch.setattr(source, "resources", [(archive.name, md5(archive)) for archive in archives])


def files(folder: pathlib.Path) -> dict[str, bytes]:
    """Return the content of each file below a folder."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_read(name: str, path: str) -> None:
    *parts, classes = read_downloaded(name, path)
    assert classes == CLASSES
    for (images, labels), (expected_images, expected_labels) in zip(parts, PARTS[name], strict=True):
        assert (images.dtype, labels.dtype) == (numpy.uint8, numpy.int64)
        assert numpy.array_equal(images, expected_images)
        assert numpy.array_equal(labels, expected_labels)


def refused(name: str, path: str, *words: str) -> None:
    """Assert that reading the data set says each of the words, in one line, and changes no file."""
    before = files(pathlib.Path(".."))
    with pytest.raises(UserError) as error:
        read_downloaded(name, path)
    for word in words:
        assert word in str(error.value), f"{word!r} is not in: {error.value}"
    assert "\n" not in str(error.value)
    assert files(pathlib.Path("..")) == before


def test_the_checksum_of_every_archive_that_torchvision_names_is_known():
    cifar = {source_of(name).filename for name in ("CIFAR10", "CIFAR100")}
    assert set(SHA256) == cifar | set(dict(source_of("FashionMNIST").resources))


# --- files that are there


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place", ["data", "../shared", "/", "~/shared"])
@pytest.mark.parametrize("write", [write_packed, write_unpacked])
@pytest.mark.parametrize("name", PARTS)
def test_files_that_are_there_are_read_where_they_are(tmp_path, monkeypatch, name, write, place):
    path = str(tmp_path / "absolute") if place == "/" else place
    write(name, pathlib.Path(path).expanduser(), monkeypatch)
    before = files(tmp_path)
    assert_read(name, path)
    assert files(tmp_path) == before


def test_an_incomplete_folder_gives_way_to_the_archive(monkeypatch):
    write_packed("CIFAR10", pathlib.Path("data"), monkeypatch)
    write_unpacked("CIFAR10", pathlib.Path("data"), monkeypatch)
    pathlib.Path("data", UNPACKED["CIFAR10"]).unlink()
    assert_read("CIFAR10", "data")


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


def serve(name: str, address: str, served: pathlib.Path, monkeypatch) -> None:
    """Put a data set's archives on the server and tell torchvision so."""
    write_packed(name, served, monkeypatch)
    if name == "FashionMNIST":
        monkeypatch.setattr(source_of(name), "mirrors", [f"{address}FashionMNIST/raw/"])
    else:
        monkeypatch.setattr(source_of(name), "url", address + source_of(name).filename)


@pytest.mark.parametrize("path", ["data", "some/folder", "./~/data"])
@pytest.mark.parametrize("name", PARTS)
def test_what_is_missing_is_downloaded_into_the_study_and_kept(tmp_path, monkeypatch, server, name, path):
    serve(name, server, tmp_path / "served", monkeypatch)
    assert_read(name, path)
    archives = [file.relative_to(tmp_path / "served") for file in (tmp_path / "served").rglob("*.gz")]
    found = [file.relative_to(path) for file in pathlib.Path(path).rglob("*") if file.is_file()]
    assert sorted(found) == sorted(archives)
    assert not (tmp_path / "home").exists()
    shutil.rmtree(tmp_path / "served")
    assert_read(name, path)


def test_a_download_goes_where_the_users_own_link_in_the_study_leads(tmp_path, monkeypatch, server):
    serve("CIFAR10", server, tmp_path / "served", monkeypatch)
    (tmp_path / "large_disk").mkdir()
    pathlib.Path("data").symlink_to(tmp_path / "large_disk")
    assert_read("CIFAR10", "data")
    assert list((tmp_path / "large_disk").rglob("*.gz"))


@pytest.mark.parametrize("place", ["absolute", "..", "data/../../shared", "data/..", "~/data", "~"])
@pytest.mark.parametrize("name", ["CIFAR10", "FashionMNIST"])
def test_nothing_is_downloaded_outside_the_study(tmp_path, monkeypatch, server, name, place):
    serve(name, server, tmp_path / "served", monkeypatch)
    path = str(tmp_path / "absolute") if place == "absolute" else place
    refused(name, path, "dataset.path", "outside the study", server, "in the study, such as data")
    assert sorted(os.listdir(tmp_path)) == ["served", "study"]
    assert not os.listdir()


@pytest.mark.parametrize("name", PARTS)
def test_a_download_without_a_network_says_where_to_put_files_by_hand(name):
    refused(name, "data", f"dataset.name: {name}", "dataset.path 'data'", "network", "by hand as data/")


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-100], lambda content: b"<html>Sign in to the network of this hotel</html>"]
)
@pytest.mark.parametrize("name", PARTS)
def test_a_download_that_is_cut_short_or_another_file_is_refused(tmp_path, monkeypatch, server, name, damage):
    serve(name, server, tmp_path / "served", monkeypatch)
    for archive in (tmp_path / "served").rglob("*.gz"):
        archive.write_bytes(damage(archive.read_bytes()))
    refused(name, "data", f"dataset.name: {name}", "corrupted", "network")


# --- damaged files


DAMAGE = {
    "empty": lambda content: b"",
    "short": lambda content: content[: len(content) // 2],
    "one byte more": lambda content: content + b"\0",
    "another file": lambda content: b"<html>not found</html>",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("write, written", [(write_packed, PACKED), (write_unpacked, UNPACKED)])
@pytest.mark.parametrize("name", PARTS)
def test_a_damaged_file_is_named_and_kept(monkeypatch, name, write, written, damage):
    write(name, pathlib.Path("data"), monkeypatch)
    file = pathlib.Path("data", written[name])
    file.write_bytes(damage(file.read_bytes()))
    refused(name, "data", f"{file}: damaged", "delete it", "good copy")


@pytest.mark.parametrize("call", [b"cos\nsystem\n", b"cnumpy\nmemmap\n", b"cnumpy.core.multiarray\nfromfile\n"])
def test_a_pickle_that_calls_anything_but_an_array_runs_nothing(monkeypatch, call):
    write_unpacked("CIFAR10", pathlib.Path("data"), monkeypatch)
    file = pathlib.Path("data", UNPACKED["CIFAR10"])
    file.write_bytes(b"\x80\x02" + call + b"(U\x0etouch executedtR.")
    expect_unpacked(source_of("CIFAR10"), file.parent, monkeypatch)
    with pytest.raises(pickle.UnpicklingError, match="nothing was executed"):
        read_downloaded("CIFAR10", "data")
    assert not os.path.exists("executed") and not os.path.exists("touch executed")


# torchvision has no checksums of Fashion-MNIST's unpacked files: their lengths, headers and labels are looked at.
IMAGES = FASHION_MNIST[0][0]
WRONG_IDX = {
    "ends in its header": ("images-idx3", idx(IMAGES)[:16], "16 bytes"),
    "no images": ("images-idx3", idx(IMAGES[:0]), "16 bytes"),
    "shorter than a header": ("labels-idx1", idx(LABELS)[:3], "3 bytes"),
    "whole images missing": ("images-idx3", idx(IMAGES)[: 16 + 20 * 784], "0000001e"),
    "oblong images": ("images-idx3", idx(IMAGES.reshape(30, 14, 56)), "0000000e 00000038"),
    "labels as images": ("images-idx3", idx(LABELS), "00000801"),
    "images as labels": ("labels-idx1", idx(IMAGES), "00000803"),
    "an archive": ("labels-idx1", gzip.compress(idx(LABELS)), "1f8b"),
    "labels missing": ("labels-idx1", idx(LABELS[:-1]), "29 labels, for 30 images"),
    "a label without a class": ("labels-idx1", idx(LABELS + 1), "label 3, for 3 classes"),
}


@pytest.mark.parametrize("kind, content, word", WRONG_IDX.values(), ids=WRONG_IDX)
def test_an_unpacked_file_that_is_not_of_fashion_mnist_is_named(monkeypatch, kind, content, word):
    write_unpacked("FashionMNIST", pathlib.Path("data"), monkeypatch)
    file = pathlib.Path("data/FashionMNIST/raw", f"train-{kind}-ubyte")
    file.write_bytes(content)
    refused("FashionMNIST", "data", f"{file}: damaged", word, "delete it")
