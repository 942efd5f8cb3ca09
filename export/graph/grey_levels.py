"""Grey levels, the whole numbers from 0 to 255 that ``pixel_values`` come from, as what a patch embedding takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from toolkit.runtime.preprocess import Float32, Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn


def affine_of(preprocess: Preprocess) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scale and offset [3, 1, 1] of each channel: ``pixel_values`` = level * scale + offset."""
    factor = 1.0 if preprocess.rescale_factor is None else preprocess.rescale_factor
    mean, std = (np.array(value, np.float64) for value in (preprocess.mean or (0, 0, 0), preprocess.std or (1, 1, 1)))
    return (factor / std).reshape(3, 1, 1), (-mean / std).reshape(3, 1, 1)


def levels_of(preprocess: Preprocess, pixel_values: Float32) -> Float32:
    """The grey levels [batch, height, width, 3] that ``pixel_values`` [batch, 3, height, width] came from."""
    scale, offset = affine_of(preprocess)
    levels: Float32 = np.rint((pixel_values - offset) / scale).transpose(0, 2, 3, 1).astype(np.float32)
    return levels


def fills_grid(module: nn.Conv2d, preprocess: Preprocess) -> bool:
    """Whether the patches cover the image without a rest, side by side."""
    size = preprocess.output_size
    assert size is not None  # checked when it was built
    plain = module.kernel_size == module.stride and module.kernel_size[0] == module.kernel_size[1]
    unpadded = module.padding in ("valid", 0, (0, 0))
    return plain and unpadded and all(side % int(module.kernel_size[0]) == 0 for side in size)


def patches_of_levels(module: nn.Conv2d, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """A patch embedding as a matmul with grey levels, normalisation included.

    Returns:
        The matrix [side * side * 3, D], whose rows stand in the order row, column, channel, and the bias [D].
    """
    import torch

    scale, offset = (torch.from_numpy(value) for value in affine_of(preprocess))
    weight = module.weight.detach().cpu().double()  # [D, 3, side, side]
    bias = torch.zeros(len(weight), dtype=torch.float64) if module.bias is None else module.bias.detach().cpu().double()
    matrix = (weight * scale).permute(2, 3, 1, 0).flatten(0, 2)
    return matrix.float(), (bias + (weight * offset).sum((1, 2, 3))).float()
