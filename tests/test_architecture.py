"""The import directions of the house, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {
    *("toolkit", "toolkit.errors", "toolkit.files", "toolkit.command", "toolkit.labels", "toolkit.lock"),
    *("toolkit.regular_files", "toolkit.strict_json", "toolkit.strict_yaml", "toolkit.terminal", "toolkit.text"),
    *("toolkit.progress", "toolkit.progress_lines", "toolkit.sampling", "toolkit.user_paths", "toolkit.ordered"),
}
MODELS_AND_DATA = GROUND | {
    "toolkit.runtime",
    "toolkit.recipe",
    "toolkit.data",
    "toolkit.models",
    "toolkit.tasks",
    "toolkit.metrics",
}
MAY_IMPORT = {
    "toolkit.text": set(),
    "toolkit.strict_json": {"toolkit.text"},
    "toolkit.strict_yaml": set(),
    "toolkit.terminal": {"toolkit.text"},
    "toolkit.regular_files": set(),
    "toolkit.errors": {"toolkit.text"},
    "toolkit.files": {"toolkit.errors", "toolkit.regular_files", "toolkit.strict_json", "toolkit.text"},
    "toolkit.lock": {"toolkit.errors", "toolkit.files"},
    "toolkit.command": {"toolkit.errors", "toolkit.strict_json", "toolkit.text"},
    "toolkit.labels": set(),
    "toolkit.user_paths": {"toolkit.errors"},
    "toolkit.progress": set(),
    "toolkit.progress_lines": {"toolkit.progress", "toolkit"},
    "toolkit.runtime": GROUND,
    "toolkit.serving": GROUND | {"toolkit.runtime"},
    "toolkit.recipe": GROUND,
    "toolkit.scoring": GROUND | {"toolkit.runtime", "toolkit.data", "toolkit.recipe", "toolkit.serving"},
    "toolkit.data": GROUND | {"toolkit.runtime", "toolkit.recipe"},
    "toolkit.tasks": GROUND | {"toolkit.runtime", "toolkit.recipe", "toolkit.metrics"},
    "toolkit.models": GROUND | {"toolkit.runtime", "toolkit.recipe", "toolkit.tasks"},
    "toolkit.metrics": {"toolkit.sampling", "toolkit.ordered"},
    "toolkit.ordered": set(),
    "toolkit.sampling": set(),
    "toolkit.reporting": GROUND | {"toolkit.runtime"},
    "toolkit.publishing": GROUND | {"toolkit.runtime", "toolkit.recipe"},
    "toolkit.evaluation": GROUND
    | {"toolkit.runtime", "toolkit.recipe", "toolkit.data", "toolkit.metrics", "toolkit.serving", "toolkit.reporting"},
    "toolkit.runs": MODELS_AND_DATA,
    "toolkit.training": MODELS_AND_DATA | {"toolkit.runs"},
    "export": MODELS_AND_DATA | {"toolkit.runs", "toolkit.reporting", "toolkit.serving"},
    "recipes": MODELS_AND_DATA | {"toolkit.runs", "toolkit.reporting", "toolkit.training", "export"},
}
ON_TOP = {"toolkit", "toolkit.__main__", "toolkit.api", "toolkit.cli"}
"""What may import everything, lazily, and is imported by nothing below."""
RUNTIME_LIBRARIES = {"numpy", "PIL", "onnxruntime", "pydantic", "filelock", "psutil"}
SERVER_LIBRARIES = {"fastapi", "starlette", "uvicorn", "uvloop", "grpc", "google", "prometheus_client", "opentelemetry"}
"""Of the extra ``serve``."""
SERVER_MODULES = (
    *("toolkit.serving.http", "toolkit.serving.grpc", "toolkit.serving.server", "toolkit.serving.metrics"),
    *("toolkit.serving.exchange", "toolkit.serving.tracing"),
)
"""What only a server imports, and may need its libraries at once."""
IN_PRODUCTION = {"toolkit.runtime", "toolkit.serving"}
WITHOUT_TORCH = {
    *("toolkit.metrics", "toolkit.evaluation", "toolkit.reporting", "toolkit.recipe"),
    *("toolkit.publishing", "toolkit.data.source", "toolkit.data.evaluation_data"),
}
"""Packages and modules that a host without torch imports when it evaluates or publishes."""
OPTIONAL_LIBRARIES = {
    "toolkit.runtime.signature": {"model_signing", "cryptography"},
    "toolkit.runtime.embedding_file": {"pyarrow", "safetensors"},
    "toolkit.runtime.prediction_file": {"pyarrow"},
    "toolkit.runtime.tokenizer": {"tokenizers"},
    "toolkit.runtime.openvino_library": {"openvino"},
    "toolkit.runtime.ray_cluster": {"ray"},
}
"""What a module of the runtime may import inside a function, of an extra that a production host need not have."""
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("toolkit", "export", "recipes")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def imports_of(module: str, *, top_level_only: bool = False) -> set[str]:
    """Full names of the modules that a module imports, anywhere in it or at its top level."""
    tree = ast.parse(MODULES[module].read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (submodules & set(MODULES)) or {node.module}
    return found


def package_of(module: str) -> str:
    """The entry of ``MAY_IMPORT`` that a module belongs to: a package, or a module of the ground floor."""
    parts = module.split(".")
    return parts[0] if parts[0] != "toolkit" else ".".join(parts[:2])


def test_every_module_has_a_rule() -> None:
    assert {package_of(name) for name in MODULES} == set(MAY_IMPORT) | ON_TOP


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) in MAY_IMPORT])
def test_imports_run_one_way(module: str) -> None:
    own = package_of(module)
    ours = {
        package_of(name) for name in imports_of(module) if name.partition(".")[0] in ("toolkit", "export", "recipes")
    }
    assert ours - {own} <= MAY_IMPORT[own]


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) in IN_PRODUCTION])
def test_what_predicts_imports_nothing_of_the_server(module: str) -> None:
    if not module.startswith(SERVER_MODULES):
        assert not {name for name in imports_of(module) if name.startswith(SERVER_MODULES)}


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) in IN_PRODUCTION])
def test_runtime_and_serving_stand_on_few_libraries(module: str) -> None:
    ours = RUNTIME_LIBRARIES | {"toolkit"} | set(sys.stdlib_module_names)
    ours |= SERVER_LIBRARIES if module.startswith(SERVER_MODULES) else set()
    at_once, ever = (
        {name.partition(".")[0] for name in imports_of(module, top_level_only=top_level_only)} - ours
        for top_level_only in (True, False)
    )
    assert at_once == set()
    assert ever <= OPTIONAL_LIBRARIES.get(module, set())


def reached_from(module: str) -> set[str]:
    """All modules of ours that importing a module imports, itself included; what functions import is not."""
    reached, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += imports_of(name, top_level_only=True) & set(MODULES)
    return reached


@pytest.mark.parametrize(
    "module", [name for name in MODULES if package_of(name) in WITHOUT_TORCH or name in WITHOUT_TORCH]
)
def test_metrics_data_and_evaluation_never_import_torch(module: str) -> None:
    for name in reached_from(module):
        imported = {each.partition(".")[0] for each in imports_of(name)}
        assert not imported & {"torch", "transformers", "accelerate"}, name


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) == "toolkit.cli"])
def test_the_command_line_imports_lazily(module: str) -> None:
    top = imports_of(module, top_level_only=True)
    foreign = {name.partition(".")[0] for name in top} - set(sys.stdlib_module_names)
    assert foreign <= {"toolkit", "typer"}
    assert {package_of(name) for name in top if name.startswith("toolkit")} <= GROUND | {"toolkit.cli"}


def without_leaves(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """What is left of a graph of imports once everything that stands on no circle is taken off."""
    while leaves := {name for name, imported in graph.items() if not imported & set(graph)}:
        graph = {name: imported for name, imported in graph.items() if name not in leaves}
    return graph


def test_there_are_no_circles_between_modules() -> None:
    assert without_leaves({name: imports_of(name) & set(MODULES) for name in set(MODULES) - {"toolkit"}}) == {}


def test_there_are_no_circles_between_folders() -> None:
    graph: dict[str, set[str]] = {}
    for name in (name for name in MODULES if package_of(name) not in ON_TOP - {"toolkit.cli"}):
        folder, imported = folder_of(name), imports_of(name) & set(MODULES)
        graph.setdefault(folder, set()).update({folder_of(other) for other in imported} - {folder})
    assert without_leaves(graph) == {}


def folder_of(module: str) -> str:
    """The folder that a module lies in, as a package's name."""
    return module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]


@pytest.mark.parametrize("module", [name for name in MODULES if package_of(name) not in ON_TOP])
def test_nothing_below_imports_the_command_line(module: str) -> None:
    assert not {name for name in imports_of(module) if package_of(name) == "toolkit.cli"}


def imported_by(*command: str) -> set[str]:
    """Top-level modules in memory after a command of ``toolkit`` ran in a process of its own."""
    script = (
        "import sys; sys.argv[0] = 'toolkit'\n"
        "from toolkit.cli.main import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "finally:\n    print('MODULES', *{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "transformers", "numpy", "PIL", "onnxruntime", "onnx", "pydantic", "matplotlib", "sklearn"}
    assert imported_by("--help") & heavy == set()


def test_production_verbs_never_import_torch_or_transformers(finished_bundle: Path, tmp_path: Path) -> None:
    image = str(finished_bundle / "golden" / "000.png")
    heavy = {"torch", "transformers", "onnx", "accelerate", "safetensors", "matplotlib", "sklearn", "scipy"}
    heavy |= {"model_signing", "sigstore", "cryptography", "OpenSSL"}
    assert imported_by("verify", str(finished_bundle)) & heavy == set()
    assert imported_by("predict", str(finished_bundle), image, "--json") & heavy == set()
    assert imported_by("push", str(finished_bundle), "me/colours", "--dry-run", "--json") & heavy == set()
    assert imported_by("triton", str(finished_bundle), "--out", str(tmp_path / "models")) & heavy == set()


def test_evaluate_never_imports_torch_or_transformers(finished_bundle: Path, color_data: Path, tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "onnx", "accelerate", "safetensors", "sklearn"}
    plain = imported_by("evaluate", str(finished_bundle), "--data", str(color_data), "--json")
    assert plain & (heavy | {"matplotlib"}) == set()
    written = imported_by("evaluate", str(finished_bundle), "--data", str(color_data), "--out", str(tmp_path / "out"))
    assert written & heavy == set()
