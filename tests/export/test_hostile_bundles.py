"""Bundles whose hashes fit and whose content a stranger wrote: each verb says in one line what is wrong."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from toolkit.cli.main import app
from toolkit.command import run
from toolkit.errors import ToolkitError
from toolkit.runtime.bundle import MANIFEST, Bundle, Golden
from toolkit.serving.classifier import Classifier

DEEP = '{"a":' * 100_000
BENCH = ("--no-details", "--batch-sizes", "1", "--compare", "", "--runs", "2", "--seconds", "0")
pytestmark = pytest.mark.parametrize("finished_run", ["clip"], indirect=True)


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


def text(name: str, content: str) -> Callable[[Path], None]:
    """Replace a file."""
    return lambda bundle: [(bundle / name).write_text(content), None][1]  # type: ignore[func-returns-value]


def keys(name: str, **new: Any) -> Callable[[Path], None]:
    """Set keys of a JSON object, at the top; NaN, Infinity and 1e400 are written as such."""

    def change(bundle: Path) -> None:
        content = json.loads((bundle / name).read_text()) | new
        (bundle / name).write_text(json.dumps(content).replace('"1e400"', "1e400"))

    return change


def entry(**new: Any) -> Callable[[Path], None]:
    """Set keys of the one entry of ``parity.json``."""

    def change(bundle: Path) -> None:
        content = json.loads((bundle / "parity.json").read_text())
        content["results"]["fp32"]["cpu"] |= new
        (bundle / "parity.json").write_text(json.dumps(content).replace('"1e400"', "1e400"))

    return change


def arrays(**new: Any) -> Callable[[Path], None]:
    """Replace golden arrays by a function of them, or leave them out where it is None."""

    def change(bundle: Path) -> None:
        with np.load(bundle / Golden.FILE) as file:
            found = {name: file[name] for name in file.files}
        for name, of in new.items():
            found |= {name: of(found[name])} if of else {}
        kept = {name: array for name, array in found.items() if new.get(name, "") is not None}
        np.savez(bundle / Golden.FILE, **kept)

    return change


def archive(content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    """A golden file whose ``logits.npy`` holds these bytes."""

    def change(bundle: Path) -> None:
        with np.load(bundle / Golden.FILE) as file:
            found = {name: file[name] for name in file.files if name != "logits"}
        np.savez(bundle / Golden.FILE, **found)
        with zipfile.ZipFile(bundle / Golden.FILE, "a", compression) as file:
            file.writestr("logits.npy", content)

    return change


def header(words: str) -> bytes:
    """The beginning of an array file."""
    return b"\x93NUMPY\x01\x00" + len(words).to_bytes(2, "little") + words.encode()


def compressed(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def graph(change: Callable[[onnx.ModelProto], None]) -> Callable[[Path], None]:
    """Change the graph."""

    def rewrite(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        change(model)
        (bundle / "model.onnx").write_bytes(model.SerializeToString())

    return rewrite


def that_fails_when_run(model: onnx.ModelProto) -> None:
    """Logits go through a reshape to a size that no batch has, which only a run finds out."""
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[list(node.output).index("logits")] = "before"
    for other in model.graph.node:
        other.input[:] = ["before" if name == "logits" else name for name in other.input]
    model.graph.initializer.append(helper.make_tensor("seven", TensorProto.INT64, [2], [7, 11]))
    model.graph.node.append(helper.make_node("Shape", ["before"], ["size"]))
    model.graph.node.append(helper.make_node("Mul", ["size", "seven"], ["larger"]))
    model.graph.node.append(helper.make_node("Reshape", ["before", "larger"], ["logits"]))


def that_gives_another_type(model: onnx.ModelProto) -> None:
    """Logits become float64."""
    node = next(node for node in model.graph.node if "logits" in node.output)
    node.output[list(node.output).index("logits")] = "before"
    for other in model.graph.node:
        other.input[:] = ["before" if name == "logits" else name for name in other.input]
    model.graph.node.append(helper.make_node("Cast", ["before"], ["logits"], to=TensorProto.DOUBLE))
    next(out for out in model.graph.output if out.name == "logits").type.tensor_type.elem_type = TensorProto.DOUBLE


def labelled(content: str) -> Callable[[Path], None]:
    """What the graph says its labels are."""

    def change(model: onnx.ModelProto) -> None:
        next(entry for entry in model.metadata_props if entry.key == "labels").value = content

    return graph(change)


ALL = ("predict", "verify", "parity", "bench-latency", "tune")
LOADS = ALL
GOLDEN = ("verify",)
JUDGED = ("verify", "parity", "bench-latency", "tune")
CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "labels, deep": (text("labels.json", "[" * 100_000), LOADS),
    "labels, an object": (text("labels.json", '{"a": "b"}'), LOADS),
    "labels, numbers": (text("labels.json", "[1, 2, 3]"), LOADS),
    "labels, half a pair": (text("labels.json", r'["a", "b", "\ud800"]'), LOADS),
    "labels, no UTF-8": (lambda bundle: (bundle / "labels.json").write_bytes(b'["a", "b", "\xff"]') and None, LOADS),
    "labels, none": (text("labels.json", "[]"), LOADS),
    "the graph's labels, deep": (labelled(DEEP), LOADS),
    "preprocessing, deep": (text("preprocess.json", DEEP), LOADS),
    "preprocessing, a huge size": (keys("preprocess.json", size=[10**9, 10**9]), LOADS),
    "preprocessing, a huge crop": (keys("preprocess.json", crop=[10**9, 10**9]), LOADS),
    "preprocessing, a size below one": (keys("preprocess.json", size=[-1, -1]), LOADS),
    "preprocessing, 1e400": (keys("preprocess.json", rescale_factor="1e400"), LOADS),
    "preprocessing, NaN": (keys("preprocess.json", mean=[float("nan")] * 3), LOADS),
    "preprocessing, zero": (keys("preprocess.json", std=[0, 0, 0]), LOADS),
    "parity, deep": (text("parity.json", DEEP), JUDGED),
    "parity, a list": (text("parity.json", "[]"), JUDGED),
    "parity, 1e400": (entry(tolerance="1e400"), JUDGED),
    "parity, NaN": (entry(tolerance=float("nan")), JUDGED),
    "parity, text": (entry(tolerance="wide"), JUDGED),
    "parity, passed by a word": (entry(passed="no"), JUDGED),
    "serving, deep": (text("serving.json", DEEP), LOADS),
    "latency, deep": (text("latency.json", DEEP), ("parity", "bench-latency", "tune")),
    "latency, a list": (text("latency.json", "[1]"), ("parity", "bench-latency", "tune")),
    "golden, no archive": (text(Golden.FILE, "PK"), GOLDEN),
    "golden, logits missing": (arrays(logits=None), GOLDEN),
    "golden, more logits": (arrays(logits=lambda a: np.concatenate([a, a])), GOLDEN),
    "golden, more classes": (arrays(logits=lambda a: np.concatenate([a, a], axis=1)), GOLDEN),
    "golden, a scalar": (arrays(logits=lambda _: np.float32(1)), GOLDEN),
    "golden, integers": (arrays(logits=lambda a: a.astype(np.int64)), GOLDEN),
    "golden, text": (arrays(logits=lambda a: a.astype(str)), GOLDEN),
    "golden, NaN": (arrays(logits=lambda a: a * np.float32("nan")), GOLDEN),
    "golden, objects": (arrays(logits=lambda a: a.astype(object)), GOLDEN),
    "golden, other pixels": (arrays(**{"input pixel_values": lambda a: a[:, :, 1:]}), GOLDEN),
    "golden, no images": (arrays(**dict.fromkeys(("names", "logits", "input pixel_values"), lambda a: a[:0])), GOLDEN),
    "golden, names of bytes": (arrays(names=lambda a: a.astype("S")), GOLDEN),
    "golden, a name outside": (arrays(names=lambda a: np.array(["../../x"] * len(a))), GOLDEN),
    "golden, an unlisted name": (arrays(names=lambda a: np.array(["other.png"] * len(a))), GOLDEN),
    "golden, outputs of another shape": (arrays(**{"logits of fp32": lambda a: a[:1]}), GOLDEN),
    "golden, a huge claim": (
        archive(header("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776, 3)}\n")),
        GOLDEN,
    ),
    "golden, a deep header": (archive(header("(" * 9000)), GOLDEN),
    "golden, a header cut off": (archive(b"\x93NUMPY\x01\x00"), GOLDEN),
    "golden, a bomb": (archive(compressed(np.zeros((8, 1_000_000), np.float32)), zipfile.ZIP_DEFLATED), GOLDEN),
    "a graph that fails when it runs": (graph(that_fails_when_run), ("predict", "verify", "bench-latency", "tune")),
    "a graph of another type": (graph(that_gives_another_type), LOADS),
}


def some(cases: Sequence[Any], verbs: Sequence[str]) -> list[Any]:
    """Every case with two of its verbs, so that every verb has some; with the others it is slow."""
    return [
        pytest.param(case, verb, marks=[pytest.mark.slow] * ((turn - place) % len(verbs) > 1))
        for place, case in enumerate(cases)
        for turn, verb in enumerate(verbs)
    ]


def call(verb: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Exit code and what was said on stderr."""
    image = [str(bundle / "golden" / "000.png")] if verb == "predict" else []
    more = {"bench-latency": BENCH, "tune": ("--p99-ms", "1000"), "parity": ("--json",)}.get(verb, ())
    monkeypatch.setattr("sys.argv", ["toolkit", verb, str(bundle), *image, *more])
    with pytest.raises(SystemExit) as end:
        run(app)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "verb"),
    [
        each
        for verbs in dict.fromkeys(verbs for _, verbs in CASES.values())
        for each in some([case for case in CASES if CASES[case][1] == verbs], verbs)
    ],
)
def test_hostile_content_is_refused_in_one_line(
    case: str, verb: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    CASES[case][0](bundle)
    Bundle(bundle).update_manifest()
    before = (bundle / MANIFEST).read_bytes()
    code, said = call(verb, bundle, monkeypatch, capsys)
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    assert len(said) < 1000
    assert (bundle / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "verb"),
    some([DEEP, "[]", '{"format_version": 1e400}', '{"files": {"a": 1}}', '{"format_version": NaN}'], ALL),
)
def test_a_hostile_manifest_is_refused_in_one_line(
    content: str, verb: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / MANIFEST).write_text(content)
    code, said = call(verb, bundle, monkeypatch, capsys)
    assert (code, len(said.splitlines())) == (2, 1), said
    assert "damaged manifest" in said


@pytest.mark.parametrize(
    ("key", "verb"),
    some(["figures", "recipe", "temperature", "checkpoint_sha256"], ["parity", "bench-latency", "tune"]),
)
@pytest.mark.parametrize("value", [None, {"a": []}])
def test_hostile_provenance_is_refused_before_anything_is_measured(
    key: str, value: Any, verb: str, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Bundle(bundle)
    if value is None:
        del opened.manifest.provenance[key]
    else:
        opened.manifest.provenance[key] = value
    opened.update_manifest()
    code, said = call(verb, bundle, monkeypatch, capsys)
    assert (code, len(said.splitlines())) == (2, 1), said


def test_python_gets_the_same_error(bundle: Path) -> None:
    graph(that_fails_when_run)(bundle)
    Bundle(bundle).update_manifest()
    opened = Bundle(bundle)
    with pytest.raises(ToolkitError, match="can't be computed"):
        list(Classifier.open(opened, threads=1).entries([bundle / "golden" / "000.png"]))
