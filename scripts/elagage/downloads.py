"""torchvision's data sets: downloaded once into the study, checked, and read without running anything in them."""

import functools
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
from collections.abc import Callable, Sequence

import numpy

from elagage.errors import UserError
from elagage.files import whole_file

Labelled = tuple[numpy.ndarray, numpy.ndarray]  # uint8 [n, height, width(, 3)], int64 [n]

# All that a pickled array names; numpy 2 renamed core to _core.
ARRAY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


def read_downloaded(name: str, path: str) -> tuple[Labelled, Labelled, list[str]]:
    """Return the training images, the test images and the class names of CIFAR10, CIFAR100 or FashionMNIST.

    Files that are below `path` in torchvision's layout, packed or unpacked, are used; others are downloaded. Archives
    are read in place, so that no name inside one ever becomes a path. Raises UserError if a file is damaged, or is
    missing and cannot be downloaded.
    """
    import torchvision

    read = _fashion_mnist if name == "FashionMNIST" else _cifar
    return read(getattr(torchvision.datasets, name), pathlib.Path(os.path.expanduser(path)))


def _cifar(source: type, root: pathlib.Path) -> tuple[Labelled, Labelled, list[str]]:
    contents = _cifar_contents(source, root)
    names = functools.partial(_class_names, key=source.meta["key"])
    classes = _parsed(names, *contents[source.meta["filename"]])
    batch = functools.partial(_cifar_batch, classes=len(classes))
    parts = []
    for pieces in (source.train_list, source.test_list):
        batches = [_parsed(batch, *contents.pop(file)) for file, _ in pieces]
        parts.append(tuple(map(numpy.concatenate, zip(*batches, strict=True))))
    return *parts, classes


def _cifar_contents(source: type, root: pathlib.Path) -> dict[str, tuple[str, bytes]]:
    """Return each file as errors call it and its content: from the folder if it has all files, else from the archive.

    Raises UserError if one is not the file that torchvision knows by its MD5 checksum.
    """
    checksums = dict(source.train_list + source.test_list) | {source.meta["filename"]: source.meta["md5"]}
    unpacked = {file: root / source.base_folder / file for file in checksums}
    if all(path.is_file() for path in unpacked.values()):
        contents = {file: (str(path), path.read_bytes()) for file, path in unpacked.items()}
    else:
        archive = _downloaded(source, root, source.filename, source.url, source.tgz_md5)
        members = {f"{source.base_folder}/{file}": file for file in checksums}
        try:
            # One pass: in a compressed archive, going back means starting again.
            with tarfile.open(archive) as tar:
                contents = {
                    members[member.name]: (f"{archive}, {member.name}", tar.extractfile(member).read())
                    for member in tar
                    if member.isreg() and member.name in members
                }
        except Exception as error:  # damaged files raise of every kind
            raise _damaged(archive, error) from error
        for member, file in members.items():
            if file not in contents:
                raise _damaged(archive, f"it has no file {member}")
    for file, (shown, content) in contents.items():
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != checksums[file]:
            raise _damaged(shown, f"its MD5 checksum is {found}, not {checksums[file]}")
    return contents


def _fashion_mnist(source: type, root: pathlib.Path) -> tuple[Labelled, Labelled, list[str]]:
    parts = []
    for prefix in ("train", "t10k"):
        images = _parsed(_idx_images, *_idx_content(source, root, f"{prefix}-images-idx3-ubyte"))
        labels = functools.partial(_idx_labels, images=len(images), classes=len(source.classes))
        parts.append((images, _parsed(labels, *_idx_content(source, root, f"{prefix}-labels-idx1-ubyte"))))
    return *parts, list(source.classes)


def _idx_content(source: type, root: pathlib.Path, name: str) -> tuple[str, bytes]:
    """Return a file as errors call it and its content: of the unpacked file if it is there, else from the archive."""
    folder = pathlib.Path(source.__name__, "raw")
    unpacked = root / folder / name
    if unpacked.is_file():
        return str(unpacked), unpacked.read_bytes()
    packed = f"{name}.gz"
    url = source.mirrors[0] + packed
    archive = _downloaded(source, root, folder / packed, url, dict(source.resources)[packed])
    return str(archive), _parsed(gzip.decompress, str(archive), archive.read_bytes())


def _downloaded(source: type, root: pathlib.Path, file: str | os.PathLike, url: str, md5: str) -> pathlib.Path:
    """Return the path of an archive below `root`, downloaded unless it is there, its checksum checked."""
    from torchvision.datasets.utils import check_integrity, download_url

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
    if not check_integrity(archive, md5):
        raise _damaged(archive, f"its MD5 checksum is not {md5}")
    return archive


def _damaged(file: str | os.PathLike, why: str | Exception) -> UserError:
    if isinstance(why, Exception):
        why = " ".join(f"{type(why).__name__}: {why}".split())  # some texts have several lines
    return UserError(
        f"{file}: damaged, or not torchvision's file ({why}); delete it, so that it is downloaded again, "
        f"or put a good copy there"
    )


def _parsed(parse: Callable, shown: str, content: bytes):
    """Return what `parse` makes of the content of a file; any error becomes a UserError that names the file."""
    try:
        return parse(content)
    except Exception as error:  # damaged files raise of every kind
        raise _damaged(shown, error) from error


class _Note:
    """Stands in for numpy's array and dtype: keeps what a pickle says of them, and does nothing.

    Numpy's own believe the pickle: one that calls an array of objects plain makes them follow any pointer in it.
    """

    def __init__(self, *arguments):
        self.arguments = arguments

    def __setstate__(self, state):
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads numbers, texts, lists and tables, and arrays as notes; a pickle can call nothing else."""

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in ARRAY_NAMES:
            raise pickle.UnpicklingError(f"it calls {f'{module}.{name}'[:100]!r}; nothing was executed")
        return _Note


def _unpickled(content: bytes) -> dict:
    # Python 2 wrote the files: its strings are bytes, which latin1 maps to the characters of the same numbers.
    return _Unpickler(io.BytesIO(content), encoding="latin1").load()


def _class_names(content: bytes, key: str) -> list[str]:
    names = _unpickled(content)[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} is no list of names")
    return names


def _cifar_batch(content: bytes, classes: int) -> Labelled:
    """Return images uint8 [n, 32, 32, 3] and labels of one pickled batch."""
    table = _unpickled(content)
    _, _, dtype, fortran_order, pixels = table["data"].state
    if dtype.arguments[0] != "u1":
        raise ValueError(f"pixels of type {dtype.arguments[0]!r}, not 'u1'")
    pixels = pixels.encode("latin1") if isinstance(pixels, str) else pixels
    rows = numpy.frombuffer(pixels, numpy.uint8).reshape((-1, 3 * 32 * 32), order="F" if fortran_order else "C")
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, _labels(table["labels"] if "labels" in table else table["fine_labels"], len(images), classes)


def _idx(content: bytes, *shape: int) -> numpy.ndarray:
    """Return the values, uint8 [n, *shape], of a file in the format of MNIST, http://yann.lecun.com/exdb/mnist/.

    Raises ValueError if its header says anything else, or not the length of the content.
    """
    dimensions = 1 + len(shape)
    start = 4 * (1 + dimensions)
    if len(content) < start:
        raise ValueError(f"it has {len(content)} bytes, its header {start}")
    magic, count, *rest = struct.unpack_from(f">{1 + dimensions}I", content)
    # 8 stands for unsigned bytes.
    if magic != 8 << 8 | dimensions or tuple(rest) != shape:
        raise ValueError(f"its header is {content[:start].hex(' ', 4)}")
    if len(content) - start != count * math.prod(shape):
        raise ValueError(f"it has {len(content) - start} bytes of values, its header says {count * math.prod(shape)}")
    return numpy.frombuffer(content, numpy.uint8, offset=start).reshape(count, *shape)


def _idx_images(content: bytes) -> numpy.ndarray:
    return _idx(content, 28, 28)


def _idx_labels(content: bytes, images: int, classes: int) -> numpy.ndarray:
    return _labels(_idx(content), images, classes)


def _labels(values: Sequence[int], images: int, classes: int) -> numpy.ndarray:
    """Return labels as int64 [images]; raises ValueError unless there is one of a class for each image."""
    labels = numpy.array(values, numpy.int64)
    if labels.shape != (images,) or not images:
        raise ValueError(f"{images} images have labels of shape {labels.shape}")
    if not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"its labels are {labels.min()} to {labels.max()}, for {classes} classes")
    return labels
