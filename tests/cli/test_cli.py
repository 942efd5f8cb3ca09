"""Contracts of the command line: verbs, options, exit codes, one line for a mistake, JSON alone on stdout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import typer.main
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from toolkit.cli.main import app
from toolkit.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli() -> Cli:
    def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "toolkit.cli.main", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=cwd)

    return run


@pytest.fixture
def bundle(finished_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    "arguments", [(), ("recipes",), ("data",), ("-h",), ("predict", "-h"), ("data", "check", "-h")]
)
def test_help_is_a_good_end_with_nothing_on_stderr(arguments: tuple[str, ...], cli: Cli) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout


def test_the_version_and_the_package_itself_answer(cli: Cli) -> None:
    assert cli("--version").stdout == f"clip-toolkit {version('clip-toolkit')}\n"
    done = subprocess.run([sys.executable, "-m", "toolkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == cli("--version").stdout


def test_help_keeps_its_brackets(cli: Cli) -> None:
    words = " ".join(cli("export", "--help").stdout.replace("│", " ").split())
    assert "uint8 [batch, height, width, 3] as decoded" in words


def test_train_is_the_recipe_in_one_process(
    in_process: Cli, make_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(make_recipe().as_yaml())
    done = in_process("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run", "training.epochs=1", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["epochs"], summary["processes"], summary["run"]) == (1, 1, str(tmp_path / "run"))
    again = in_process("train", tmp_path / "recipe.yaml", "--out", tmp_path / "run")
    assert again.returncode == 2
    assert len(again.stderr.splitlines()) == 1
    assert "--force" in again.stderr


def test_data_check_takes_keys_as_a_recipe_has_them_too(in_process: Cli, color_data: Path) -> None:
    plain, prefixed = (
        in_process("data", "check", color_data, f"{start}split_seed=1", "--json") for start in ("", "data.")
    )
    assert plain.returncode == prefixed.returncode == 0
    assert plain.stdout == prefixed.stdout


def test_verbs_and_options_are_the_contract() -> None:
    command = typer.main.get_command(app)
    verbs = {}
    for name, verb in command.commands.items():  # type: ignore[attr-defined]
        for path, leaf in (
            {name: verb}.items()
            if not hasattr(verb, "commands")
            else [(f"{name} {k}", v) for k, v in verb.commands.items()]
        ):
            verbs[path] = sorted(option for parameter in leaf.params for option in parameter.opts)
    assert verbs == {
        "demo": ["--json", "--out"],
        "train": ["--force", "--json", "--out", "--resume", "config", "overrides"],
        "sweep": [
            "--force", "--json", "--out", "--prune", "--resume", "--sampler", "--search", "--seed", "--trials",
            "config", "overrides",
        ],
        "export": [
            "--calibration-images", "--data", "--embedding", "--force", "--images", "--input", "--json",
            "--max-accuracy-drop", "--max-flips", "--min-speedup", "--onnx", "--out", "--precision", "--provider",
            "--sign", "--threads", "--triton",
        ],
        "zero-shot": [
            "--data", "--encoder", "--force", "--json", "--labels", "--labels-file", "--out", "--revision",
            "--templates",
        ],
        "few-shot": [
            "--data", "--encoder", "--force", "--json", "--labels-file", "--methods", "--out", "--revision", "--seeds",
            "--shots", "--templates",
        ],
        "import": ["--data", "--force", "--json", "--out", "--revision", "checkpoint"],
        "serve": [
            "--api-key-file", "--batch-size", "--control", "--grace", "--grpc-port", "--host", "--json",
            "--max-body-mib", "--max-images", "--max-pixels", "--port", "--precision", "--provider", "--public-key",
            "--quiet", "--sessions", "--threads", "--timeout", "--tls-cert", "--tls-key", "--waiting", "bundles",
        ],
        "app": ["--host", "--json", "--port", "--precision", "--provider", "--threads", "bundle"],
        "embed": [
            "--batch-size", "--json", "--out", "--precision", "--provider", "--threads", "bundle", "paths",
        ],
        "parity": [
            "--bisect", "--count", "--data", "--images", "--json", "--out", "--precision", "--provider", "--run",
            "--sign", "--threads", "bundle",
        ],
        "bench-latency": [
            "--baseline", "--batch-sizes", "--compare", "--data", "--details", "--images", "--json", "--max-regression",
            "--out", "--precision", "--provider", "--rate", "--run", "--runs", "--scenarios", "--seconds", "--sign",
            "--target-p99-ms", "--threads", "--url", "bundle",
        ],
        "tune": [
            "--data", "--images", "--json", "--max-accuracy-drop", "--out", "--p99-ms", "--provider", "--rate",
            "--reduced-jpeg", "--run", "--sign", "bundle",
        ],
        "compare": ["--json", "a", "b"],
        "evaluate": [
            "--data", "--force", "--json", "--min-accuracy", "--out", "--precision", "--provider", "--skip-bad",
            "--split", "bundle", "settings",
        ],
        "predict": [
            "--address", "--batch-size", "--embedding", "--engine", "--input", "--json", "--manifest", "--out",
            "--path-column", "--precision", "--provider", "--shard-rows", "--text", "--text-column", "--threads",
            "--top-k", "bundle", "paths",
        ],
        "push": [
            "--dry-run", "--json", "--message", "--private", "--provider", "--public-key", "--revision", "bundle",
            "repo",
        ],
        "log-mlflow": [
            "--experiment", "--json", "--provider", "--public-key", "--register", "--tracking-uri", "bundle",
        ],
        "triton": ["--force", "--json", "--out", "--precision", "--provider", "--threads", "bundle"],
        "verify": ["--json", "--provider", "--public-key", "--threads", "bundle"],
        "doctor": ["--json"],
        "encoders list": ["--json"],
        "encoders compare": ["--data", "--encoders", "--force", "--json", "--out"],
        "encoders show": ["--json", "--revision", "name"],
        "inspect": ["--json", "--out", "--revision", "encoder", "image"],
        "recipes list": ["--json"],
        "recipes explain": ["--json", "--probe", "--processes", "config", "overrides"],
        "recipes reference": ["--json"],
        "recipes copy": ["--force", "--json", "dest", "name"],
        "data digits": ["--force", "--json", "--seed", "dest"],
        "data elpv": ["--force", "--grades", "--json", "--seed", "dest"],
        "data textile": ["--force", "--json", "--seed", "dest"],
        "data captioned": ["--force", "--json", "--seed", "dest"],
        "data shapes": ["--force", "--json", "--seed", "dest"],
        "data check": ["--json", "path", "settings"],
        "data shard": ["--force", "--images-per-shard", "--json", "dest", "path", "settings"],
        "data index": ["--json", "path", "settings"],
    }  # fmt: skip


MISTAKES: list[tuple[list[str], list[str]]] = [
    (["verify", "nowhere"], ["no such folder", "nowhere", "toolkit export"]),
    (["evaluate", "nowhere", "--data", "x"], ["no such folder", "nowhere", "toolkit export"]),
    (["evaluate", ".", "--data", "x", "--min-accuracy", "95"], ["95", "--min-accuracy", "0.95"]),
    (["evaluate", ".", "--data", "x", "--min-accuracy", "nan"], ["nan", "--min-accuracy"]),
    (["predict", ".", "x.png"], ["no bundle", "manifest.json"]),
    (["export", "--onnx", "nowhere", "--out", "b"], ["no such run folder", "finetune.py"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", "int4"], ["int4", "fp32"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", "bf16"], ["can't run bf16", "--provider cuda"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", "auto,int8"], ["auto", "alone"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", ","], ["no precision", "fp32,int8"]),
    (["export", "--onnx", "x", "--out", "b", "--max-accuracy-drop", "1"], ["budget", "--precision auto"]),
    (["export", "--onnx", "x", "--out", "b", "--max-flips", "1"], ["contract", "--precision auto"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", "int8", "--min-speedup", "2"], ["contract", "auto"]),
    (["export", "--onnx", "x", "--out", "b", "--precision", "auto", "--max-flips", "-1"], ["-1 %", "0 to 100"]),
    (
        ["export", "--onnx", "x", "--out", "b", "--precision", "auto", "--max-flips", "nan"],
        ["nan %", "--max-flips"],
    ),
    (["export", "--onnx", "x", "--out", "b", "--precision", "auto", "--min-speedup", "0"], ["0 times", "2.5"]),
    (["verify", "x", "--provider", "gpu"], ["x"]),
    (["zero-shot", "--labels", "a,a", "--out", "r"], ["twice: a", "name each class once"]),
    (["zero-shot", "--labels", "a", "--out", "r"], ["one class alone"]),
    (["zero-shot", "--out", "r"], ["--labels", "--data"]),
    (["zero-shot", "--labels", "a,b", "--templates", "no.txt", "--out", "r"], ["no.txt", "can't read"]),
    (["few-shot", "--data", "x", "--out", "r", "--shots", "many"], ["'many'", "1,2,4,8,16"]),
    (["few-shot", "--data", "x", "--out", "r", "--methods", "magic"], ["'magic'", "linear-probe"]),
    (["import", "./nowhere", "--out", "r"], ["nowhere", "no such"]),
    (["encoders", "show", "./nowhere"], ["nowhere", "no such"]),
    (["encoders", "compare", "--data", ".", "--encoders", ","], ["no encoder is named", "--encoders"]),
    (["encoders", "compare", "--data", ".", "--encoders", "a/b,c, a/b"], ["a/b stands there twice"]),
    (["encoders", "compare", "--data", "nowhere", "--encoders", "tiny-clip"], ["no such data folder", "nowhere"]),
    (["inspect", "tiny-clip", "."], ["a folder", "an image file"]),
    (["inspect", "tiny-clip", "no.png"], ["unreadable image", "no.png"]),
    (["inspect", "tiny-clip", "x.png", "--out", "x.jpg"], ["no .jpg", "FILE.png"]),
    (["app", "nowhere"], ["no such folder", "nowhere", "toolkit export"]),
    (["app", "nowhere", "--provider", "gpu"], ["gpu"]),
    (["embed", ".", "x.png", "--out", "e.csv"], [".parquet", ".safetensors"]),
    (["export", "--onnx", "x", "--out", "b", "--sign", "no.key"], ["can't read the key", "no.key", "PEM"]),
    (["parity", "x", "--bisect", "--sign", "key"], ["--bisect", "leave"]),
    (["parity", "x", "--sign", "no.key"], ["can't read the key", "no.key"]),
    (["data", "check", "nowhere"], ["no such data folder"]),
    (["recipes", "copy", "nothing", "x"], ["nothing", "digits"]),
    (["bench-latency", "x", "--batch-sizes", "one"], ["'one'", "1,8,32"]),
    (["tune", "x", "--p99-ms", "0"], ["0", "--p99-ms", "more than 0"]),
    (["tune", "x", "--p99-ms", "nan"], ["nan", "--p99-ms"]),
    (["tune", "x", "--p99-ms", "9", "--rate", "-1"], ["--rate", "more than 0"]),
    (["tune", "nowhere", "--p99-ms", "9"], ["no such folder"]),
    (["triton", "nowhere", "--out", "m"], ["no such folder", "nowhere", "toolkit export"]),
    (["triton", "nowhere"], ["--out", "--help"]),
    (["compare", "a.json", "b.json"], ["No such file", "bench-latency"]),
    (["push", "nowhere", "me/x", "--dry-run"], ["no such folder", "nowhere", "toolkit export"]),
    (["push", "x", "y"], ["no name of a repository", "OWNER/NAME"]),
    (["frobnicate"], ["frobnicate", "--help"]),
    (["predict", "x"], ["PATH", "--help"]),
    (["verify", "x", "--threads", "0"], ["--threads", "--help"]),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_2(
    arguments: list[str], says: list[str], in_process: Cli, cli: Cli, tmp_path: Path
) -> None:
    call = cli if arguments[0] == "app" else in_process  # its protocol's messages can't be defined twice in a process
    _is_one_line(call(*arguments, cwd=tmp_path), says, tmp_path)


@pytest.mark.parametrize("verb", ["verify", "import"])
def test_so_it_is_in_a_process_of_its_own(verb: str, cli: Cli, tmp_path: Path) -> None:
    """Of a verb that imports next to nothing, and of one that has imported PyTorch and transformers."""
    arguments, says = next(each for each in MISTAKES if each[0][0] == verb)
    _is_one_line(cli(*arguments, cwd=tmp_path), says, tmp_path)


def _is_one_line(done: subprocess.CompletedProcess[str], says: list[str], folder: Path) -> None:
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert [text for text in says if text not in done.stderr] == []
    assert list(folder.iterdir()) == []


def test_a_mistake_with_json_is_still_one_json_object(cli: Cli) -> None:
    done = cli("verify", "nowhere", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["where"] == "nowhere"


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_export_parity_bench_verify_predict_in_a_row(
    finished_run: Path, in_process: Cli, tmp_path: Path, color_data: Path
) -> None:
    out = tmp_path / "bundle"
    exported = in_process("export", "--onnx", finished_run, "--out", out, "--json")
    assert exported.returncode == 0, exported.stderr
    assert json.loads(exported.stdout)["parity"]["results"]["fp32"]["cpu"]["passed"]
    proved = in_process("parity", out, "--json")
    assert proved.returncode == 0, proved.stderr
    assert json.loads(proved.stdout) == json.loads((out / "parity.json").read_text())
    measured = in_process(
        "bench-latency", out, "--batch-sizes", "1,2", "--runs", "5", "--seconds", "0", "--no-details", "--json"
    )
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout) == json.loads((out / "latency.json").read_text())
    beside = in_process("compare", out, out / "latency.json", "--json")
    assert beside.returncode == 0, beside.stderr
    assert all(row["p50_ratio"] == 1 for row in json.loads(beside.stdout)["rows"])
    same = [out, "--baseline", out, "--batch-sizes", "1", "--runs", "1", "--seconds", "0", "--max-regression", "300"]
    mixed = in_process("bench-latency", *same, "--compare", "torch-eager")
    assert (mixed.returncode, mixed.stderr.count("\n")) == (2, 1)
    assert "leave out --compare" in mixed.stderr
    gated = in_process("bench-latency", *same, "--json")
    assert gated.returncode == 0, gated.stderr
    assert json.loads(gated.stdout)["passed"]
    verified = in_process("verify", out, "--json")
    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["passed"]
    (tmp_path / "folder" / ".thumbs").mkdir(parents=True)
    for name in ("0.png", ".thumbs/0.png", "notes.txt"):
        shutil.copyfile(color_data / "test" / "red" / "00.png", tmp_path / "folder" / name)
    walked = in_process("predict", out, tmp_path / "folder", "--json")
    assert (walked.returncode, walked.stderr) == (0, "left out: 2 files: 1 .txt, 1 hidden\n")
    assert len(json.loads(walked.stdout)["predictions"]) == 1
    images = [color_data / "test" / "red" / "00.png", tmp_path / "no.png", color_data / "test" / "blue" / "00.png"]
    predicted = in_process("predict", out, *images, "--json")
    assert predicted.returncode == 2
    entries = json.loads(predicted.stdout)["predictions"]
    assert [entry["path"] for entry in entries] == [str(path) for path in images]
    assert set(entries[1]) == {"path", "error"}
    for entry in (entries[0], entries[2]):
        assert set(entry) == {"path", "label", "probabilities"}
        assert max(entry["probabilities"], key=entry["probabilities"].get) == entry["label"]
        assert sum(entry["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_changed_file_fails_verification_with_exit_1(bundle: Path, in_process: Cli) -> None:
    (bundle / "MODEL_CARD.md").write_text("something else")
    done = in_process("verify", bundle, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert not report["passed"]
    assert report["problems"] == ["MODEL_CARD.md was changed"]


@pytest.mark.parametrize("finished_run", ["clip"], indirect=True)
def test_a_signature_from_export_to_verification(finished_run: Path, in_process: Cli, tmp_path: Path) -> None:
    private, public, out = tmp_path / "key", tmp_path / "key.pub", tmp_path / "bundle"
    key = ec.generate_private_key(ec.SECP256R1())
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    public_format = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public_format))

    refused = in_process("export", "--onnx", finished_run, "--out", out, "--sign", public)
    assert (refused.returncode, out.exists()) == (2, False)
    assert len(refused.stderr.splitlines()) == 1
    exported = in_process("export", "--onnx", finished_run, "--out", out, "--sign", private)
    assert exported.returncode == 0, exported.stderr
    assert "signature valid" in " ".join(in_process("verify", out, "--public-key", public).stdout.split())

    measure = (
        "bench-latency",
        out,
        "--no-details",
        "--batch-sizes",
        "1",
        "--compare",
        "",
        "--runs",
        "2",
        "--seconds",
        "0",
        "--json",
    )
    measured = in_process(*measure)
    assert measured.returncode == 0, measured.stderr
    assert "--sign KEY" in measured.stderr
    verified = in_process("verify", out, "--public-key", public, "--json")
    report = json.loads(verified.stdout)
    assert (verified.returncode, report["passed"], report["signature"]) == (1, False, "absent")
    assert "signature.json is missing" in verified.stderr
    assert in_process("verify", out).returncode == 0

    measured = in_process(*measure, "--sign", private)
    assert measured.returncode == 0
    assert re.fullmatch(r"this takes about .*\n", measured.stderr)
    verified = in_process("verify", out, "--public-key", public, "--json")
    assert (verified.returncode, json.loads(verified.stdout)["signature"]) == (0, "valid")


def test_data_check_exits_1_on_problems_and_0_without(color_data: Path, in_process: Cli, tmp_path: Path) -> None:
    assert in_process("data", "check", color_data).returncode == 0
    copy = Path(shutil.copytree(color_data, tmp_path / "colors"))
    (copy / "test" / "red" / "00.png").write_bytes(b"not an image")
    shutil.copyfile(copy / "train" / "blue" / "01.png", copy / "val" / "blue" / "copy.png")
    done = in_process("data", "check", copy, "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert [entry["path"] for entry in report["unreadable"]] == [str(copy / "test" / "red" / "00.png")]
    assert len(report["duplicates_across_splits"]) == 1


def test_data_check_says_splits_what_is_left_out_and_what_looks_alike(
    color_data: Path, in_process: Cli, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(color_data, tmp_path / "colors"))
    shutil.rmtree(copy / "test")
    (copy / "train").rename(copy / "Training")
    (copy / "Training" / "red" / "notes.txt").touch()
    made = json.loads(in_process("data", "check", copy, "--json").stdout)["splits_made"]["test"]
    printed = in_process("data", "check", copy).stdout
    assert (
        f"splits found: train (36), validation (15); a run makes: test ({made}); a run has: train ({36 - made})"
        in printed
    )
    assert "left out: 1 file: 1 .txt" in printed
    (copy / "holdout" / "red").mkdir(parents=True)
    shutil.copyfile(color_data / "test" / "red" / "00.png", copy / "holdout" / "red" / "00.png")
    done = in_process("data", "check", copy)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "folders beside the splits (Training, val) that are no split: holdout (1 images)" in done.stderr


def test_recipes_are_listed_and_copied(in_process: Cli, tmp_path: Path) -> None:
    names = {entry["name"] for entry in json.loads(in_process("recipes", "list", "--json").stdout)["recipes"]}
    assert {"digits", "elpv", "clip_vit_b32_folder", "finetune", "cpu_2_processes"} <= names
    assert in_process("recipes", "copy", "digits", tmp_path / "mine.yaml").returncode == 0
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["model"]["encoder"] == "tiny-clip"
    assert in_process("recipes", "copy", "digits", tmp_path / "mine.yaml").returncode == 2


def test_brackets_in_names_are_printed_as_they_are(cli: Cli, tmp_path: Path, color_data: Path) -> None:
    shutil.copytree(color_data, tmp_path / "[train] colors")
    shutil.copytree(color_data / "train" / "red", tmp_path / "[train] colors" / "train" / "[red]")
    assert "[train] colors: 84 images\n" in cli("data", "check", "[train] colors", cwd=tmp_path).stdout


def test_doctor_knows_what_really_loads(in_process: Cli) -> None:
    done = in_process("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["providers"]["cpu"]["loads"]
    assert "cpu" in report["torch_devices"]
    assert report["packages"]["torch"].startswith("2.")
    assert {"machine", "packages", "providers", "torch_devices", "advice"} == set(report)
