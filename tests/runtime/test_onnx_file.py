from __future__ import annotations

import cProfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data
from tiny_graph import graph_bytes, outsourced

from toolkit.runtime.onnx_file import (
    external_files,
    files_of_inner_tensors,
    input_shapes,
    operators,
    output_shapes,
    versions,
)


def tensor(name: str, location: str | None) -> TensorProto:
    found = numpy_helper.from_array(np.zeros(3, np.float32), name)
    if location is not None:
        found.data_location = TensorProto.EXTERNAL
        for key, value in (("offset", "0"), ("location", location), ("length", "12")):
            found.external_data.add(key=key, value=value)
    return found


def what_onnx_finds(model: ModelProto) -> set[str]:
    return {ExternalDataInfo(found).location for found in _get_all_tensors(model) if uses_external_data(found)}


class RandomModel:
    """A model of nested graphs whose tensors lie inside or outside at random; not valid, but well-formed."""

    def __init__(self, seed: int, depth_in_functions: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.count, self.depth_in_functions = 0, depth_in_functions
        self.model = helper.make_model(self.graph(3), functions=[self.function() for _ in range(self.some())])

    def some(self) -> int:
        return int(self.rng.integers(0, 3))

    def tensor(self) -> TensorProto:
        self.count += 1
        outside = self.rng.random() < 0.6
        return tensor(f"t{self.count}", f"ü/{self.rng.integers(8)}.bin" if outside else None)

    def attribute(self, depth: int) -> AttributeProto:
        kinds = ["tensor", "tensors", "number", *(["graph", "graphs"] if depth else [])]
        kind = kinds[self.rng.integers(len(kinds))]
        value = {
            "tensor": self.tensor,
            "tensors": lambda: [self.tensor(), self.tensor()],
            "number": lambda: 300,
            "graph": lambda: self.graph(depth - 1),
            "graphs": lambda: [self.graph(depth - 1), self.graph(depth - 1)],
        }[kind]()
        return helper.make_attribute("a", value)

    def node(self, depth: int) -> onnx.NodeProto:
        node = helper.make_node("Anything", ["x"], ["y"], name="node", domain="d")
        node.attribute.extend(self.attribute(depth) for _ in range(self.some()))
        return node

    def graph(self, depth: int) -> GraphProto:
        initializers = [self.tensor() for _ in range(self.some())]
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])
        return helper.make_graph([self.node(depth) for _ in range(self.some())], "g", [value], [value], initializers)

    def function(self) -> onnx.FunctionProto:
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_function("d", f"F{self.count}", ["x"], ["y"], [self.node(self.depth_in_functions)], opsets)


def test_the_same_files_are_found_as_by_the_onnx_package() -> None:
    found = 0
    for seed in range(300):
        model = RandomModel(seed).model
        expected = what_onnx_finds(model)
        assert external_files(model.SerializeToString()) == expected
        found += len(expected)
    assert found > 300


def test_graphs_inside_functions_are_looked_into_where_the_onnx_package_does_not() -> None:
    more = 0
    for seed in range(300):
        model = RandomModel(seed, depth_in_functions=2).model
        found, expected = external_files(model.SerializeToString()), what_onnx_finds(model)
        assert expected <= found
        more += len(found - expected)
    assert more > 0


def test_a_graph_in_one_file_has_none(finished_bundle: Path) -> None:
    assert external_files(graph_bytes()) == set()
    assert external_files((finished_bundle / "model.onnx").read_bytes()) == set()


def test_inputs_and_operators_are_those_that_the_onnx_package_reads(finished_bundle: Path) -> None:
    contents = [RandomModel(seed).model.SerializeToString() for seed in range(100)]
    for content in [*contents, graph_bytes(), (finished_bundle / "model.onnx").read_bytes()]:
        model = ModelProto.FromString(content)
        graph = model.graph
        for read, values in ((input_shapes, graph.input), (output_shapes, graph.output)):
            assert read(content) == {
                value.name: [
                    side.dim_value if side.HasField("dim_value") else None for side in value.type.tensor_type.shape.dim
                ]
                for value in values
            }
        assert versions(content) == (model.ir_version, {each.domain: each.version for each in model.opset_import})
        assert operators(content) >= {(node.domain, node.op_type) for node in graph.node}


def test_operators_of_subgraphs_and_functions_are_found() -> None:
    model = ModelProto.FromString(graph_bytes())
    inner = helper.make_graph([helper.make_node("Deep", [], ["y"], domain="there")], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "F", [], ["y"], [helper.make_node("InF", [], ["y"])], opsets))
    found = operators(model.SerializeToString())
    assert found == {("", "Flatten"), ("", "Gemm"), ("", "Softmax"), ("", "If"), ("there", "Deep"), ("", "InF")}


@pytest.mark.parametrize("read", [input_shapes, output_shapes, operators, versions])
def test_inputs_of_a_damaged_file_are_an_error(read: Callable[[bytes], object]) -> None:
    with pytest.raises(ValueError, match="ONNX file"):
        read(graph_bytes()[:-3])


def test_initializers_of_the_main_graph_are_told_from_all_others() -> None:
    graph, _ = outsourced("main.bin")
    assert external_files(graph) == {"main.bin"}
    assert files_of_inner_tensors(graph) == set()

    model = ModelProto.FromString(graph)
    branch = helper.make_graph([], "branch", [], [], [tensor("inner", "branch.bin")])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch))
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=tensor("k", "constant.bin")))
    sparse = helper.make_sparse_tensor(tensor("values", "values.bin"), tensor("indices", "indices.bin"), [3])
    model.graph.sparse_initializer.append(sparse)
    attributes = {"one": sparse, "many": [sparse]}
    model.graph.node.append(helper.make_node("Anything", [], ["s"], **attributes))
    model.training_info.add().algorithm.CopyFrom(helper.make_graph([], "t", [], [], [tensor("t", "training.bin")]))
    inner = {"branch.bin", "constant.bin", "values.bin", "indices.bin", "training.bin"}
    assert files_of_inner_tensors(model.SerializeToString()) == inner
    assert external_files(model.SerializeToString()) == inner | {"main.bin"}


def test_a_location_counts_whatever_the_tensor_says_of_itself() -> None:
    model = ModelProto.FromString(outsourced("hidden.bin")[0])
    for found in model.graph.initializer:
        found.data_location = TensorProto.DEFAULT
    assert external_files(model.SerializeToString()) == {"hidden.bin"}


def test_every_one_of_two_locations_counts() -> None:
    model = ModelProto.FromString(outsourced("first.bin")[0])
    next(t for t in model.graph.initializer if t.external_data).external_data.add(key="location", value="second.bin")
    assert external_files(model.SerializeToString()) == {"first.bin", "second.bin"}


def test_a_file_that_is_cut_off_is_never_taken_for_a_whole_one() -> None:
    graph = ModelProto.FromString(outsourced("weight.bin")[0]).graph
    content = ModelProto(graph=graph).SerializeToString()  # one field, so that no cut leaves whole ones
    for length in range(1, len(content)):
        with pytest.raises(ValueError, match="ONNX file"):
            external_files(content[:length])


def test_garbage_is_an_error_or_nothing_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    content, _ = outsourced("weight.bin")
    refused = 0
    for _ in range(2000):
        garbage = bytearray(content)
        for position in rng.integers(0, len(garbage), 5):
            garbage[position] = rng.integers(256)
        try:
            assert all(isinstance(location, str) for location in external_files(bytes(garbage)))
        except ValueError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [
        b"no graph at all",
        b"\x07",
        b"\x00\x00",
        b"\xff" * 20,
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0b\x0c",
    ],
)
def test_what_is_no_protobuf_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="ONNX file"):
        external_files(content)


def test_deep_nesting_is_no_way_to_stop_the_reader() -> None:
    def within(field: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 0x7F:
            length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    def steps(depth: int) -> int:
        """How often functions are called for a graph within so many."""
        graph = b""
        for _ in range(depth):
            graph = within(1, within(5, within(6, graph)))
        model, profile = within(7, graph), cProfile.Profile()
        assert profile.runcall(external_files, model) == set()
        return sum(entry.callcount for entry in profile.getstats())

    assert steps(2000) < 2.2 * steps(1000)
