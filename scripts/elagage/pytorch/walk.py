"""A network's exported program, computed node by node for all images; results are there while they are needed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from elagage.pytorch.export import NETWORK
from elagage.pytorch.pruning import memory_of


class Walk:
    """The values of a program's nodes: one for each chunk of images where it depends on them, else one for all.

    network: the one that the program was exported from, or one of the same shapes; its tensors may change on the way.
    chunks: uint8 [n, channels, height, width] each.
    """

    def __init__(self, program: torch.export.ExportedProgram, network: nn.Module, chunks: list[torch.Tensor]):
        self.chunks = chunks
        self.nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        self.state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        self.constants: dict[fx.Node, object] = {}
        self.values: dict[fx.Node, list] = {}
        self.names: dict[fx.Node, str] = {}  # node -> name in the state dict, the first of tensors that are shared
        firsts = {memory_of(tensor): name for name, tensor in reversed(self.state.items())}
        targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
        tensors = {**program.state_dict, **program.constants}
        for node in program.graph.find_nodes(op="placeholder"):
            target = targets[node.name]
            name = (target or "").removeprefix(NETWORK)
            if target is None:
                self.values[node] = list(chunks)
            elif target.startswith(NETWORK) and name in self.state:
                self.names[node], self.constants[node] = firsts[memory_of(self.state[name])], self.state[name]
            else:
                self.constants[node] = tensors[target]
        self.varying = {*self.values}  # nodes that depend on the images
        for node in self.nodes:
            if not self.varying.isdisjoint(node.all_input_nodes):
                self.varying.add(node)
        places = {node: place for place, node in enumerate(program.graph.nodes)}
        self.ending: dict[fx.Node, list[fx.Node]] = defaultdict(list)  # node -> what no later one needs
        for node in program.graph.nodes:
            self.ending[max(node.users, key=places.__getitem__, default=node)].append(node)

    def compute(self, node: fx.Node) -> None:
        """Compute a node whose sources are computed, and forget those that no later node needs."""
        ending = [self.values[source] for source in self.ending[node] if source in self.values]
        if node in self.varying:
            self.values[node] = results = []
            for place in range(len(self.chunks)):
                results.append(self._call(node, self._sources(node, place)))
                for values in ending:
                    values[place] = None
        else:
            self.constants[node] = self._call(node, self.constants)
        for source in self.ending[node]:
            self.values.pop(source, None)

    def arguments(self, node: fx.Node, place: int) -> dict:
        """Return the arguments of a node, by name, for the chunk at `place`."""
        return _named_arguments(node, self._sources(node, place))

    def ahead(self, first: int, calls: Iterable[fx.Node], place: int) -> dict[fx.Node, tuple[dict, torch.Tensor]]:
        """Return arguments and results of later calls for the chunk at `place`; first: of `nodes`, not computed yet."""
        wanted, found = {*calls}, {}
        values = dict(self.constants) | {node: values[place] for node, values in self.values.items()}
        for node in self.nodes[first:]:
            values[node] = self._call(node, values)
            if node in wanted:
                found[node] = _named_arguments(node, values), values[node]
            if len(found) == len(wanted):
                break
        return found

    @property
    def nbytes(self) -> int:
        """The bytes of all values that depend on the images, now."""
        storages = {}
        for value in pytree.tree_leaves(list(self.values.values())):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        return sum(storages.values())

    def _sources(self, node: fx.Node, place: int) -> Mapping[fx.Node, object]:
        return {
            source: self.values[source][place] if source in self.values else self.constants[source]
            for source in node.all_input_nodes
        }

    @staticmethod
    def _call(node: fx.Node, values: Mapping[fx.Node, object]):
        arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        return node.target(*arguments, **keywords)


def _named_arguments(node: fx.Node, values: Mapping[fx.Node, object]) -> dict:
    """Return the arguments of a node's operator by name, with its defaults."""
    schema = node.target._schema.arguments
    arguments, keywords = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | dict(zip((argument.name for argument in schema), arguments, strict=False)) | keywords
