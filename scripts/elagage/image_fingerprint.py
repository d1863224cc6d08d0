"""A checksum of all images of a folder, of which only those that changed are read."""

import concurrent.futures
import contextlib
import hashlib
import pathlib
import stat

from elagage.errors import UserError
from elagage.files import read_json, write_json
from elagage.image_folder import reading_photos, scan_image_folder
from elagage.progress import progress


def image_fingerprint(path: str, known_path: str) -> str:
    """Return a checksum of the names and contents of all image files.

    The JSON file `known_path` keeps the checksum of each file with its size and times, so that only files that are new
    or changed are read; a copied folder is read once and has the fingerprint of the first.
    """
    known, root = _read_known(known_path), pathlib.Path(path)
    files = [file for split in scan_image_folder(path).splits.values() for file, _ in split]
    signatures = {str(file.relative_to(root)): _signature(file) for file in files}
    unread = [name for name, signature in signatures.items() if known.get(name, [None])[:-1] != signature]
    if unread:
        with progress(len(unread), " images", "checksums") as advance, concurrent.futures.ThreadPoolExecutor() as pool:
            checksums = pool.map(_checksum, (root / name for name in unread))
            for name, checksum in zip(unread, checksums, strict=True):
                known[name] = [*signatures[name], checksum]
                advance(1)
        with contextlib.suppress(UserError):  # a folder that may only be read: the next run reads the images again
            write_json(known_path, {name: known[name] for name in signatures})
    digest = hashlib.sha256()
    for name in sorted(signatures):
        digest.update(f"{name} {known[name][-1]}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_known(path: str) -> dict[str, list]:
    try:
        known = read_json(path)
    except (OSError, UserError):
        return {}
    return known if isinstance(known, dict) and all(isinstance(entry, list) for entry in known.values()) else {}


def _signature(file: pathlib.Path) -> list[int]:
    with reading_photos(file):
        status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe or a socket, which would be waited for
        raise UserError(f"configuration: dataset.path: {file}: is no file of pixels; remove it")
    # The time of the last change of content or name cannot be set back, unlike that of the last change of content.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _checksum(file: pathlib.Path) -> str:
    with reading_photos(file):
        return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
