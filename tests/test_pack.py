"""Packed files: the same bytes come back, near their entropy; whatever is damaged or forged is refused in words."""

import ast
import base64
import hashlib
import itertools
import lzma
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc

import ml_dtypes
import numpy
import onnx
import onnx_ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from elagage.data import Dataset
from elagage.errors import UserError
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.tensors import initializers
from elagage.packing.pack import entropy_bytes, pack, packed_weight_bytes
from elagage.packing.unpack import (
    ALL,
    DICTIONARIES,
    GAPS,
    HEADER,
    LZMA2,
    MAGIC,
    MASK,
    SMALL,
    STREAM,
    VERSION,
    WIDTHS,
    PackingError,
    Reader,
    Tensor,
    groups,
    unpack,
)
from elagage.pytorch.export import export_graph
from elagage.pytorch.models import build_network
from elagage.pytorch.pruning import magnitude_prune
from evaluate_size import evaluate_size
from pack import pack_file

ROOM = pathlib.Path("scripts/elagage/packing")
HUGE = 2**32 - 1
repeatable = settings(max_examples=150, derandomize=True, deadline=None)


def body_of(packed: bytes) -> bytes:
    return packed[len(MAGIC) + 32 :]


def signed(body: bytes) -> bytes:
    """Return a packed file, perhaps a forged one, whose checksum is right."""
    return MAGIC + hashlib.sha256(body).digest() + body


def random_values(random: numpy.random.Generator, count: int, width: int, density: float) -> numpy.ndarray:
    """Return unsigned integers [count], a share of which is not 0: of these, the highest byte is normal."""
    values = random.integers(1, 1 << 8 * width - 1, count, dtype=numpy.uint64) if width > 1 else numpy.ones(count)
    values = values.astype(f"<u{width}")
    values.view(numpy.uint8).reshape(count, width)[:, -1] = random.normal(128, 20, count).clip(1, 255)
    return values * (random.random(count) < density)


def laid_out(*parts: bytes | tuple[numpy.ndarray, bool]) -> tuple[bytes, list[Tensor]]:
    """Return a file of these bytes and of these tensors (values, whether weights), and where the tensors lie."""
    model, tensors = b"", []
    for part in parts:
        if isinstance(part, tuple):
            values, weight = part
            tensors.append(Tensor(len(model), len(values), values.itemsize, weight))
            part = values.tobytes()
        model += part
    return model, tensors


@st.composite
def layouts(draw) -> tuple[bytes, list[Tensor]]:
    random = numpy.random.default_rng(draw(st.integers(0, HUGE)))
    tensors = st.tuples(
        st.integers(0, 3000), st.sampled_from(WIDTHS), st.sampled_from([0, 0.003, 0.1, 0.4, 0.95, 1]), st.booleans()
    )
    parts = []
    for gap, (count, width, density, weight) in draw(st.lists(st.tuples(st.binary(max_size=40), tensors), max_size=6)):
        parts += [gap, (random_values(random, count, width, density), weight)]
    return laid_out(*parts, draw(st.binary(max_size=40)))


@repeatable
@given(layouts())
@example((b"", []))
@example((bytes(range(40)), [Tensor(0, 0, 4, True), Tensor(0, 0, 1, False), Tensor(0, 10, 4, True)]))
def test_every_layout_comes_back(layout):
    model, tensors = layout
    assert unpack(pack(model, tensors)) == model


@repeatable
@given(st.binary(max_size=600), st.lists(st.tuples(*[st.integers(0, 90)] * 2, st.sampled_from(WIDTHS), st.booleans())))
def test_all_bytes_come_back(model, cuts):
    tensors, end = [], 0
    for gap, values, width, weight in cuts:
        tensor = Tensor(end + gap, values, width, weight)
        if tensor.end <= len(model):
            tensors.append(tensor)
            end = tensor.end
    assert unpack(pack(model, tensors)) == model


@pytest.mark.parametrize("zeros", [0, 253, 254, 255, 256, 509, 510, 511, 100_000])
def test_gaps_of_all_lengths_come_back(zeros):
    model, tensors = laid_out((numpy.array([0] * zeros + [7, 8] + [0] * max(zeros, 99), numpy.uint8), True))
    packed = pack(model, tensors)
    assert places(packed) == [GAPS]
    assert unpack(packed) == model


def places(packed: bytes) -> list[int]:
    """Return how the stored values of each group are found."""
    reader = Reader(body_of(packed), SMALL)
    tensors, _ = reader.frame()
    found = []
    for group in groups(tensors):
        found += reader.take(1)
        for _ in range(group[0].width + (found[-1] != ALL)):
            reader.skip()
    return found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("density", [0.001, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 0.95, 1])
def test_values_take_little_more_than_their_entropy(width, density):
    values = random_values(numpy.random.default_rng(0), 100_000, width, density)
    model, tensors = laid_out((values, True))
    packed = pack(model, tensors)
    assert places(packed) == [GAPS if density < 1 / 8 else ALL if width == 1 and density > 0.94 else MASK]
    entropy = entropy_bytes(model, tensors)
    assert packed_weight_bytes(packed) < 1.04 * entropy + 60 * (1 + width)
    if density < 0.94:  # of more values, bytes are stored without a mask
        assert packed_weight_bytes(packed) > entropy


def test_repetitions_take_less_than_their_entropy():
    model, tensors = laid_out((numpy.tile(numpy.random.default_rng(0).integers(1, 99, 999, numpy.uint8), 50), True))
    assert packed_weight_bytes(pack(model, tensors)) < entropy_bytes(model, tensors) / 10


def test_the_entropy_is_that_of_the_mask_and_of_each_byte():
    byte = numpy.repeat([0, 1, 2, 3, 4], [32, 8, 8, 8, 8]).astype(numpy.uint8)
    model, tensors = laid_out((byte, True))
    assert entropy_bytes(model, tensors) == 64 / 8 + 32 * 2 / 8
    word = byte * numpy.uint16(256) + numpy.where(byte, 7, 0).astype(numpy.uint16)  # the lower byte says nothing
    model, tensors = laid_out((word, True), (byte[:0], False), (byte, False))
    assert entropy_bytes(model, tensors) == 2 * (64 / 8 + 32 * 2 / 8)


def test_bytes_of_weights_are_those_of_their_streams():
    random = numpy.random.default_rng(0)
    weights, vectors = (random_values(random, 2000, 4, 1) for _ in range(2))
    of_weights, alone = (
        packed_weight_bytes(pack(*laid_out((weights, True), *more))) for more in ([(vectors, False)], [])
    )
    assert of_weights == alone > 0
    assert packed_weight_bytes(pack(*laid_out((vectors, False)))) == 0


# --- ONNX files


TYPES = (
    *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "complex64", "complex128", "bool", "int4", "uint4"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
)


def file_of(*arrays: numpy.ndarray) -> bytes:
    """Return an ONNX file with these initializers and no node."""
    constants = [onnx.numpy_helper.from_array(array, f"tensor{number}") for number, array in enumerate(arrays)]
    return onnx.helper.make_model(onnx.helper.make_graph([], "constants", [], [], constants)).SerializeToString()


@pytest.mark.parametrize("name", TYPES)
def test_tensors_of_every_type_and_shape_are_found_and_come_back(name):
    dtype = numpy.dtype(getattr(ml_dtypes, name, None) or name)
    random = numpy.random.default_rng(0)
    arrays = []
    for shape in ((), (0,), (1,), (17,), (5, 0), (64, 3), (9, 4, 3, 3)):
        bits = random.integers(0, 2 if name == "bool" else 256, (*shape, dtype.itemsize), dtype=numpy.uint8)
        array = bits.view(dtype)[..., 0] if "int4" not in name else (bits[..., 0] % 8).astype(dtype)
        arrays += [array, numpy.where(random.random(shape) < 0.5, array, numpy.zeros((), dtype))]
    content = file_of(*arrays)
    tensors = initializers(content)
    assert len(tensors) >= sum(array.size >= 32 for array in arrays)
    assert unpack(pack(content, tensors)) == content


def test_what_is_not_raw_bytes_of_the_main_graph_stays_in_place():
    listed = onnx.helper.make_tensor("listed", onnx.TensorProto.FLOAT, [40], numpy.arange(40.0))
    texts = onnx.helper.make_tensor("texts", onnx.TensorProto.STRING, [2], [b"a" * 50, b"b" * 50])
    outside = onnx.TensorProto(name="outside", data_type=onnx.TensorProto.FLOAT, dims=[1000])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="weights.bin")
    inner = onnx.numpy_helper.from_array(numpy.arange(50.0), "inner")
    branch = onnx.helper.make_graph([], "branch", [], [], [inner])
    constant = onnx.helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(numpy.arange(60.0)))
    choice = onnx.helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    raw = onnx.numpy_helper.from_array(numpy.arange(70.0), "raw")
    graph = onnx.helper.make_graph([constant, choice], "main", [], [], [listed, texts, outside, raw])
    content = onnx.helper.make_model(graph).SerializeToString()
    assert [(tensor.values, tensor.width) for tensor in initializers(content)] == [(70, 8)]
    assert unpack(pack(content, initializers(content))) == content


def test_equal_and_contained_tensors_come_back():
    """Where bytes of a tensor lie twice in the file, the first place is taken, which is another tensor's or none's."""
    zeros, ones = numpy.zeros(100, numpy.float32), numpy.ones(20, numpy.float32)
    content = file_of(ones, zeros, zeros, numpy.concatenate([ones, zeros, ones]), ones, zeros[:5])
    assert len(initializers(content)) == 6
    assert unpack(pack(content, initializers(content))) == content


def test_a_tensor_is_found_though_its_beginning_stands_before_it():
    text = b"as a name begins, so does the tensor"
    constant = onnx.numpy_helper.from_array(numpy.frombuffer(text, numpy.uint8), "x")
    named = onnx.helper.make_node("Identity", [text[:20].decode()], ["y"])
    content = onnx.helper.make_model(onnx.helper.make_graph([named], "g", [], [], [constant])).SerializeToString()
    (tensor,) = initializers(content)
    assert content.index(text[:20]) < tensor.start
    assert content[tensor.start : tensor.end] == text


def run_unpack(*arguments, script: pathlib.Path = ROOM / "unpack.py", **where) -> subprocess.CompletedProcess:
    command = [sys.executable, "-I", script.resolve(), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **where)


def test_networks_come_back_and_are_smaller_than_xz_makes_them(tmp_path):
    """As float32 and as int8, dense and pruned; unpack.py lies alone in its folder."""
    script = pathlib.Path(shutil.copy(ROOM / "unpack.py", tmp_path))
    toy = Dataset("toy", ["a", "b", "c"], 3, 16, [0.5] * 3, [0.25] * 3, True, {}, {})
    images = numpy.random.default_rng(0).integers(0, 256, (64, 3, 16, 16), dtype=numpy.uint8)
    graph = onnx_ir.to_proto(export_graph(build_network("resnet8", 3, 3, seed=0), toy))
    for rate in (0, 0.9):
        network = build_network("resnet8", 3, 3, seed=0)
        magnitude_prune(network, toy, "global", rate)
        weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        float32 = with_weights(onnx_ir.from_proto(graph), weights)
        for model in (float32, quantize(float32, "static", images)):
            path, content = tmp_path / "model.onnx", model.SerializeToString()
            path.write_bytes(content)
            pack_file(path, packed := tmp_path / "model.onnx.packed")
            assert run_unpack(packed, path, "--force", script=script, cwd=tmp_path).stderr == ""
            assert path.read_bytes() == content
            entropy = entropy_bytes(content, [tensor for tensor in initializers(content) if tensor.weight])
            weight_bytes = packed_weight_bytes(packed.read_bytes())
            assert entropy < weight_bytes < 1.15 * entropy + 400
            if rate or model is float32:
                xz = len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
                assert weight_bytes < packed.stat().st_size < 0.97 * xz


# --- damaged and forged files


@pytest.fixture(scope="module")
def small() -> bytes:
    """A packed file of some 1,500 bytes, with values of all widths and places of all forms."""
    random = numpy.random.default_rng(0)
    kinds = ((1, 1, True), (1, 0.5, False), (2, 0.02, True), (4, 0.5, True), (4, 1, False), (8, 1, True))
    tensors = [(random_values(random, 120, width, density), weight) for width, density, weight in kinds]
    packed = pack(*laid_out(b"before", *tensors, b"after"))
    assert set(places(packed)) == {ALL, MASK, GAPS}
    return packed


def test_every_flipped_byte_and_every_cut_is_noticed(small):
    damaged = [small[:end] for end in range(len(small))] + [small + b"\0"]
    for position in range(len(small)):
        flipped = bytearray(small)
        flipped[position] ^= 1 << position % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        with pytest.raises(PackingError, match=r"damaged or cut short; copy it again|not a packed ONNX file; name one"):
            unpack(content)


@pytest.mark.parametrize("content", [b"", b"ONNX", file_of(numpy.arange(99)), lzma.compress(b"x" * 99)])
def test_other_files_are_not_packed_files(content):
    with pytest.raises(PackingError, match=r"not a packed ONNX file; name one that ends in \.onnx\.packed"):
        unpack(content)


@pytest.mark.parametrize("version", [0, 5, 7])
def test_another_version_asks_for_the_elagage_that_packed_it(small, version):
    words = f"packed in version {version} of the format; this Elagage knows only version 6; unpack it with the Elagage"
    for rest in (body_of(small)[2:], b""):
        with pytest.raises(PackingError, match=words):
            unpack(signed(struct.pack("<H", version) + rest))


@settings(repeatable, max_examples=1000)
@given(st.data())
def test_a_forged_file_is_refused_or_the_same(small, data):
    """Bytes, cuts and joints at any place of a file with a right checksum."""
    body = body_of(small)
    start = data.draw(st.integers(2, HEADER.size + 100) | st.integers(2, len(body)))
    end = data.draw(st.integers(start, start + 9) | st.integers(start, len(body)))
    replacement = data.draw(st.binary(max_size=9) | st.just(body[start : start + 40]))
    forged = body[:start] + replacement + body[end:]
    try:
        assert unpack(signed(forged)) == unpack(small)  # such as with a larger dictionary
    except PackingError as error:
        assert re.match("undamaged, but cannot be unpacked .* from somebody you trust", str(error))


def stream(content: bytes, announced: int | None = None) -> bytes:
    compressed = lzma.compress(content, lzma.FORMAT_RAW, filters=[{"id": LZMA2, "preset": 0}])
    return STREAM.pack(len(content) if announced is None else announced, len(compressed)) + compressed


def header(size: int, compression: int = LZMA2, dictionary: int = 1 << 16) -> bytes:
    return HEADER.pack(VERSION, bytes(32), size, compression, dictionary)


def forged(table: list[tuple[int, int, int, int]], kept: bytes, size: int, streams: bytes = b"") -> bytes:
    columns = itertools.chain.from_iterable(zip(*table, strict=True))
    frame = struct.pack(f"<I{4 * len(table)}I", len(table), *columns) + kept
    return signed(header(size) + stream(frame) + streams)


numbers = st.sampled_from([0, 1, 2, 4, 8, 16, 255, SMALL // 8, SMALL, HUGE]) | st.integers(0, 40)


@repeatable
@given(
    st.lists(st.tuples(numbers, numbers, st.sampled_from([0, 3, *WIDTHS]), numbers), max_size=9),
    numbers,
    st.lists(
        st.sampled_from([bytes([form]) for form in (ALL, MASK, GAPS, 3)])
        | st.integers(0, 40).map(lambda size: stream(bytes(size)))
    ),
)
def test_forged_tables_and_streams_are_refused(table, size, streams):
    with pytest.raises(PackingError):
        unpack(forged(table, b"abc", size, b"".join(streams)))


ANY = bytes([ALL])
BOMBS = {
    "the file": lambda: forged([], b"abc", 2**63),
    "another filter": lambda: signed(header(9, compression=0x20) + stream(bytes(13))),
    "the dictionary": lambda: signed(header(9, dictionary=HUGE) + stream(bytes(13))),
    "no dictionary": lambda: signed(header(9, dictionary=0) + stream(bytes(13))),
    "a stream": lambda: signed(header(9) + STREAM.pack(13, HUGE) + bytes(13)),
    "the content of a stream": lambda: signed(header(9) + stream(bytes(13), HUGE)),
    "a stream of more than it says": lambda: signed(header(9) + stream(bytes(2 * SMALL), 13)),
    "a stream of less than it says": lambda: signed(header(9) + stream(bytes(12), 13)),
    "a frame of zeros": lambda: forged([], bytes(2 * SMALL), 2 * SMALL),
    "an empty frame": lambda: signed(header(0) + stream(b"")),
    "the number of tensors": lambda: signed(header(9) + stream(struct.pack("<I", HUGE) + bytes(9))),
    "tensors that it has": lambda: forged([(0, 0, 1, 1)] * 20_000, b"abc", 3, ANY + stream(b"")),
    "a tensor": lambda: forged([(0, HUGE, 8, 1)], b"", 8 * HUGE, ANY + stream(b"") * 8),
    "a tensor as large as allowed": lambda: forged([(0, SMALL, 1, 1)], b"", SMALL, ANY + stream(b"")),
    "the mask of such a tensor": lambda: forged(
        [(0, SMALL, 1, 1)], b"", SMALL, bytes([MASK]) + stream(b"\xff" * (SMALL // 8)) + stream(bytes(SMALL))
    ),
    "the gaps in such a tensor": lambda: forged(
        [(0, SMALL, 1, 1)], b"", SMALL, bytes([GAPS]) + stream(bytes(SMALL // 7)) + stream(bytes(SMALL // 7))
    ),
    "gaps beyond the tensor": lambda: forged(
        [(0, 100, 1, 1)], b"", 100, bytes([GAPS]) + stream(b"\xff\1") + stream(b"a")
    ),
    "many tensors": lambda: forged([(0, HUGE, 1, 1)] * 1000, b"", 9, ANY + stream(b"")),
    "the gap before a tensor": lambda: forged([(HUGE, 16, 1, 1)], b"abc", 19, ANY + stream(bytes(16))),
    "the width": lambda: forged([(0, 16, 3, 1)], b"abc", 51, ANY + stream(bytes(16)) * 3),
    "bytes at the end": lambda: signed(header(0) + stream(bytes(4)) + b"x"),
    "the form of places": lambda: forged([(0, 16, 1, 1)], b"abc", 19, b"\3" + stream(bytes(16))),
}


@pytest.mark.parametrize("what", BOMBS)
def test_absurd_claims_are_refused_without_taking_memory(what):
    bomb = BOMBS[what]()
    tracemalloc.start()
    try:
        with pytest.raises(PackingError, match="cannot be unpacked"):
            unpack(bomb)
        assert tracemalloc.get_traced_memory()[1] < 5 * SMALL
    finally:
        tracemalloc.stop()


def test_dictionaries_that_are_allowed_take_little_memory():
    assert DICTIONARIES.start == 4096 and DICTIONARIES[-1] < SMALL


def test_what_would_not_be_unpacked_is_not_packed(tmp_path):
    with pytest.raises(PackingError, match="16385 tensors"):
        pack(bytes(16), [Tensor(0, 0, 1, True)] * 16385)
    model, packed = tmp_path / "model.onnx", tmp_path / "model.onnx.packed"
    model.write_bytes(file_of(numpy.zeros((1000, 20_000), numpy.float32)))
    with pytest.raises(
        UserError, match=r"model\.onnx: cannot be packed: .* nearly all weights are equal.* pruning\.rates"
    ):
        pack_file(model, packed)
    assert not packed.exists()


PINNED = """
T05OWFBBQ0vp2aZo1WhVUcaV15PDpsLxHdY61czWevP3PjEY4qjCMAYAyBdtPgPfbXp1rmnhiLcOiZXLamO8pMmIxD2HE+qxzBzNAgAAAAAAACEAAAEA
RgAAADgAAADgAEUAMAAAAYA7XffzpnJb0/3dHO/3x9RfPBZtERHtyDAsvTGSo4W52ZF5PVYmEyUnhIYQrR2dAABjAAAAXwAAAOAAYgBXAAAAjza27EdW
N+FnOJ0jMB1aeKf642IrD1yQsXYcafEE33tDPlX9H9ZEk9bXv/TdrC2BmFN485IgbsKRvWCMFv73YGeELzo+kE9p8Wd5Y/M2UH1chppWZckAAh8AAAAW
AAAA4AAeAA4AAAWCQUjxgWeSNwlldTwAAB8AAAAjAAAAAQAeYlVeZlpiVl5nWmNWX2dbY1dfaFtkV2BcZFhgXGVYYQABDQAAABEAAAABAAzmM5nMZzGY
zmM5nMZwADQAAAAOAAAA4AAzAAYAAABuzjL4AAA0AAAAOAAAAAEAM1mRyG+mhLtimdF3r1WNxGqigLdelc1zq4nAZp58s1qRyW+nhLximtF4r1aNxWui
gLhels0A
"""


def test_files_of_this_version_stay_readable_and_the_same():
    """Whatever changes these bytes needs another VERSION."""
    numbers = numpy.arange(700, dtype=numpy.uint64)
    random = (numbers * 2654435761 % 2**32 >> 16).astype(numpy.uint8)
    few = random[:400] * (random[100:500] < 20)
    half = (random[500:600].astype("<u2") << 8) * (random[600:700] < 128)
    model, tensors = laid_out(b"before", (few, True), b"between", (half, True), (random[:99] | 1, False), b"after")
    packed = base64.b64decode(PINNED)
    assert unpack(packed) == model
    assert pack(model, tensors) == packed
    assert places(packed) == [ALL, GAPS, MASK]


# --- the room, its script, and the jobs that use it


def test_the_room_imports_numpy_and_the_standard_library_only():
    for path in ROOM.glob("*.py"):
        allowed = {"numpy", *sys.stdlib_module_names} | ({"elagage.packing.unpack"} if path.stem != "unpack" else set())
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 10))):
            if isinstance(node, ast.ImportFrom):
                assert node.module in allowed or node.module.partition(".")[0] in allowed, path
            elif isinstance(node, ast.Import):
                assert {alias.name for alias in node.names} <= allowed, path


def test_the_script_unpacks_and_never_shows_a_traceback(small, tmp_path):
    packed, model = tmp_path / "model.onnx.packed", tmp_path / "new/model.onnx"
    packed.write_bytes(small)
    assert "--force" in run_unpack("--help").stdout
    assert run_unpack(packed, model).returncode == 0
    assert model.read_bytes() == unpack(small)
    model.write_bytes(b"mine")
    refused = run_unpack(packed, model)
    assert refused.returncode == 1
    assert refused.stderr == f"error: {model}: is there already; name another file, or replace it with --force\n"
    assert model.read_bytes() == b"mine"
    assert run_unpack(packed, model, "--force").returncode == 0
    assert model.read_bytes() == unpack(small)
    (cut := tmp_path / "cut.onnx.packed").write_bytes(small[:-1])
    for source, target, named, words in (
        (cut, "other.onnx", cut, "cut short"),
        (tmp_path / "none", "other.onnx", tmp_path / "none", "No such"),
        (tmp_path, "other.onnx", tmp_path, "Is a"),
        (packed, "cut.onnx.packed/other.onnx", cut / "other.onnx", "cannot be written"),
    ):
        failed = run_unpack(source, tmp_path / target)
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"error: {named}: ") and words in failed.stderr
        assert "Traceback" not in failed.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx.packed", "new", "cut.onnx.packed"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.onnx"]


def test_a_full_disk_leaves_no_unpacked_file(small_disk, tmp_path):
    (packed := tmp_path / "model.onnx.packed").write_bytes(pack(bytes(100_000), []))
    failed = run_unpack(packed, small_disk / "model.onnx")
    assert failed.stderr.startswith(f"error: {small_disk / 'model.onnx'}: cannot be written (No space left")
    assert not list(small_disk.iterdir())


LITTLE_MEMORY = """
import pathlib, re, resource, sys
from elagage.packing.unpack import unpack_file
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000,) * 2)
unpack_file(*map(pathlib.Path, sys.argv[1:]), force=False)
"""


def test_too_little_memory_is_said(tmp_path):
    (packed := tmp_path / "model.onnx.packed").write_bytes(pack(bytes(SMALL), [Tensor(0, SMALL, 1, True)]))
    command = [sys.executable, "-c", LITTLE_MEMORY, packed, tmp_path / "model.onnx"]
    done = subprocess.run(command, env={"PYTHONPATH": "scripts"}, capture_output=True, text=True)
    assert f"PackingError: {packed}: needs more memory than there is" in done.stderr


def test_a_failed_job_leaves_no_packed_file(small_disk, tmp_path):
    content = file_of(numpy.random.default_rng(0).random(20_000))
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx\.packed: cannot be written"):
        pack_file(tmp_path / "model.onnx", small_disk / "model.onnx.packed")
    assert not list(small_disk.iterdir())
    (tmp_path / "model.onnx").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"model\.onnx: damaged"):
        pack_file(tmp_path / "model.onnx", tmp_path / "model.onnx.packed")
    assert not (tmp_path / "model.onnx.packed").exists()


def test_a_damaged_packed_file_is_named_when_its_size_is_evaluated(small, tmp_path):
    model = onnx.load_model_from_string(file_of(numpy.arange(99)))
    onnx.helper.set_model_props(model, {"provenance": "{}"})
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "model.onnx.packed").write_bytes(small[:-1])
    with pytest.raises(UserError, match=r"model\.onnx\.packed: damaged"):
        evaluate_size(tmp_path / "model.onnx", tmp_path / "model.onnx.packed", tmp_path / "size.json")
    assert not (tmp_path / "size.json").exists()
