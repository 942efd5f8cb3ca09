from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin

from toolkit.models.build import build_classifier
from toolkit.recipe.model import ModelConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
def test_a_sharded_classifier_trains_saves_and_resumes_as_a_whole_one(family: str, encoders: dict[str, Path]) -> None:
    command = [sys.executable, str(Path(__file__).parent / "sharded.py"), str(encoders[family])]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("family", "layer"), [("clip", "CLIPEncoderLayer"), ("siglip", "SiglipEncoderLayer")])
def test_accelerate_finds_the_layers_that_become_units(family: str, layer: str, encoders: dict[str, Path]) -> None:
    classifier, _ = build_classifier(ModelConfig(encoder=str(encoders[family]), unfreeze_last=1), ["a", "b"], 0)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(classifier)
    assert {kind.__name__ for kind in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]} == {layer}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_launch_configuration_is_one_that_accelerate_reads(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    if config.distributed_type == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
    assert "\n# launch    " in path.read_text()
