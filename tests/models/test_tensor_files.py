from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from toolkit.models.tensor_files import load_tensors, save_tensors

GENERATOR = torch.Generator().manual_seed(0)
TENSORS = {
    "matrix": torch.randn(5, 7, generator=GENERATOR),
    "transposed": torch.randn(5, 7, generator=GENERATOR).T,
    "half": torch.randn(3, generator=GENERATOR).half(),
    "brain": torch.randn(3, generator=GENERATOR).bfloat16(),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "integers": torch.arange(9).reshape(3, 3),
    "odd": torch.tensor([float("nan"), float("inf"), -0.0]),
    "empty": torch.empty(0, 4),
}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8)


def test_tensors_are_read_back_bit_for_bit(tmp_path: Path) -> None:
    save_tensors(tmp_path / "file", TENSORS, {"key": "value"})
    read = load_tensors(tmp_path / "file")
    assert read.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (read[name].dtype, read[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(read[name]).equal(bits(tensor)), name
    with safe_open(tmp_path / "file", "pt") as file:
        assert file.metadata() == {"key": "value"}


def test_a_file_that_was_cut_off_anywhere_is_damaged(tmp_path: Path) -> None:
    save_tensors(tmp_path / "whole", TENSORS)
    content = (tmp_path / "whole").read_bytes()
    for size in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"\w"):
            load_tensors(tmp_path / "cut")


def test_absence_is_told_apart_from_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "nowhere")


def test_a_full_disk_is_an_error_of_the_system_that_says_so(small_disk: Path) -> None:
    with pytest.raises(OSError, match=r"^No space left on device"):
        save_tensors(small_disk / "file", {"large": torch.zeros(2**20)})
