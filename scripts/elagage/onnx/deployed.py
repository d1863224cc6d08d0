"""ONNX files as they are deployed: described, checked, and without what export and quantization leave behind."""

import itertools
import json
import os
from collections.abc import Iterator, Mapping

import onnx

from elagage.data import Dataset
from elagage.files import whole_file
from elagage.onnx.contents import subgraphs
from elagage.version import VERSION

NOTES = ("doc_string", "metadata_props")


LEFT_OUT = {"kept_channels", "prunable"}  # of the provenance: long, and of use only with the checkpoint


def write_deployed(path: str | os.PathLike, model: onnx.ModelProto, dataset: Dataset, provenance: Mapping) -> None:
    """Write the model, stripped, with class names, preprocessing and provenance in its metadata, whole or not at all.

    Elagage's version is added to the provenance. The model is changed in place. Raises onnx.checker.ValidationError for
    a model that ONNX does not allow.
    """
    strip(model)
    describe(
        model,
        {
            "classes": dataset.classes,
            "preprocessing": dataset.preprocessing(),
            "provenance": {key: provenance[key] for key in provenance if key not in LEFT_OUT} | {"elagage": VERSION},
        },
    )
    onnx.checker.check_model(model)
    with whole_file(path) as temporary:
        onnx.save(model, temporary)


def describe(model: onnx.ModelProto, content: Mapping) -> None:
    """Write `content` into the metadata of the model, one JSON text per key, and drop all that export left there."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.ClearField("doc_string")
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in content.items()})


def description(model: onnx.ModelProto) -> dict:
    """Return what `describe` wrote."""
    return {entry.key: json.loads(entry.value) for entry in model.metadata_props}


def strip(model: onnx.ModelProto) -> None:
    """Remove notes, shapes of intermediate values and names of nodes; shorten names; join equal vectors.

    Inputs and outputs of the model keep their names, initializers too, unless an equal one comes earlier. The model's
    own metadata stays. Initializers become raw bytes, which pack better than lists of numbers.
    """
    graph = model.graph
    graph.ClearField("value_info")
    graph.ClearField("quantization_annotation")
    for message in _messages(graph):
        for field in NOTES:
            message.ClearField(field)
    for node in graph.node:
        node.ClearField("name")
    for tensor in graph.initializer:
        if not (tensor.raw_data or tensor.string_data or tensor.external_data):
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    _rename(graph, _join_equal_vectors(graph) | _short_names(graph))


def _messages(graph: onnx.GraphProto) -> Iterator:
    """Yield the graph and all in it that may have notes, not below subgraphs."""
    yield graph
    yield from (*graph.input, *graph.output, *graph.node, *graph.initializer)


def _join_equal_vectors(graph: onnx.GraphProto) -> dict[str, str]:
    """Drop each vector or scalar that equals an earlier one, bit for bit; return its name -> that of the earlier one.

    Weights stay even if they are equal, as pruned layers may be when nothing is left of them: they are counted.
    """
    fixed = {value.name for value in (*graph.input, *graph.output)}
    first: dict[tuple, str] = {}
    renamed, kept = {}, []
    for tensor in graph.initializer:
        key = tensor.data_type, tuple(tensor.dims), tensor.raw_data
        joins = len(tensor.dims) < 2 and tensor.name not in fixed and tensor.raw_data
        if joins and first.setdefault(key, tensor.name) != tensor.name:
            renamed[tensor.name] = first[key]
        else:
            kept.append(tensor)
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
    return renamed


def _short_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Return a number as a new name for each value between two nodes of the main graph."""
    fixed = {value.name for value in (*graph.input, *graph.output, *graph.initializer)} | set(_inner_names(graph))
    values = [name for node in graph.node for name in node.output if name and name not in fixed]
    free = (str(number) for number in itertools.count() if str(number) not in fixed)
    return dict(zip(values, free, strict=False))


def _inner_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield the names that subgraphs define."""
    for node in graph.node:
        for inner in subgraphs(node):
            yield from (value.name for value in (*inner.input, *inner.initializer))
            yield from (name for inside in inner.node for name in inside.output)
            yield from _inner_names(inner)


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values wherever they are used; ONNX lets no subgraph define a name again that is visible there."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in subgraphs(node):
            _rename(inner, names)
            for value in inner.output:
                value.name = names.get(value.name, value.name)
