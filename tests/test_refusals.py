"""Refused cells: the reason in place of a file, found again by whoever reads that, and a study that goes on."""

import numpy
import pytest
import torch
from safetensors.torch import save_file

from elagage.data import save_array
from elagage.errors import RefusedError, UserError
from elagage.files import reading, refusal, write_json, write_refusal
from elagage.refusals import refusing

REASON = "scope channel: every layer has one channel"


@pytest.mark.parametrize("name", ["a.safetensors", "a.onnx", "a.onnx.packed", "a.json", "a.npy", "a.csv"])
def test_whoever_reads_a_refusal_learns_the_reason(tmp_path, name):
    write_refusal(tmp_path / name, REASON)
    assert refusal(tmp_path / name) == REASON
    with pytest.raises(RefusedError, match=REASON), reading(tmp_path / name):
        pytest.fail("the block was entered")


def test_other_files_are_no_refusals(tmp_path):
    save_file({"refused": torch.zeros(3)}, tmp_path / "a.safetensors")
    save_array(tmp_path / "a.npy", numpy.zeros(3))
    write_json(tmp_path / "a.json", {"images": 3, "refused": 1})
    (tmp_path / "empty").touch()
    for path in (*tmp_path.iterdir(), tmp_path / "missing", tmp_path):
        assert refusal(path) is None


def test_the_reason_is_written_in_place_of_all_outputs(tmp_path):
    outputs = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    with refusing(outputs, tmp_path / "c.npy"):
        raise RefusedError(REASON)
    assert {refusal(path) for path in tmp_path.iterdir()} == {REASON}
    assert len(list(tmp_path.iterdir())) == 3


def test_nothing_is_written_where_nothing_is_refused(tmp_path):
    with refusing(tmp_path / "a.onnx"):
        pass
    for error in (UserError("a mistake"), OSError("a full disk")):
        with pytest.raises(type(error)), refusing(tmp_path / "a.onnx"):
            raise error
    assert not list(tmp_path.iterdir())
