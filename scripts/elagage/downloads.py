"""torchvision's data sets: downloaded once into the study, compared with known checksums, and read in place."""

import gzip
import hashlib
import http.client
import io
import math
import os
import pathlib
import pickle
import struct
import tarfile

import numpy

from elagage.errors import UserError
from elagage.files import sha256, whole_file

Labelled = tuple[numpy.ndarray, numpy.ndarray]  # uint8 [n, height, width(, 3)], int64 [n]

# CIFAR: `file_hash` in keras/src/datasets/cifar10.py and cifar100.py of Keras. Fashion-MNIST:
# url_checksums/fashion_mnist.txt of tensorflow_datasets. torchvision knows the archives by MD5 only.
SHA256 = {
    "cifar-10-python.tar.gz": "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "cifar-100-python.tar.gz": "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}

# Each name in the pickle of a NumPy 1 array -> the object that it stands for in NumPy 2.
ARRAY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): numpy.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): numpy.ndarray,
    ("numpy", "dtype"): numpy.dtype,
}


def read_downloaded(name: str, path: str) -> tuple[Labelled, Labelled, list[str]]:
    """Return the training images, the test images and the class names of CIFAR10, CIFAR100 or FashionMNIST.

    Files that are below `path` in torchvision's layout, packed or unpacked, are used; others are downloaded. Archives
    are read in place. Raises UserError if a file is damaged, or is missing and cannot be downloaded.
    """
    import torchvision

    read = _fashion_mnist if name == "FashionMNIST" else _cifar
    return read(getattr(torchvision.datasets, name), pathlib.Path(os.path.expanduser(path)))


def _cifar(source: type, root: pathlib.Path) -> tuple[Labelled, Labelled, list[str]]:
    contents = _cifar_contents(source, root)
    parts = []
    for pieces in (source.train_list, source.test_list):
        batches = [_unpickled(contents.pop(file)) for file, _ in pieces]
        rows = numpy.concatenate([batch["data"] for batch in batches])
        labels = [batch["labels"] if "labels" in batch else batch["fine_labels"] for batch in batches]
        images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append((images, numpy.concatenate(labels).astype(numpy.int64)))
    return *parts, _unpickled(contents[source.meta["filename"]])[source.meta["key"]]


def _cifar_contents(source: type, root: pathlib.Path) -> dict[str, bytes]:
    """Return the content of each file: from the unpacked folder if it has all of them, else from the archive.

    The checksum of the archive holds for all that is in it; unpacked files are compared with torchvision's MD5 of each.
    """
    checksums = dict(source.train_list + source.test_list) | {source.meta["filename"]: source.meta["md5"]}
    unpacked = {file: root / source.base_folder / file for file in checksums}
    if not all(path.is_file() for path in unpacked.values()):
        archive = _downloaded(source, root, source.filename, source.url, source.tgz_md5)
        # One pass: in a compressed archive, going back means starting again.
        with tarfile.open(archive) as tar:
            return {pathlib.Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isreg()}
    contents = {file: path.read_bytes() for file, path in unpacked.items()}
    for file, content in contents.items():
        checksum = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if checksum != checksums[file]:
            raise _damaged(unpacked[file], f"its MD5 checksum is {checksum}, not {checksums[file]}")
    return contents


class _Unpickler(pickle.Unpickler):
    """Reads numbers, texts, lists, tables and arrays; a pickle can call nothing else."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"CIFAR's file calls {module}.{name}; nothing was executed")
        return ARRAY_NAMES[module, name]


def _unpickled(content: bytes) -> dict:
    # Python 2 wrote the files: its strings are bytes, which latin1 maps to the characters of the same numbers.
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


def _fashion_mnist(source: type, root: pathlib.Path) -> tuple[Labelled, Labelled, list[str]]:
    parts = []
    for prefix in ("train", "t10k"):
        _, images = _idx(source, root, f"{prefix}-images-idx3-ubyte", 28, 28)
        file, labels = _idx(source, root, f"{prefix}-labels-idx1-ubyte")
        if len(labels) != len(images):
            raise _damaged(file, f"it has {len(labels)} labels, for {len(images)} images")
        if labels.max() >= len(source.classes):
            raise _damaged(file, f"it has the label {labels.max()}, for {len(source.classes)} classes from 0")
        parts.append((images, labels.astype(numpy.int64)))
    return *parts, list(source.classes)


def _idx(source: type, root: pathlib.Path, name: str, *shape: int) -> tuple[pathlib.Path, numpy.ndarray]:
    """Return the path of a file in the format of MNIST and its values, uint8 [n, *shape], n at least 1.

    It is the unpacked file if that is there, else the archive. torchvision has no checksum of the unpacked file, so its
    length and header are compared with the format, http://yann.lecun.com/exdb/mnist/. Raises UserError if they differ.
    """
    folder = pathlib.Path(source.__name__, "raw")
    file = root / folder / name
    if file.is_file():
        content = file.read_bytes()
    else:
        packed = f"{name}.gz"
        file = _downloaded(source, root, folder / packed, source.mirrors[0] + packed, dict(source.resources)[packed])
        content = gzip.decompress(file.read_bytes())
    start = 4 * (2 + len(shape))
    count, rest = divmod(len(content) - start, math.prod(shape))
    # 8 stands for unsigned bytes; then the number of dimensions, and each dimension.
    layout, type_code = f">{2 + len(shape)}I", 8 << 8 | 1 + len(shape)
    if count < 1 or rest or content[:start] != struct.pack(layout, type_code, count, *shape):
        raise _damaged(file, f"it has {len(content)} bytes and begins with {content[:start].hex(' ', 4)!r}")
    return file, numpy.frombuffer(content, numpy.uint8, offset=start).reshape(-1, *shape)


def _downloaded(source: type, root: pathlib.Path, file: str | os.PathLike, url: str, md5: str) -> pathlib.Path:
    """Return the path of an archive below `root`, downloaded unless it is there, its SHA-256 checksum compared."""
    from torchvision.datasets.utils import download_url

    archive = root / file
    if not archive.exists():
        if root.is_absolute() or ".." in root.parts:
            raise UserError(
                f"dataset.path: {source.__name__} is not complete in {str(root)!r}, and nothing is downloaded to a "
                f"folder outside the study; put {url} there as {archive}, or set dataset.path to a folder in the "
                f"study, such as data"
            )
        with whole_file(archive) as temporary:
            try:
                # Absolute, because torchvision takes a leading ~ for the home directory.
                download_url(url, temporary.parent.absolute(), temporary.name, md5)
            except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
                raise UserError(
                    f"dataset.name: {source.__name__} could not be downloaded to dataset.path {str(root)!r} ({error}); "
                    f"check the network, or put {url} there by hand as {archive}"
                ) from error
    checksum = sha256(archive)
    if checksum != SHA256[archive.name]:
        raise _damaged(archive, f"its SHA-256 checksum is {checksum}, not {SHA256[archive.name]}")
    return archive


def _damaged(file: pathlib.Path, why: str) -> UserError:
    return UserError(
        f"{file}: damaged, or not torchvision's file ({why}); delete it, so that it is downloaded again, "
        f"or put a good copy there"
    )
