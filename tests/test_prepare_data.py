"""The prepared data: the right pixels with the right labels, split once for all, or an error that names the file."""

import os
import pathlib
import shutil
import struct
import zlib

import numpy
import pytest
from PIL import Image

import prepare_data as prepare_data_module
from elagage.data import SPLITS, Dataset, Split
from elagage.errors import UserError
from elagage.files import read_json, sha256
from elagage.geometry import Geometry
from elagage.image_fingerprint import image_fingerprint
from elagage.photo import read_image
from prepare_data import channel_moments, prepare_data, split_validation


def outputs(folder: pathlib.Path) -> dict[str, str]:
    arrays = {
        f"{split}_{kind}": str(folder / f"{split}_{kind}.npy") for split in SPLITS for kind in ("images", "labels")
    }
    return {"dataset": str(folder / "dataset.json"), "test_files": str(folder / "test_files.json"), **arrays}


def prepared(name: str, path, folder: pathlib.Path, image_size: int | None = None, fraction: float = 0.25):
    """Prepare the data set; return its description and its splits."""
    prepare_data(name, str(path), image_size, fraction, outputs(folder))
    return read(folder)


def read(folder: pathlib.Path) -> tuple[Dataset, dict[str, Split]]:
    files = outputs(folder)
    splits = {split: Split.read(files[f"{split}_images"], files[f"{split}_labels"]) for split in SPLITS}
    return Dataset.read(files["dataset"]), splits


def refused(name: str, path, folder: pathlib.Path, *words: str, **settings) -> None:
    """Assert that preparing the data set says these words, and that nothing is left in the folder of its outputs."""
    with pytest.raises(UserError) as error:
        prepared(name, path, folder, **settings)
    for word in words:
        assert word in str(error.value)
    assert not list(folder.glob("**/*"))


def pixels(images: numpy.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def assert_consistent(folder: pathlib.Path, dataset: Dataset, splits: dict[str, Split]) -> None:
    """Assert that dataset.json tells the truth about the arrays beside it."""
    assert dataset.images == {name: len(split) for name, split in splits.items()}
    for split in splits.values():
        assert split.images.shape == (len(split), dataset.channels, dataset.image_size, dataset.image_size)
        assert (split.images.dtype, split.labels.dtype) == (numpy.uint8, numpy.int64)
        assert set(split.labels.tolist()) == set(range(len(dataset.classes)))
    assert dataset.sha256 == {path.name: sha256(path) for path in folder.glob("*.npy")}
    shares = splits["train"].images / 255
    assert dataset.mean == pytest.approx(shares.mean((0, 2, 3)).tolist())
    assert dataset.std == pytest.approx(numpy.maximum(shares.std((0, 2, 3)), 1 / 255).tolist())


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return folder, *prepared("digits", "unused", folder, fraction=0.1)


def test_the_digits_are_described_as_they_are(digits):
    folder, dataset, splits = digits
    assert_consistent(folder, dataset, splits)
    assert (dataset.name, dataset.channels, dataset.image_size, dataset.flip) == ("digits", 1, 8, False)
    assert dataset.classes == list("0123456789")
    assert len(splits["test"]) == 1000
    assert len(splits["validation"]) == 80  # a tenth of the 797 others


def test_the_splits_of_the_digits_are_disjoint_and_together_all_digits(digits):
    from sklearn.datasets import load_digits

    loaded = load_digits()
    _, _, splits = digits
    # Grey levels 0 to 16 become 0 to 255.
    expected = numpy.round(loaded.images * (255 / 16)).astype(numpy.uint8)[:, None]
    images = numpy.concatenate([split.images for split in splits.values()])
    labels = numpy.concatenate([split.labels for split in splits.values()])
    assert len(set(pixels(expected))) == len(expected)  # so that pixels tell digits apart
    assert sorted(zip(pixels(images), labels.tolist(), strict=True)) == sorted(
        zip(pixels(expected), loaded.target.tolist(), strict=True)
    )
    assert expected.max() == 255


def test_every_split_of_the_digits_has_the_same_share_of_each_class(digits):
    _, _, splits = digits
    counts = {name: numpy.bincount(split.labels, minlength=10) for name, split in splits.items()}
    total = sum(counts.values())
    for name, split in splits.items():
        assert numpy.abs(counts[name] - total * len(split) / total.sum()).max() <= 1.5, name


def test_the_digits_come_out_the_same_bytes_again(digits, tmp_path):
    folder, *_ = digits
    prepared("digits", "unused", tmp_path, fraction=0.1)
    for path in folder.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("size", [16, 5])
def test_digits_of_another_size_are_the_same_digits_resized(digits, tmp_path, size):
    _, _, splits = digits
    dataset, resized = prepared("digits", "unused", tmp_path, size, fraction=0.1)
    assert_consistent(tmp_path, dataset, resized)
    assert dataset.image_size == size
    assert numpy.array_equal(resized["test"].labels, splits["test"].labels)
    brightness = [of["test"].images.mean((1, 2, 3)) for of in (splits, resized)]
    assert numpy.corrcoef(brightness)[0, 1] > 0.9


def test_the_validation_fraction_decides_how_many_training_images_validate(digits, tmp_path):
    _, splits = prepared("digits", "unused", tmp_path, fraction=0.5)
    assert abs(len(splits["train"]) - len(splits["validation"])) <= 1
    assert numpy.array_equal(splits["test"].images, digits[2]["test"].images)


SHAPES = {"cifar10": (32, 32, 3), "cifar100": (32, 32, 3), "fashion_mnist": (28, 28)}


@pytest.fixture(params=SHAPES)
def downloaded(request, monkeypatch):
    """Return a data set's name and small training and test parts that take the place of its download."""
    parts = []
    for seed, count in enumerate((30, 9)):
        shape = (count, *SHAPES[request.param])
        images = numpy.random.default_rng(seed).integers(0, 256, shape, dtype=numpy.uint8)
        parts.append((images, numpy.arange(count) % 3))
    monkeypatch.setattr("prepare_data.read_downloaded", lambda *_: (*parts, ["ant", "bee", "cow"]))
    return request.param, *parts


def test_what_was_downloaded_becomes_arrays_with_their_labels(tmp_path, downloaded):
    name, *parts = downloaded
    dataset, splits = prepared(name, "data", tmp_path, fraction=0.2)
    assert_consistent(tmp_path, dataset, splits)
    assert (dataset.name, dataset.classes, dataset.flip) == (name, ["ant", "bee", "cow"], True)
    assert dataset.channels == (1 if name == "fashion_mnist" else 3)
    assert dataset.images == {"train": 24, "validation": 6, "test": 9}
    for (images, labels), of in zip(parts, (("train", "validation"), ("test",)), strict=True):
        expected = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
        found = [pair for part in of for pair in zip(pixels(splits[part].images), splits[part].labels, strict=True)]
        assert sorted(found) == sorted(zip(pixels(expected), labels, strict=True))


def test_downloaded_images_are_resized_if_asked(tmp_path, downloaded):
    dataset, splits = prepared(downloaded[0], "data", tmp_path, 16)
    assert_consistent(tmp_path, dataset, splits)
    assert dataset.image_size == 16


def plain(level, size=(8, 8), mode: str = "L") -> Image.Image:
    return Image.new(mode, size, level)


def write_folder(path: pathlib.Path, images: dict[str, Image.Image]) -> pathlib.Path:
    """Write each image to its path below `path`, such as train/cat/1.png."""
    for name, image in images.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(path / name)
    return path


def two_classes(path: pathlib.Path, train: int = 8, test: int = 20) -> pathlib.Path:
    """Write a folder of grey images, all different: cats are dark, dogs bright."""
    levels = {"cat": 10, "dog": 130}
    counts = {"train": train, "test": test}
    return write_folder(
        path,
        {
            f"{split}/{name}/{number}.png": plain(level + number + (50 if split == "test" else 0))
            for split, count in counts.items()
            for name, level in levels.items()
            for number in range(count)
        },
    )


def test_an_image_folder_becomes_arrays_with_the_labels_of_its_class_folders(tmp_path):
    path = two_classes(tmp_path / "images")
    dataset, splits = prepared("image_folder", path, tmp_path / "out", 8)
    assert_consistent(tmp_path / "out", dataset, splits)
    assert (dataset.classes, dataset.channels, dataset.flip) == (["cat", "dog"], 1, True)
    assert dataset.images == {"train": 12, "validation": 4, "test": 40}
    for split in splits.values():
        assert numpy.array_equal(split.images[:, 0, 0, 0] >= 130, split.labels == 1)
        assert (split.images == split.images[:, :, :1, :1]).all()
    levels = numpy.concatenate([splits[name].images[:, 0, 0, 0] for name in ("train", "validation")])
    assert sorted(levels.tolist()) == [*range(10, 18), *range(130, 138)]
    assert sorted(splits["test"].images[:, 0, 0, 0].tolist()) == [*range(60, 80), *range(180, 200)]


def test_the_first_test_images_are_of_several_classes_in_about_equal_number(tmp_path):
    _, splits = prepared("image_folder", two_classes(tmp_path / "images"), tmp_path / "out", 8)
    assert min(numpy.bincount(splits["test"].labels[:20], minlength=2)) >= 4


def test_an_image_folder_comes_out_the_same_bytes_again(tmp_path):
    path = two_classes(tmp_path / "images")
    for name in ("first", "second"):
        prepared("image_folder", path, tmp_path / name, 8)
    for file in (tmp_path / "first").iterdir():
        assert (tmp_path / "second" / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize("place", ["train/cat/0.png", "test/dog/0.png"])
def test_one_colour_image_makes_all_images_three_channels(tmp_path, place):
    path = two_classes(tmp_path / "images", test=4)
    write_folder(path, {place: plain((200, 100, 50), mode="RGB")})
    dataset, splits = prepared("image_folder", path, tmp_path / "out", 8)
    assert_consistent(tmp_path / "out", dataset, splits)
    assert dataset.channels == 3
    images = numpy.concatenate([split.images for split in splits.values()])
    coloured = (images != images[:, :1]).any((1, 2, 3))
    assert coloured.sum() == 1
    assert images[coloured][0, :, 0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    "name, image, expected",
    [
        ("1.png", plain(1, mode="1"), 255),
        ("1.png", plain(77), 77),
        ("1.png", plain((77, 255), mode="LA"), 77),
        ("1.pgm", plain(77), 77),
        ("1.bmp", plain(77), 77),
        ("1.tif", plain(77), 77),
        ("1.JPG", plain(77), 77),
        ("1.png", plain((200, 100, 50), mode="RGB"), [200, 100, 50]),
        ("1.png", plain((200, 100, 50, 255), mode="RGBA"), [200, 100, 50]),
        ("1.png", plain((200, 100, 50), mode="RGB").quantize(4), [200, 100, 50]),
        ("1.gif", plain((200, 100, 50), mode="RGB").quantize(4), [200, 100, 50]),
        ("1.webp", plain((200, 100, 50), mode="RGB"), [200, 100, 50]),
        ("1.jpeg", plain((200, 100, 50), mode="RGB"), [200, 100, 50]),
        ("1.jpeg", plain((55, 155, 205, 0), mode="CMYK"), [200, 100, 50]),
        ("1.tiff", plain((55, 155, 205, 0), mode="CMYK"), [200, 100, 50]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "mode", None),
)
@pytest.mark.parametrize("size", [4, 8, 11])
def test_every_kind_of_image_gives_its_colour_in_8_bits(tmp_path, name, image, expected, size):
    image.save(tmp_path / name)
    found = read_image(tmp_path / name, size)
    assert found.shape == ((size, size) if isinstance(expected, int) else (size, size, 3))
    assert found.dtype == numpy.uint8
    lossy = name.lower().endswith(("jpg", "jpeg", "webp"))
    assert numpy.abs(found.astype(int) - expected).max() <= (4 if lossy else 0)


def thirds(width: int, height: int) -> Image.Image:
    """Return an image that is 10, 20 and 30 in the thirds of its longer side."""
    levels = numpy.repeat([10, 20, 30], max(width, height) // 3).astype(numpy.uint8)
    return Image.fromarray(numpy.broadcast_to(levels if width > height else levels[:, None], (height, width)).copy())


@pytest.mark.parametrize("width, height", [(24, 8), (8, 24), (48, 16), (12, 4)])
def test_an_image_that_is_not_square_is_scaled_to_cover_and_cropped_at_its_centre(tmp_path, width, height):
    thirds(width, height).save(tmp_path / "1.png")
    found = read_image(tmp_path / "1.png", 8)
    assert found.shape == (8, 8)
    assert (found[2:6, 2:6] == 20).all()  # the middle third; its neighbours may blend in where it is scaled
    if (width, height) in [(24, 8), (8, 24)]:
        assert (found == 20).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("shape", [(40, 30), (30, 41), (33, 33), (9, 70)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "box", "lanczos"])
def test_resize_and_crop_are_those_of_torchvision(tmp_path, mode, shape, interpolation):
    transforms = pytest.importorskip("torchvision.transforms")
    image = noise().resize(shape).convert(mode)
    image.save(tmp_path / "1.png")
    expected = transforms.CenterCrop(16)(transforms.Resize(20, transforms.InterpolationMode(interpolation))(image))
    assert numpy.array_equal(read_image(tmp_path / "1.png", 16, Geometry(20, interpolation)), numpy.asarray(expected))
    squashed = image.resize((16, 16), Image.Resampling[interpolation.upper()])
    read = read_image(tmp_path / "1.png", 16, Geometry("squash", interpolation))
    assert numpy.array_equal(read, numpy.asarray(squashed))


def test_another_geometry_has_other_pixels_of_the_same_images_in_the_same_order(tmp_path):
    images = {f"{split}/{name}/0.png": noise() for split in ("train", "test") for name in "ab"}
    images |= {name.replace("0.png", f"{number}.png"): thirds(24, 8) for name in images for number in (1, 2, 3)}
    path = write_folder(tmp_path / "images", images)
    dataset, splits = prepared("image_folder", path, tmp_path / "cover", 8)
    prepare_data("image_folder", str(path), 8, 0.25, outputs(tmp_path / "squash"), Geometry("squash", "bicubic"))
    other, others = read(tmp_path / "squash")
    assert_consistent(tmp_path / "squash", other, others)
    for name in SPLITS:
        assert (others[name].labels == splits[name].labels).all()
        assert others[name].images.shape == splits[name].images.shape
    assert (others["test"].images != splits["test"].images).any()
    assert "covers the square (bilinear" in dataset.preprocessing()["size"]
    assert "whatever its shape (bicubic" in other.preprocessing()["size"]


def test_test_images_keep_the_names_of_their_files_in_their_order(tmp_path):
    random = numpy.random.default_rng(0)
    names = [f"{split}/{name}/{number}.png" for split in ("train", "test") for name in "ab" for number in range(5)]
    images = {name: Image.fromarray(random.integers(0, 256, (8, 8), numpy.uint8)) for name in names}
    images["test/a/\udcff.png"] = noise()
    path = write_folder(tmp_path / "images", images)
    _, splits = prepared("image_folder", path, tmp_path / "data", 8)
    listed = read_json(tmp_path / "data/test_files.json")
    assert sorted(listed) == sorted([name for name in names if name.startswith("test")] + ["test/a/\\xff.png"])
    for name, image in zip(listed, splits["test"].images, strict=True):
        if "xff" not in name:
            assert numpy.array_equal(image[0], numpy.asarray(images[name]))


@pytest.mark.parametrize(
    "orientation, upright",  # https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, tag 274
    [
        (1, lambda image: image),
        (2, numpy.fliplr),
        (3, lambda image: numpy.rot90(image, 2)),
        (4, numpy.flipud),
        (5, lambda image: image.T),
        (6, lambda image: numpy.rot90(image, -1)),
        (7, lambda image: numpy.rot90(image, 2).T),
        (8, numpy.rot90),
    ],
)
def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path, orientation, upright):
    stored = numpy.arange(64, dtype=numpy.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(tmp_path / "1.png", exif=exif)
    assert numpy.array_equal(read_image(tmp_path / "1.png", 8), upright(stored))


def test_images_of_many_sizes_become_one_size(tmp_path):
    sizes = [(1, 1), (8, 8), (3, 40), (40, 3), (100, 75), (9, 8)]
    images = {
        f"{split}/{name}/{number}.png": plain(60, size)
        for split in ("train", "test")
        for name in ("a", "b")
        for number, size in enumerate(sizes)
    }
    dataset, splits = prepared("image_folder", write_folder(tmp_path / "images", images), tmp_path / "out", 8)
    assert_consistent(tmp_path / "out", dataset, splits)
    assert (splits["test"].images == 60).all()


def png_of_16_bits(channels: int) -> bytes:
    """Return a PNG of 8x8 pixels with 16 bits a channel, which Pillow reads but cannot write in colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 8, 8, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = (b"\0" + bytes(range(16 * channels))) * 8
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["grey", "grey and alpha", "colour", "colour and alpha"])
def test_a_png_of_16_bits_is_refused_by_name(tmp_path, channels):
    path = two_classes(tmp_path / "images")
    (path / "train/cat/deep.png").write_bytes(png_of_16_bits(channels))
    refused("image_folder", path, tmp_path / "out", "train/cat/deep.png", "8 bits", image_size=8)


@pytest.mark.parametrize("dtype", [numpy.uint16, numpy.int32, numpy.float32])
def test_a_tiff_of_more_than_8_bits_is_refused_by_name(tmp_path, dtype):
    path = two_classes(tmp_path / "images")
    Image.fromarray(numpy.arange(64, dtype=dtype).reshape(8, 8)).save(path / "test/dog/deep.tif")
    refused("image_folder", path, tmp_path / "out", "test/dog/deep.tif", "8 bits", image_size=8)


def noise(mode: str = "RGB") -> Image.Image:
    values = numpy.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=numpy.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.filterwarnings("ignore")  # Pillow's, of headers that make no sense
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
def test_a_truncated_image_is_refused_by_name(tmp_path, ending, share):
    path = write_folder(two_classes(tmp_path / "images", 4, 2), {f"train/dog/cut.{ending}": noise()})
    file = path / f"train/dog/cut.{ending}"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused("image_folder", path, tmp_path / "out", f"train/dog/cut.{ending}", "not a readable image", image_size=8)


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
def test_an_image_with_any_damaged_byte_is_read_or_refused(tmp_path, ending):
    file = tmp_path / f"damaged.{ending}"
    noise().save(file)
    content = file.read_bytes()
    # The headers, at either end of the file, are where a byte decides most.
    for place in {*range(min(100, len(content))), *range(max(0, len(content) - 150), len(content))}:
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            assert read_image(file, 8).shape[:2] == (8, 8)
        except UserError as error:
            assert str(file) in str(error)


@pytest.mark.parametrize("content", [b"", b"no image", b"<html></html>"])
def test_a_file_that_is_no_image_is_refused_by_name(tmp_path, content):
    path = two_classes(tmp_path / "images")
    (path / "test/cat/other.jpg").write_bytes(content)
    refused("image_folder", path, tmp_path / "out", "test/cat/other.jpg", "not a readable image", image_size=8)


def test_a_name_that_is_not_utf8_is_refused_in_letters_that_every_terminal_has(tmp_path):
    path = two_classes(tmp_path / "images")
    try:
        with open(os.fsencode(path) + b"/test/cat/caf\xe9.png", "wb") as file:
            file.write(b"no image")
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    refused("image_folder", path, tmp_path / "out", r"test/cat/caf\xe9.png: not a readable image", image_size=8)


def test_a_link_to_nowhere_is_refused_by_name(tmp_path):
    path = two_classes(tmp_path / "images")
    (path / "test/cat/moved.png").symlink_to(tmp_path / "nowhere.png")
    refused("image_folder", path, tmp_path / "out", "test/cat/moved.png", image_size=8)


def test_a_linked_class_folder_and_linked_images_are_read(tmp_path):
    path = two_classes(tmp_path / "images")
    shutil.move(path / "train/cat", tmp_path / "elsewhere")
    (path / "train/cat").symlink_to(tmp_path / "elsewhere")
    (path / "train/dog/link.png").symlink_to(path / "train/dog/0.png")
    dataset, _ = prepared("image_folder", path, tmp_path / "out", 8)
    assert dataset.images["train"] + dataset.images["validation"] == 17


@pytest.mark.parametrize("other", ["notes.txt", ".DS_Store", "Thumbs.db", "._0.png", ".hidden.jpg", "README"])
def test_hidden_files_and_files_that_are_no_images_are_ignored(tmp_path, other):
    path = two_classes(tmp_path / "images")
    expected, _ = prepared("image_folder", path, tmp_path / "before", 8)
    for folder in (path, path / "train", path / "train/cat", path / "test/dog"):
        (folder / other).write_bytes(b"\0\5\x16\7 no pixels")
    assert prepared("image_folder", path, tmp_path / "after", 8)[0] == expected


def test_an_ending_in_capitals_is_an_image_too(tmp_path):
    path = two_classes(tmp_path / "images")
    (path / "test/cat/0.png").rename(path / "test/cat/0.PNG")
    assert prepared("image_folder", path, tmp_path / "out", 8)[0].images["test"] == 40


def test_hidden_folders_are_no_classes(tmp_path):
    path = two_classes(tmp_path / "images")
    (path / "train/.ipynb_checkpoints").mkdir()
    dataset, _ = prepared("image_folder", path, tmp_path / "out", 8)
    assert dataset.classes == ["cat", "dog"]


@pytest.mark.parametrize("split, other", [("train", "test"), ("test", "train")])
def test_a_class_that_is_in_one_split_only_is_refused_by_name(tmp_path, split, other):
    path = write_folder(two_classes(tmp_path / "images"), {f"{split}/owl/1.png": plain(5)})
    words = "'owl'", f"{path}/{split} only", f"{path}/{other}"
    refused("image_folder", path, tmp_path / "out", "dataset.path", *words, image_size=8)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("content", [[], ["notes.txt"]], ids=["nothing", "no image"])
def test_a_class_without_images_is_refused_by_name(tmp_path, split, content):
    path = two_classes(tmp_path / "images")
    for part in ("train", "test"):
        write_folder(path, {f"{part}/owl/1.png": plain(5)})
    (path / split / "owl/1.png").unlink()
    for name in content:
        (path / split / "owl" / name).write_text("text")
    refused("image_folder", path, tmp_path / "out", "dataset.path", f"{split}/owl", "no image", image_size=8)


@pytest.mark.parametrize("missing", ["train", ""])
def test_a_folder_without_images_for_training_is_refused_with_the_layout_it_needs(tmp_path, missing):
    path = two_classes(tmp_path / "images")
    shutil.rmtree(path / missing)
    words = "dataset.path", str(path), "<path>/train/<class>/*"
    refused("image_folder", path, tmp_path / "out", *words, image_size=8)


def test_a_single_class_is_refused(tmp_path):
    images = {f"{split}/cat/{number}.png": plain(5) for split in ("train", "test") for number in range(4)}
    path = write_folder(tmp_path / "images", images)
    refused("image_folder", path, tmp_path / "out", "dataset.path", "2 are needed", image_size=8)


def test_a_class_with_a_single_image_for_training_and_validation_is_refused_by_name(tmp_path):
    path = two_classes(tmp_path / "images", train=1)
    refused("image_folder", path, tmp_path / "out", "dataset.path", "class 'cat' has 1 image", image_size=8)


def test_images_are_read_a_few_at_a_time_into_the_same_files(tmp_path, monkeypatch):
    path, sizes = two_classes(tmp_path / "images", train=20), []
    whole, _ = prepared("image_folder", path, tmp_path / "whole", image_size=8)
    decoded = prepare_data_module._decoded
    monkeypatch.setattr(prepare_data_module, "CHUNK", 3 * 8 * 8)
    monkeypatch.setattr(prepare_data_module, "_decoded", lambda *given: sizes.append(len(given[-1])) or decoded(*given))
    parts, _ = prepared("image_folder", path, tmp_path / "parts", image_size=8)
    assert parts == whole
    assert max(sizes) == 3


def test_a_photo_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    path = two_classes(tmp_path / "images", train=4)
    Image.new("RGB", (8, 8), "red").save(path / "train/cat/late.png")
    monkeypatch.setattr(prepare_data_module, "is_grey", lambda _: True)
    refused("image_folder", path, tmp_path / "out", "late.png: has changed while", image_size=8)


def labelled(*counts: int) -> numpy.ndarray:
    """Return the labels of so many images of each class."""
    return numpy.repeat(numpy.arange(len(counts)), counts)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_split_is_disjoint_complete_and_of_equal_shares(fraction):
    labels = labelled(40, 80, 20)
    kept, validation = split_validation(labels, fraction, ["a", "b", "c"])
    assert sorted([*kept, *validation]) == list(range(140))
    expected = pytest.approx([40 * fraction, 80 * fraction, 20 * fraction])
    assert numpy.bincount(labels[validation]).tolist() == expected


@pytest.mark.parametrize(
    "counts, fraction",
    [((90, 10), 0.1), ((3, 3), 0.5), ((99, 1), 0.1), ((98, 2), 0.1), ((98, 2), 0.97), ((90, 5, 5), 0.1)],
)
def test_both_parts_of_a_split_have_every_class_of_two_images(counts, fraction):
    names, labels = list("abc")[: len(counts)], labelled(*counts)
    if min(counts) < 2:
        with pytest.raises(UserError, match="class 'b' has 1 image"):
            split_validation(labels, fraction, names)
        return
    parts = split_validation(labels, fraction, names)
    assert [set(labels[numbers]) for numbers in parts] == [set(range(len(counts)))] * 2
    assert sorted(numpy.concatenate(parts)) == list(range(sum(counts)))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_moments_of_the_channels_are_those_of_numpy(channels):
    images = numpy.random.default_rng(0).integers(0, 256, (50, channels, 9, 9)) ** 2 // 255
    mean, std = channel_moments(images.astype(numpy.uint8))
    assert mean == pytest.approx((images / 255).mean((0, 2, 3)).tolist(), abs=1e-12)
    assert std == pytest.approx((images / 255).std((0, 2, 3)).tolist(), abs=1e-12)


def test_a_channel_that_never_changes_can_still_be_divided_by_its_deviation():
    images = numpy.full((4, 2, 3, 3), 51, numpy.uint8)
    images[:2, 1] = 0
    mean, std = channel_moments(images)
    assert mean == pytest.approx([0.2, 0.1])
    assert std == pytest.approx([1 / 255, 0.1])


def alter(file: pathlib.Path) -> None:
    """Change the last byte of a file and put its time back."""
    times = file.stat()
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def fingerprint(path: pathlib.Path) -> str:
    """Return the fingerprint of the folder, with what is known of it beside it."""
    return image_fingerprint(str(path), path.with_suffix(".json"))


@pytest.fixture
def printed(tmp_path):
    """Return an image folder and its fingerprint."""
    path = two_classes(tmp_path / "images", 2, 2)
    return path, fingerprint(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "train/cat/0.png").unlink(),
        lambda path: plain(1).save(path / "test/dog/new.png"),
        lambda path: noise().save(path / "train/cat/0.png"),
        lambda path: alter(path / "train/cat/0.png"),
        lambda path: (path / "train/cat/0.png").rename(path / "train/cat/renamed.png"),
        lambda path: (path / "train/cat/0.png").rename(path / "train/dog/moved.png"),
    ],
    ids=["removed", "added", "replaced", "altered", "renamed", "moved"],
)
def test_the_fingerprint_changes_with_an_image(printed, change):
    path, before = printed
    change(path)
    assert fingerprint(path) != before


def test_the_fingerprint_of_a_copy_is_the_same(printed, tmp_path):
    path, before = printed
    assert fingerprint(shutil.copytree(path, tmp_path / "copy")) == before


def test_only_what_is_new_or_changed_is_read_again(printed, monkeypatch):
    path, before = printed
    read = []
    monkeypatch.setattr("elagage.image_fingerprint._checksum", lambda file: read.append(file.name) or "0")
    assert fingerprint(path) == before
    assert read == []
    alter(path / "train/cat/0.png")
    assert fingerprint(path) != before
    assert read == ["0.png"]


@pytest.mark.parametrize("content", ["", "[]", '{"train/cat/0.png": [1, 2, 3]}', '{"train/cat/0.png": []}'])
def test_a_damaged_file_of_what_is_known_changes_nothing(printed, content):
    path, before = printed
    path.with_suffix(".json").write_text(content)
    assert fingerprint(path) == before


@pytest.mark.parametrize("other", [".DS_Store", "._0.png", "notes.txt"])
def test_the_fingerprint_ignores_what_is_no_image(printed, other):
    path, before = printed
    (path / "train/cat" / other).write_bytes(b"\0\5\x16\7")
    assert fingerprint(path) == before


def test_the_fingerprint_of_a_link_to_nowhere_is_refused_by_name(printed):
    path, _ = printed
    (path / "test/cat/moved.png").symlink_to(path / "nowhere.png")
    with pytest.raises(UserError, match=r"test/cat/moved\.png"):
        fingerprint(path)


# --- what a user would not want, and is told


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("train", "Test"), ("TRAIN", "Val")])
def test_splits_of_another_name_are_not_taken_for_classes(tmp_path, names):
    path = two_classes(tmp_path / "images")
    for name, other in zip(("train", "test"), names, strict=True):
        (path / name).rename(path / "moved")
        (path / "moved").rename(path / other)
    refused("image_folder", path, tmp_path / "out", "is not read under this name", "rename it to", image_size=8)


def test_a_class_may_be_called_train(tmp_path):
    path = write_folder(
        tmp_path / "images", {f"{name}/{number}.png": plain(number) for name in ("Bus", "Train") for number in range(5)}
    )
    assert prepared("image_folder", path, tmp_path / "out", 8)[0].classes == ["Bus", "Train"]


@pytest.mark.parametrize("names", [("Cat", "cat"), ("caf\u00e9", "cafe\u0301")], ids=["case", "accent"])
def test_classes_of_two_spellings_are_named_so_that_one_sees_the_difference(tmp_path, names):
    path = two_classes(tmp_path / "images")
    for split, name in zip(("train", "test"), names, strict=True):
        (path / split / "cat").rename(path / split / "moved")
        (path / split / "moved").rename(path / split / name)
    refused("image_folder", path, tmp_path / "out", *map(ascii, names), "rename one", image_size=8)


def test_all_images_that_cannot_be_read_are_counted_and_the_first_named(tmp_path):
    path = two_classes(tmp_path / "images")
    for number in range(7):
        (path / f"train/cat/broken{number}.jpg").write_bytes(b"no image")
    refused("image_folder", path, tmp_path / "out", "broken0.jpg", "broken4.jpg", "and 2 more", image_size=8)


def test_images_that_stand_in_two_places_are_told(tmp_path, capsys):
    path = two_classes(tmp_path / "images")
    prepared("image_folder", path, tmp_path / "out", 8)
    assert "same pixels" not in capsys.readouterr().out
    shutil.copy(path / "train/cat/1.png", path / "train/dog/copy.png")
    Image.open(path / "train/dog/2.png").save(path / "test/dog/copy.bmp")
    prepared("image_folder", path, tmp_path / "out", 8)
    notes = [line for line in capsys.readouterr().out.splitlines() if "same pixels" in line]
    assert len(notes) == 2
    assert "test/dog/copy.bmp" in notes[0] and "train/dog/2.png" in notes[0] and "too high" in notes[0]
    assert "train/cat/1.png" in notes[1] and "train/dog/copy.png" in notes[1] and "two classes" in notes[1]


def test_copies_among_the_test_images_are_counted(tmp_path, capsys):
    path = two_classes(tmp_path / "images")
    (first, *_) = sorted((path / "test/cat").iterdir())
    for number in range(2):
        shutil.copy(first, first.with_name(f"copy{number}.png"))
    images = sum(1 for _ in (path / "test").rglob("*.png"))
    prepared("image_folder", path, tmp_path / "out", 8)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "another test image" in line]
    assert f"2 of {images} test images" in note and "copy0.png" in note and "keep one of each" in note
