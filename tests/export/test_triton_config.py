"""config.pbtxt, parsed by Triton's own schema, and served here as Triton would serve it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from tiny_graph import SIDE, graph_bytes
from triton_bundles import accelerators, config_in, copied, parameters, tiny, tuned
from tritonclient.grpc import model_config_pb2

from export.triton.protobuf_text import Symbol, as_text, mapped
from export.triton.repository import write_repository
from toolkit.runtime.bundle import Bundle
from toolkit.runtime.machine import usable_cores
from toolkit.runtime.tensorrt import EngineBuild, engine_options

NUMPY = {"TYPE_UINT8": np.uint8, "TYPE_FP32": np.float32}


def type_name(value: int) -> str:
    return str(model_config_pb2.DataType.Name(value))


def served(repository: Path, config: Any) -> ort.InferenceSession:
    """The graph as the backend opens it on a CPU: by its path, with the configuration's threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(parameters(config)["intra_op_thread_count"])
    options.inter_op_num_threads = int(parameters(config)["inter_op_thread_count"])
    path = repository / config.name / "1" / config.default_model_filename
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_warm_up(session: ort.InferenceSession, config: Any) -> dict[int, dict[str, Any]]:
    """Every sample of the warm-up, the outputs by batch size."""
    outputs = {}
    for sample in config.model_warmup:
        feed = {
            name: np.zeros((sample.batch_size, *given.dims), NUMPY[type_name(given.data_type)])
            for name, given in sample.inputs.items()
            if given.zero_data
        }
        names = [each.name for each in config.output]
        outputs[sample.batch_size] = dict(zip(names, session.run(names, feed), strict=True))
    return outputs


@pytest.mark.parametrize("kind", ["image", "pixel_values"])
def test_what_is_configured_is_what_the_graph_takes_and_gives(
    kind: str, finished_bundle: Path, pixel_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle(finished_bundle if kind == "image" else pixel_bundle)
    write_repository(bundle, tmp_path / "models", threads=1)
    config = config_in(tmp_path / "models")
    assert (config.name, config.backend, config.platform) == (bundle.path.name, "onnxruntime", "")
    session = served(tmp_path / "models", config)
    (given,) = session.get_inputs()
    (stated,) = config.input
    assert stated.name == given.name == kind
    assert list(stated.dims) == [side if isinstance(side, int) else -1 for side in given.shape[1:]]
    assert type_name(stated.data_type) == {"image": "TYPE_UINT8", "pixel_values": "TYPE_FP32"}[kind]
    outputs = run_warm_up(session, config)
    assert list(outputs) == [1, 2, 4, 8, 16, 32]
    for size, by_name in outputs.items():
        assert set(by_name) == {each.name for each in session.get_outputs()}
        for each in config.output:
            assert type_name(each.data_type) == "TYPE_FP32"
            assert by_name[each.name].shape == (size, *each.dims)


def test_nothing_of_what_triton_would_guess_is_left_out(finished_bundle: Path, tmp_path: Path) -> None:
    written = write_repository(Bundle(finished_bundle), tmp_path / "models")
    config = config_in(tmp_path / "models")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [32]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    threads = str(usable_cores())
    expected = {"intra_op_thread_count": threads, "inter_op_thread_count": "1", "execution_mode": "0"}
    assert parameters(config) == expected
    assert not config.HasField("optimization")
    (note,) = written.settings.notes
    assert "not tuned" in note


def test_labels_are_those_of_the_outputs_in_order(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(finished_bundle)
    write_repository(bundle, tmp_path / "models")
    config = config_in(tmp_path / "models")
    files = {each.name: each.label_filename for each in config.output}
    assert set(files) == {"logits", "probabilities"}
    for name in files.values():
        lines = (tmp_path / "models" / config.name / name).read_bytes().decode().split("\n")
        assert lines == [*bundle.labels, ""]


def test_a_tuned_bundle_runs_as_it_was_tuned(tmp_path: Path) -> None:
    options = {"session.intra_op.allow_spinning": "0"}
    bundle = tiny(tmp_path / "b", tuned(threads=3, sessions=2, batch_size=12, session_options=options))
    written = write_repository(bundle, tmp_path / "models")
    config = config_in(tmp_path / "models")
    assert (config.max_batch_size, config.instance_group[0].count) == (12, 2)
    assert parameters(config)["intra_op_thread_count"] == "3"
    assert [sample.batch_size for sample in config.model_warmup] == [1, 2, 4, 8, 12]
    assert [note for note in written.settings.notes if "allow_spinning" in note] == list(written.settings.notes)
    other = write_repository(bundle, tmp_path / "other", provider="cuda")
    assert (other.settings.max_batch_size, other.settings.instances) == (32, 1)
    assert "tuned for something else" in other.settings.notes[0]
    assert write_repository(bundle, tmp_path / "more", threads=5).settings.threads == 5


def test_cuda_computes_as_it_was_proven(tmp_path: Path) -> None:
    """The accelerator's search of convolutions is overwritten by a parameter, which has a default."""
    options = {"cudnn_conv_algo_search": "HEURISTIC"}
    bundle = tiny(tmp_path / "b", tuned(provider="cuda", sessions=2, batch_size=4, provider_options=options))
    write_repository(bundle, tmp_path / "models")
    config = config_in(tmp_path / "models")
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert accelerators(config) == {"cuda": {"use_tf32": "0"}}
    assert parameters(config)["cudnn_conv_algo_search"] == "1"


def test_tensorrt_gets_the_profile_of_the_toolkit_s_own_sessions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    options = {"trt_builder_optimization_level": "4"}
    bundle = tiny(tmp_path / "b", tuned(provider="tensorrt", batch_size=8, provider_options=options))
    write_repository(bundle, tmp_path / "models")
    found = accelerators(config_in(tmp_path / "models"))
    assert list(found) == ["tensorrt", "cuda"]
    assert found["tensorrt"] == engine_options(graph_bytes(), {}, EngineBuild(8), options)
    assert found["tensorrt"]["trt_profile_max_shapes"] == f"pixel_values:8x3x{SIDE}x{SIDE}"


def test_the_file_that_triton_opens_gives_the_bundle_s_bits(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle(finished_bundle)
    write_repository(bundle, tmp_path / "models", threads=1)
    session = served(tmp_path / "models", config_in(tmp_path / "models"))
    rng = np.random.default_rng(5)
    for shape in ((1, 40, 61, 3), (3, 32, 32, 3)):
        feed = {"image": rng.integers(0, 256, shape, dtype=np.uint8)}
        expected = bundle.session(threads=1).run(feed)
        outputs = dict(zip(expected, session.run(list(expected), feed), strict=True))
        assert all(np.array_equal(outputs[name], expected[name]) for name in expected)


def test_the_header_says_which_bundle_it_is(tmp_path: Path) -> None:
    bundle = tiny(tmp_path / "b")
    write_repository(bundle, tmp_path / "models")
    assert str(bundle.manifest.manifest_sha256) in (tmp_path / "models" / "b" / "config.pbtxt").read_text()


@pytest.mark.parametrize("text", ["", "plain", 'a "quoted" one', "back\\slash", "two\nlines", "größe 漢字", "{}[]:;#"])
def test_any_text_comes_back(text: str) -> None:
    written = as_text({"name": text, "parameters": mapped({text: {"string_value": text}})})
    config = text_format.Parse(written, model_config_pb2.ModelConfig())
    assert (config.name, parameters(config)) == (text, {text: text})


def test_every_kind_of_value_comes_back() -> None:
    group = {"kind": Symbol("KIND_CPU"), "count": 2, "passive": True, "gpus": [0, 3]}
    written = as_text({"instance_group": [group, {}], "input": [], "dynamic_batching": {"preserve_ordering": False}})
    config = text_format.Parse(written, model_config_pb2.ModelConfig())
    first, second = config.instance_group
    assert (first.kind, first.count, first.passive, list(first.gpus)) == (2, 2, True, [0, 3])
    assert (second.count, len(config.input), config.HasField("dynamic_batching")) == (0, 0, True)
    with pytest.raises(TypeError, match="float"):
        as_text({"name": 1.5})


def test_a_bundle_with_another_default_serves_what_is_asked_for(finished_bundle: Path, tmp_path: Path) -> None:
    bundle = copied(
        finished_bundle, tmp_path / "b", lambda path: (path / "model.onnx").rename(path / "model.fp16.onnx")
    )
    bundle.manifest.default = "model.fp16.onnx"
    bundle.update_manifest()
    written = write_repository(Bundle(bundle.path), tmp_path / "models")
    assert written.settings.precision == "fp16"
    assert (tmp_path / "models" / "b" / "1" / "model.onnx").read_bytes() == bundle.read("model.fp16.onnx")
