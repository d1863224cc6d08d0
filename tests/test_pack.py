"""Packed files: the same bytes come back, near the entropy of the weights; whatever is damaged or forged is refused."""

import base64
import hashlib
import io
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
import zstandard
from test_quantize import DATASET, NETWORKS, images, lively, tensors

from elagage import streams
from elagage.entropy import entropy_bytes
from elagage.errors import UserError
from elagage.onnx.deployed import strip
from elagage.onnx.graph import with_weights
from elagage.onnx.quantization import quantize
from elagage.onnx.tensors import initializers
from elagage.packed import (
    HEADER,
    LZMA,
    MAGIC,
    SMALL,
    VERSION,
    Tensor,
    bound_bytes,
    pack,
    packed_weight_bytes,
    unpack,
)
from elagage.pytorch.export import export_graph
from elagage.pytorch.pruning import magnitude_prune
from elagage.streams import BITS, BYTES, CODED, SHORT, STREAM, ZSTD, read, written
from pack import pack_variant
from unpack import unpack_to

SCRIPTS = pathlib.Path("scripts")
FLOATS = ("float16", "float32", "float64", "bfloat16", "float8_e4m3fn")
INTEGERS = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "int4", "uint4")
COMPLEX = ("complex64", "complex128")
SHAPES = ((), (0,), (1,), (17,), (5, 0), (64, 3), (9, 4, 3, 3))


def dtype_of(name: str) -> numpy.dtype:
    return numpy.dtype(getattr(ml_dtypes, name, None) or name)


def random_array(random: numpy.random.Generator, dtype: str, shape: tuple[int, ...], sparsity: float) -> numpy.ndarray:
    """Return an array of any bits: of floats also -0.0, infinities and NaN of all kinds; a share of it is zero."""
    dtype_ = dtype_of(dtype)
    if dtype == "bool":
        array = random.random(shape) < 0.5
    elif dtype.endswith("int4"):
        array = random.integers(0, 8, shape).astype(dtype_)
    else:
        bits = random.integers(0, 256, (*shape, dtype_.itemsize), dtype=numpy.uint8)
        array = bits.view(dtype_)[..., 0]
    return numpy.where(random.random(shape) < sparsity, numpy.zeros((), dtype_), array)


def file_of(*arrays: numpy.ndarray) -> bytes:
    """Return an ONNX file with these initializers and no node."""
    constants = [onnx.numpy_helper.from_array(array, f"tensor{number}") for number, array in enumerate(arrays)]
    return onnx.helper.make_model(onnx.helper.make_graph([], "constants", [], [], constants)).SerializeToString()


def packed_file(tmp_path: pathlib.Path, content: bytes) -> pathlib.Path:
    path = tmp_path / "model.onnx.packed"
    path.write_bytes(pack(content, initializers(content)))
    return path


@pytest.fixture(params=[0, SHORT], ids=["all may be coded", "short are not"])
def short(request, monkeypatch):
    """Let short streams be coded too, or not."""
    monkeypatch.setattr(streams, "SHORT", request.param)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, *COMPLEX])
def test_every_type_and_shape_comes_back(tmp_path, dtype):
    random = numpy.random.default_rng(0)
    arrays = [random_array(random, dtype, shape, sparsity) for shape in SHAPES for sparsity in (0, 0.5, 1)]
    content = file_of(*arrays)
    large = [array for array in arrays if array.size >= 32]
    assert len(initializers(content)) >= len(large)
    assert unpack(packed_file(tmp_path, content)) == content


def test_special_values_keep_their_bits(tmp_path):
    bits = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFC12345, 0x00000001]
    array = numpy.array(bits * 4, numpy.uint32).view(numpy.float32)
    content = file_of(array)
    (found,) = initializers(content)
    assert found.values == 32
    restored = onnx.load_model_from_string(unpack(packed_file(tmp_path, content))).graph.initializer[0]
    assert restored.raw_data == array.tobytes()


@pytest.mark.usefixtures("short")
def test_random_files_come_back(tmp_path):
    random = numpy.random.default_rng(1)
    for _ in range(60):
        arrays = []
        for _ in range(random.integers(0, 12)):
            dtype = str(random.choice([*FLOATS, *INTEGERS, *COMPLEX]))
            shape = tuple(random.integers(0, 20, random.integers(0, 4)).tolist())
            arrays.append(random_array(random, dtype, shape, random.choice([0, 0.1, 0.9, 0.999, 1])))
        content = file_of(*arrays)
        assert unpack(packed_file(tmp_path, content)) == content


def test_what_is_not_raw_bytes_of_the_main_graph_stays_in_place(tmp_path):
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
    assert unpack(packed_file(tmp_path, content)) == content


def test_equal_and_contained_tensors_come_back(tmp_path):
    """Where bytes of a tensor lie twice in the file, the first place is taken, which is another tensor's or none's."""
    zeros, ones = numpy.zeros(100, numpy.float32), numpy.ones(20, numpy.float32)
    content = file_of(ones, zeros, zeros, numpy.concatenate([ones, zeros, ones]), ones, zeros[:5])
    assert len(initializers(content)) == 6
    assert unpack(packed_file(tmp_path, content)) == content


def test_a_tensor_is_found_though_its_beginning_stands_before_it():
    text = b"as a name begins, so does the tensor"
    array = numpy.frombuffer(text, numpy.uint8)
    constant = onnx.numpy_helper.from_array(array, "x")
    names = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [text[:20].decode()], ["y"])], "g", [], [], [constant]
    )
    content = onnx.helper.make_model(names).SerializeToString()
    (tensor,) = initializers(content)
    assert content.index(text[:20]) < tensor.start
    assert content[tensor.start : tensor.end] == text


@pytest.fixture(scope="module")
def exported() -> dict[tuple[str, float], bytes]:
    """ONNX files of a ResNet-20, stripped as they are saved: (mode, global rate) -> content."""
    graph = onnx_ir.to_proto(export_graph(NETWORKS["resnet20"](), DATASET))
    files = {}
    for rate in (0, 0.9):
        network = lively(NETWORKS["resnet20"]())
        magnitude_prune(network, "global", rate)
        float32 = with_weights(onnx_ir.from_proto(graph), tensors(network))
        for mode in ("none", "dynamic", "dynamic_conv", "static"):
            model = float32 if mode == "none" else quantize(float32, mode, images(64) if mode == "static" else None)
            model = onnx.ModelProto.FromString(model.SerializeToString())
            strip(model)
            files[mode, rate] = model.SerializeToString()
    return files


def test_exported_models_come_back_near_their_entropy(exported, tmp_path):
    for (mode, rate), content in exported.items():
        path = tmp_path / f"{rate}-{mode}.onnx"
        path.write_bytes(content)
        pack_variant(str(path), f"{path}.packed")
        unpack_to(f"{path}.packed", f"{path}.copy", force=False)
        assert (tmp_path / f"{rate}-{mode}.onnx.copy").read_bytes() == content
        weights = [tensor for tensor in initializers(content) if tensor.weight]
        bound, packed = bound_bytes(content, weights), packed_weight_bytes(f"{path}.packed")
        assert 0.9 * bound < packed < 1.04 * bound, (mode, rate)
        # 2 kB of names, and for each of 688 channels, with static, a scale, a bias and its scale, of 4 bytes each.
        assert 0 < pathlib.Path(f"{path}.packed").stat().st_size - packed < 12_000


def test_the_bound_is_the_entropy_of_the_mask_and_of_each_byte():
    byte = numpy.zeros((8, 8), numpy.uint8)
    byte[:4] = numpy.arange(32).reshape(4, 8) % 4 + 1  # half of 64 are not zero: four values, equally often
    (tensor,) = initializers(file_of(byte))
    assert bound_bytes(file_of(byte), [tensor]) == 64 / 8 + 32 * 2 / 8
    word = byte.astype(numpy.uint16) * 256 + numpy.where(byte, 7, 0).astype(numpy.uint16)
    (tensor,) = initializers(file_of(word))
    assert (tensor.values, tensor.width) == (64, 2)
    assert bound_bytes(file_of(word), [tensor]) == 64 / 8 + 32 * 2 / 8 + 0  # the lower byte says nothing


def entropy_of_one(symbols: numpy.ndarray) -> float:
    return entropy_bytes(symbols, [len(symbols)])


def test_entropies_of_sequences_add_up():
    symbols = numpy.repeat(numpy.array([1, 2, 3, 4], numpy.uint8), [50, 50, 100, 28])
    assert entropy_bytes(symbols, [100, 0, 100, 28]) == 100 / 8  # one bit for each of the first hundred
    assert entropy_bytes(symbols[:0], [0]) == 0


def test_the_coder_of_bytes_learns_from_short_sequences():
    skewed = numpy.minimum(numpy.random.default_rng(0).geometric(0.3, 64 * 100), 255).astype(numpy.uint8)
    lengths = [64] * 100
    coded = BYTES.encode(skewed, lengths)
    assert len(coded) < 1.1 * entropy_of_one(skewed) < 0.5 * len(skewed)
    assert (BYTES.decode(coded, lengths) == skewed).all()


@pytest.mark.parametrize("ones", [0, 30, 570, 10_000, 123_457, 5_000_000, 9_990_000, 10_000_000])
def test_the_coder_of_bits_reaches_their_entropy(ones):
    """A byte for each sequence, at most 3.4e-5 bits for each bit, and what fills up the last words."""
    bits = numpy.zeros(10_000_000, bool)
    bits[numpy.random.default_rng(0).permutation(len(bits))[:ones]] = True
    coded = BITS.encode(numpy.packbits(bits), [1_000_000, 250_000])
    entropy = sum(entropy_of_one(part.view(numpy.uint8)) for part in (bits[:8_000_000], bits[8_000_000:]))
    assert entropy + 2 <= len(coded) <= entropy + 2 + 3.5e-5 * len(bits) / 8 + 12


def test_the_coder_of_bytes_keeps_few_models_of_many_sequences_in_memory():
    symbols = numpy.random.default_rng(0).integers(0, 256, 4000 * 500, dtype=numpy.uint8)
    tracemalloc.start()
    try:
        BYTES.encode(symbols, [500] * 4000)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


LITTLE_MEMORY = """
import pathlib, re, resource
from elagage.entropy import decode_bits, encode_bits
import numpy
coded = encode_bits(numpy.zeros(40_000_000, numpy.uint8), [40_000_000])
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 80_000_000,) * 2)  # constriction would take 160 MB for all at once
assert not decode_bits(coded, [40_000_000]).any()
"""


def test_a_large_mask_is_decoded_in_little_memory():
    """Where memory is too small for constriction, it ends the process."""
    done = subprocess.run([sys.executable, "-c", LITTLE_MEMORY], env={"PYTHONPATH": "scripts"}, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("lengths", [[], [0], [0, 1, 0], [63, 64, 65], [1] * 30, [100_000, 3]])
@pytest.mark.parametrize("coder", [BITS, BYTES])
def test_symbols_come_back(lengths, coder):
    symbols = numpy.random.default_rng(0).integers(0, 256, sum(lengths), dtype=numpy.uint8)
    assert (coder.decode(coder.encode(symbols, lengths), lengths) == symbols).all()


def test_symbols_that_were_not_expected_come_back():
    symbols = numpy.repeat(numpy.array([0, 255, 7, 255], numpy.uint8), [100_000, 3, 50_000, 1000])
    for lengths in ([151_003], [100_000, 51_003], [100_003, 50_000, 1000]):
        for coder in (BITS, BYTES):
            assert (coder.decode(coder.encode(symbols, lengths), lengths) == symbols).all()


@pytest.mark.parametrize("length", range(8000, 10_000, 100))
def test_the_last_symbol_of_the_alphabet_is_never_impossible(length):
    """constriction gives a last symbol of next to no frequency the probability 0, at one in eight lengths."""
    symbols = numpy.random.default_rng(length).integers(0, 100, 8000 + length).astype(numpy.uint8)
    symbols[-1] = 255
    coded = BYTES.encode(symbols, [length, 8000])
    assert (BYTES.decode(coded, [length, 8000]) == symbols).all()


CODED_BY_VERSION_5 = {BITS: "bbed6756c2c071d0", BYTES: "a4eb016c6104d77e"}


@pytest.mark.parametrize("coder", CODED_BY_VERSION_5)
def test_files_of_this_version_of_the_format_stay_readable(coder):
    """Whatever changes these bytes needs another VERSION; symbols come from integers alone, the same everywhere."""
    numbers = numpy.arange(200_000, dtype=numpy.uint64)
    random = (numbers * 2654435761 % 2**32 >> 16).astype(numpy.uint8)
    symbols = random & numpy.roll(random, 1) & numpy.roll(random, 5)
    coded = coder.encode(symbols, [180_000, 1, 10_000, 0, 9_999])
    assert hashlib.sha256(coded).hexdigest()[:16] == CODED_BY_VERSION_5[coder]


def forms_and_sizes(packed: pathlib.Path) -> list[tuple[int, int]]:
    """Return (form, bytes) of each stream of a packed file."""
    body = packed.read_bytes()[len(MAGIC) + 32 :]
    *_, frame = HEADER.unpack_from(body)
    position, found = HEADER.size + frame, []
    while position < len(body):
        found.append(STREAM.unpack_from(body, position))
        position += STREAM.size + found[-1][1]
    assert position == len(body)
    return found


WHOLE_FILE = """
T05OWFBBQ0vDgJwc/NpFPpgjA5WpvJi7WKpvsbVEoQJdoHRrYASxzAUAMC41LjAAAAAAAAAAAAAAACDOM44v1h8wCDOVXHayum9MAJz1vVYqmPIJ
zW5iLi+Q2iwBAAAAAAA1AAAAAAAAAOAANQAtAAABADtd9/Omclt60SsF9W+PaVQi7/QZDz1eIbShn1QZM/GCd2sJaeqRPVyu9wAAABMAAAAAAAAA
KLUv/WBxAU0AABD//wEAbCqABQHEAAAAAAAAAFC4jDUbo/GuRVR6lLvOWa6TtGu8O0K+24MRRzHURidw9AVcYtrUNwI2obmNRCXTPxyVOHyQkpKI
B4QIvm+7PfZ8BL8NPyYu3lBIshxhKgdr2oiEFLyVve9ty2WEYbgQyF2PLp40jy3lXrPkSujtQUrapxx3iGg8m45GsXSl9AoB3HJn1SYDbzCQBDgM
Q7w8IyYpcwb4RROZbaaGgx3LL9KUDgEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBXgYBaQAAAAAAAAAGCtlkuojAw9w0MtTa5878fhqG
xNaj5fRaUAmY3PdoEoFAC4SAgWb0aQ+OWs5im7Rr+oCMscWZHlAAbGLEyOL9mvZEQsTEq0oCh1nAelOFQc1XMPwOpFXFLs3UxVaEcI4VuP1RUz7u
PQoAWAAAAAAAAAAotS/9IE95AgDJV+j0XDvDS3O+scUSqORGCw2kRTKU0d3AYsZXP4ZKcEQKGFjMF4tuz4rUX3bjO89I4QKl+XVkDzs/NLDqL6kJ
XqiIZhQ3TK3WWcpIW9eDADkAAAAAAAAAKLUv/SBPhQEAuAEBAQABAQAAAQAAAAAAAQABAQEAAAEBCgBLCYBUocoNlrmdFy8NZgrsDl4aAFaQ
"""


def test_a_whole_file_of_this_version_stays_readable(tmp_path):
    """Not that the same bytes are packed again: other versions of zstandard and LZMA may write others."""
    random = numpy.random.RandomState(0)  # NumPy never changes its numbers
    skewed = 1 + (random.randint(0, 100, 5000) < 2).astype(numpy.uint8)
    sparse = random.randint(1, 500, 36_000) * (random.randint(0, 1000, 36_000) < 2)
    path = tmp_path / "model.onnx.packed"
    path.write_bytes(base64.b64decode(WHOLE_FILE))
    assert VERSION == 5
    assert [form for form, _ in forms_and_sizes(path)] == [ZSTD, CODED, CODED, ZSTD, ZSTD]
    assert unpack(path) == b"before" + skewed.tobytes() + b"between" + sparse.astype("<u2").tobytes() + b"after"


@pytest.mark.parametrize("columns", [27, 27_000])
def test_the_mask_of_a_dense_tensor_of_odd_length_takes_some_bytes(tmp_path, columns):
    weights = numpy.arange(1.0, 1 + 5 * columns, dtype=numpy.float32).reshape(5, columns)
    mask, *_ = forms_and_sizes(packed_file(tmp_path, file_of(weights)))
    assert mask[1] <= 24


def test_zstandard_is_taken_for_bytes_of_which_it_loses_little(tmp_path):
    random = numpy.random.default_rng(0)
    # Of the last, 2.4 bits a value, Huffman's whole bits lose much.
    uniform, normal, laplace = (draw(size=90_000) for draw in (random.random, random.normal, random.laplace))
    for values, form in ((254 * uniform - 127, ZSTD), (40 * normal, ZSTD), (laplace, CODED)):
        weights = values.clip(-127, 127).astype(numpy.int8).reshape(300, 300)
        weights[weights == 0] = 1
        _, (found, size) = forms_and_sizes(packed_file(tmp_path, file_of(weights)))
        assert found == form
        assert size < entropy_of_one(weights.view(numpy.uint8).ravel()) + weights.size / 64


def form(stream: bytes) -> int:
    return STREAM.unpack_from(stream)[0]


def test_models_of_many_sequences_count_as_time():
    random = numpy.random.default_rng(0)
    parts = [random.normal(0, deviation, 2000) for deviation in [8, 12] * 5]
    symbols = numpy.concatenate(parts).clip(-127, 127).astype(numpy.int8).view(numpy.uint8)
    assert form(written(symbols, [2000] * 10, BYTES)) == ZSTD
    assert form(written(symbols, [2000] * 10, BYTES._replace(overhead=0))) == CODED


def test_masks_whose_ones_come_by_the_byte_are_left_to_zstandard():
    """For which bits are not independent, as they are for the coder."""
    clustered = (numpy.random.default_rng(0).random(100_000) < 0.05).astype(numpy.uint8) * 255
    stream = written(clustered, [len(clustered)], BITS)
    assert form(stream) == ZSTD
    assert 2 * entropy_of_one(clustered) < len(stream) < len(BITS.encode(clustered, [len(clustered)])) / 2


def test_masks_cost_no_time_for_models_and_equal_bytes_none_at_all():
    bits = numpy.random.default_rng(0).random(8 * 40_000) < 0.5
    bits[::16] = True
    mask = numpy.packbits(bits)
    lengths = [2000] * 20
    assert form(written(mask, lengths, BITS)) == CODED
    assert form(written(mask, lengths, BITS._replace(overhead=BYTES.overhead))) == ZSTD
    equal = numpy.full_like(mask, 255)
    assert len(BITS.encode(equal, [40_000])) < len(zstandard.compress(equal, 1))
    assert form(written(equal, [40_000], BITS)) == ZSTD


def test_a_stream_of_another_form_is_none():
    with pytest.raises(ValueError, match="a stream of form 3"):
        read(io.BytesIO(b"\3" + zstd_stream(8)[1:]), [8], BITS)


def test_short_streams_are_left_to_zstandard():
    skewed = (numpy.random.default_rng(0).random(SHORT + 1) < 0.1).astype(numpy.uint8)
    for length, expected in ((SHORT, ZSTD), (SHORT + 1, CODED)):
        assert len(BYTES.encode(skewed[:length], [length])) < len(zstandard.compress(skewed[:length], 1))
        assert form(written(skewed[:length], [length], BYTES)) == expected


def test_sparse_masks_are_coded_near_their_entropy(tmp_path):
    """At one weight in 1,000 Zstandard takes nearly twice as much, though little for each symbol."""
    kept = numpy.random.default_rng(0).random((1000, 1000)) < 0.001
    path = packed_file(tmp_path, file_of(kept.astype(numpy.float32)))
    (found, size), *_ = forms_and_sizes(path)
    assert found == CODED
    assert size < 1.05 * entropy_of_one(kept.view(numpy.uint8).ravel()) + 50


def test_bytes_of_weights_are_those_of_their_streams_and_of_the_table(tmp_path):
    weights = numpy.random.default_rng(0).normal(0, 1, (100, 100)).astype(numpy.float32)
    path = packed_file(tmp_path, file_of(weights))
    of_streams = sum(STREAM.size + size for _, size in forms_and_sizes(path))
    assert 0 < packed_weight_bytes(path) - of_streams < 40


def test_tensors_of_nothing_come_back(tmp_path):
    path, content = tmp_path / "model.onnx.packed", bytes(range(40))
    for empty in ([Tensor(0, 0, 4, True)], [Tensor(0, 0, 1, True), Tensor(0, 0, 1, False)]):
        path.write_bytes(pack(content, [*empty, Tensor(0, 10, 4, True)]))
        assert unpack(path) == content


def test_a_sequence_like_the_ones_before_costs_less_to_learn():
    random = numpy.random.default_rng(0)
    deviations = [20] * 20 + [16] * 5
    parts = [random.normal(0, deviation, 700).astype(numpy.int8).view(numpy.uint8) for deviation in deviations]
    bound = entropy_bytes(numpy.concatenate(parts), [700] * len(parts))
    together = len(BYTES.encode(numpy.concatenate(parts), [700] * len(parts)))
    assert bound < together < 1.04 * bound
    alone = sum(len(BYTES.encode(part, [700])) for part in parts)
    assert together < 0.95 * alone


@pytest.mark.parametrize(("dtype", "without"), [("int8", True), ("int16", False), ("float32", False)])
def test_a_mask_is_left_out_of_bytes_of_which_few_are_zero(tmp_path, dtype, without):
    random = numpy.random.default_rng(0)
    normal = random.normal(0, 20, (100, 1000))
    dense = numpy.where(abs(normal) < 1, 0, normal).astype(dtype)
    pruned = numpy.where(abs(normal) < 20, 0, normal).astype(dtype)
    assert 0.01 < (dense == 0).mean() < 1 / 16 < (pruned == 0).mean()
    for array, masked in ((dense, not without), (pruned, True)):
        path = packed_file(tmp_path, file_of(array))
        assert (forms_and_sizes(path)[0][1] > 100) == masked
        stored = array.nbytes if not masked else numpy.count_nonzero(array) * array.itemsize
        bound = bound_bytes(file_of(array), initializers(file_of(array)))
        assert packed_weight_bytes(path) < 1.01 * bound + stored / 64 + 100
        assert unpack(path) == file_of(array)


@pytest.fixture
def small(tmp_path) -> pathlib.Path:
    """A packed file with streams of both forms, weights and vectors."""
    random = numpy.random.default_rng(0)
    weights = random.normal(0, 0.1, (20, 20)).astype(numpy.float32) * (random.random((20, 20)) < 0.2)
    int8 = (random.random((100, 60)) < 0.02).astype(numpy.int8) + 1
    float16 = random.random((200, 180)).astype(numpy.float16) * (random.random((200, 180)) < 0.002)
    path = packed_file(tmp_path, file_of(weights, int8, float16, random.random(10)))
    assert unpack(path)
    assert {form for form, _ in forms_and_sizes(path)} == {ZSTD, CODED}
    return path


def test_every_flipped_byte_is_noticed(small):
    content = small.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        small.write_bytes(damaged)
        with pytest.raises(UserError, match=r"model\.onnx\.packed: (damaged or cut short|not a packed)"):
            unpack(small)


def test_truncation_is_noticed(small):
    content = small.read_bytes()
    for length in range(0, len(content), 3):
        small.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"model\.onnx\.packed: (damaged or cut short|not a packed)"):
            unpack(small)
    small.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="damaged or cut short"):
        unpack(small)


def test_other_files_are_not_packed_files(tmp_path):
    foreign = [b"", b"ONNX", file_of(numpy.arange(99)), lzma.compress(b"x" * 99), b"\x28\xb5\x2f\xfd" + bytes(99)]
    for content in foreign:
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(UserError, match=r"foreign: not a packed ONNX file; name one that ends in \.onnx\.packed"):
            unpack(tmp_path / "foreign")


def signed(body: bytes) -> bytes:
    """Return a forged packed file whose checksum is right."""
    return MAGIC + hashlib.sha256(body).digest() + body


def test_another_version_asks_for_the_elagage_that_packed_it(small):
    body = small.read_bytes()[len(MAGIC) + 32 :]
    for version in (VERSION + 1, 0):
        small.write_bytes(signed(struct.pack("<H", version) + body[2:]))
        expected = rf"model\.onnx\.packed: packed in version {version} .* the Elagage that packed it"
        with pytest.raises(UserError, match=expected):
            unpack(small)


def test_a_forged_file_is_refused(small):
    """Bytes, cuts and joints at any place of a file with a right checksum."""
    body = small.read_bytes()[len(MAGIC) + 32 :]
    random = numpy.random.default_rng(0)
    for number in range(600):
        forged = bytearray(body)
        # Not in the versions, of the format and of constriction: these are only told.
        start, size = random.integers(18, len(body)), random.integers(1, 9)
        if number < 300:
            start = random.integers(18, HEADER.size + 300)
        forged[start : start + size] = random.bytes(random.integers(0, 9))
        if forged == body:
            continue
        small.write_bytes(signed(bytes(forged)))
        expected = r"model\.onnx\.packed: arrived as it was written, but cannot be unpacked .*use constriction "
        with pytest.raises(UserError, match=expected):
            unpack(small)


def header(size: int, frame: int) -> bytes:
    return HEADER.pack(VERSION, b"0.5.0", bytes(32), size, frame)


def forged_frame(table: list[tuple[int, int, int, int]], kept: bytes, size: int, streams: bytes = b"") -> bytes:
    rows = numpy.array(table, "<u4").reshape(-1, 4).T.tobytes()
    frame = lzma.compress(struct.pack("<I", len(table)) + rows + kept, **LZMA)
    return signed(header(size, len(frame)) + frame + streams)


HUGE = 2**32 - 1
STREAMS = STREAM.pack(CODED, 4) + bytes([1, 2, 3, 4])


def zstd_stream(size: int, announced: int | None = None) -> bytes:
    """Return a stream of zeros, the frame of which announces another size, or any that needs eight bytes."""
    frame = zstandard.compress(bytes(size))
    if announced is not None:
        # RFC 8878: magic, a descriptor whose top bits say how long the size is, it, blocks.
        length = {0: 1, 1: 2, 2: 4, 3: 8}[frame[4] >> 6]
        assert frame[4] & 0b100000, "a single segment, which has no byte for a window"
        frame = frame[:4] + bytes([frame[4] | 0b11000000]) + struct.pack("<Q", announced) + frame[5 + length :]
    return STREAM.pack(ZSTD, len(frame)) + frame


BOMBS = {
    "the file": forged_frame([], b"abc", 2**63),
    "the frame": signed(header(9, 2**63) + b"abc"),
    "a frame of zeros": forged_frame([], bytes(2 * SMALL), 2 * SMALL),
    "the number of tensors": signed(header(9, len(frame := lzma.compress(struct.pack("<I", HUGE), **LZMA))) + frame),
    "tensors that it has": forged_frame([(0, 0, 1, 1)] * 4_000_000, b"abc", 3, STREAMS * 2),
    "an empty frame": signed(header(9, 0)),
    "a tensor": forged_frame([(0, HUGE, 8, 1)], b"", 8 * HUGE, STREAMS * 9),
    "a tensor as large as allowed": forged_frame([(0, SMALL, 1, 1)], b"", SMALL, STREAMS * 2),
    "many tensors": forged_frame([(0, HUGE, 1, 1)] * 1000, b"", 9, STREAMS * 2),
    "the gap before a tensor": forged_frame([(HUGE, 16, 1, 1)], b"abc", 19, STREAMS * 2),
    "the width": forged_frame([(0, 16, 3, 1)], b"abc", 51, STREAMS * 4),
    "a stream": forged_frame([(0, 16, 1, 1)], b"abc", 19, STREAM.pack(CODED, 2**63) + b"abc"),
    "a zstd stream": forged_frame([(0, 16, 1, 1)], b"abc", 19, STREAM.pack(ZSTD, 2**63) + b"abc"),
    "no zstd frame": forged_frame([(0, 16, 1, 1)], b"abc", 19, STREAM.pack(ZSTD, 4) + b"abcd"),
    "a zstd frame of more": forged_frame([(0, 64, 1, 1)], b"abc", 67, zstd_stream(20 * SMALL) + STREAMS),
    "a zstd frame of less": forged_frame([(0, 64, 1, 1)], b"abc", 67, zstd_stream(7) + STREAMS),
    "a zstd frame of more than it says": forged_frame([(0, 64, 1, 1)], b"abc", 67, zstd_stream(100_000, 8)),
    "a zstd frame of less than it says": forged_frame([(0, SMALL, 1, 1)], b"", SMALL, zstd_stream(9, SMALL // 8)),
    "a zstd frame of next to all memory": forged_frame([(0, 64, 1, 1)], b"abc", 67, zstd_stream(9, 2**62)),
    "mask of a large tensor": forged_frame([(0, SMALL, 8, 1)], b"", 8 * SMALL, zstd_stream(SMALL // 8) + STREAMS * 8),
    "the form of a stream": forged_frame([(0, 64, 1, 1)], b"abc", 67, b"\3" + zstd_stream(8)[1:] + STREAMS),
    "a tensor without values": forged_frame([(0, 0, 1, 1), (0, 0, 4, 0)], b"abc", 3, STREAMS * 7),
}


@pytest.mark.parametrize("what", BOMBS)
def test_absurd_sizes_are_refused_without_taking_memory(what, tmp_path):
    path = tmp_path / "bomb.onnx.packed"
    path.write_bytes(BOMBS[what])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bomb\.onnx\.packed: .* cannot be unpacked"):
            unpack(path)
        assert tracemalloc.get_traced_memory()[1] < 5 * SMALL
    finally:
        tracemalloc.stop()


def test_what_would_not_be_unpacked_is_not_packed():
    content = file_of(numpy.zeros((1000, 20_000), numpy.float32))
    with pytest.raises(ValueError, match="nearly all weights are equal"):
        pack(content, initializers(content))
    with pytest.raises(ValueError, match="16385 tensors"):
        pack(bytes(16), [Tensor(0, 0, 1, True)] * 16385)


def test_a_file_that_cannot_be_packed_is_named(tmp_path):
    model, packed = tmp_path / "model.onnx", tmp_path / "model.onnx.packed"
    model.write_bytes(file_of(numpy.zeros((1000, 20_000), numpy.float32)))
    with pytest.raises(UserError, match=r"model\.onnx: cannot be packed .* pruning\.rates"):
        pack_variant(model, packed)
    assert not packed.exists()


def run_unpack(*arguments, script: pathlib.Path = SCRIPTS / "unpack.py") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)


def test_the_tool_needs_no_more_files_than_the_readme_says(small, tmp_path):
    (sentence,) = re.findall(r"this\s+script, and ([^`]+) in a folder `elagage`", pathlib.Path("README.md").read_text())
    alone = tmp_path / "alone"
    (alone / "elagage").mkdir(parents=True)
    shutil.copy(SCRIPTS / "unpack.py", alone)
    for name in re.findall(r"\w+\.py", sentence):
        shutil.copy(SCRIPTS / "elagage" / name, alone / "elagage")
    done = run_unpack(small, tmp_path / "model.onnx", script=alone / "unpack.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "model.onnx").read_bytes() == unpack(small)


def test_the_tool_unpacks_and_never_shows_a_traceback(small, tmp_path):
    content, model = unpack(small), tmp_path / "new/model.onnx"
    assert run_unpack("--help").returncode == 0
    assert run_unpack(small, model).returncode == 0
    assert model.read_bytes() == content
    model.write_bytes(b"mine")
    refused = run_unpack(small, model)
    assert refused.returncode == 1
    assert refused.stderr == f"error: {model}: is there already; name another file, or replace it with --force\n"
    assert model.read_bytes() == b"mine"
    assert run_unpack(small, model, "--force").returncode == 0
    assert model.read_bytes() == content
    (tmp_path / "cut.onnx.packed").write_bytes(small.read_bytes()[:-1])
    for packed, words in (
        (tmp_path / "cut.onnx.packed", "cut short"),
        (tmp_path / "none", "No such"),
        (tmp_path, "Is a"),
    ):
        failed = run_unpack(packed, tmp_path / "other.onnx")
        assert failed.returncode == 1
        assert failed.stderr.startswith(f"error: {packed}: ") and words in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not (tmp_path / "other.onnx").exists()


def test_too_little_memory_is_said(small, tmp_path, monkeypatch):
    def pieces_in_little_memory(body, largest):
        raise MemoryError

    monkeypatch.setattr("elagage.packed._pieces", pieces_in_little_memory)
    with pytest.raises(UserError, match=r"model\.onnx\.packed: needs more memory"):
        unpack_to(small, tmp_path / "model.onnx", force=False)


def test_a_failed_job_leaves_no_packed_file(small_disk, tmp_path):
    content = file_of(numpy.random.default_rng(0).random(20_000))
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx\.packed: cannot be written"):
        pack_variant(str(tmp_path / "model.onnx"), str(small_disk / "model.onnx.packed"))
    assert not list(small_disk.iterdir())
    (tmp_path / "model.onnx").write_bytes(content[:-9])
    with pytest.raises(UserError, match=r"model\.onnx: damaged"):
        pack_variant(str(tmp_path / "model.onnx"), str(tmp_path / "model.onnx.packed"))
    assert not (tmp_path / "model.onnx.packed").exists()
