"""PyTorch's form of a quantised classifier: the same integers, computed by PyTorch, to hold a graph against."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from export.graph.grey_levels import affine_of, patches_of_levels
from export.graph.quantization import TINY, Quantization
from export.graph.tensor_names import names_of
from toolkit.models.classifier import Classifier
from toolkit.models.families.tower import PartedLinear, Projection, fold_layer_scales
from toolkit.runtime.preprocess import Preprocess


class QuantizedLinear(nn.Linear):
    """A linear layer whose weight and input are rounded; it is differentiable nowhere and needn't be."""

    def __init__(self, weight: Tensor, bias: Tensor | None, quantization: Quantization, matmul: str) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias.detach())
        self.quantization, self.matmul = quantization, matmul
        self.input_scale = 0.0
        """Of the newest input: what two neighbouring quantised values lie apart."""
        self.dither = 0.0
        """Largest share of the scale that is added at random before rounding, to see what values at its border do."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        rounded, self.input_scale = _rounded(input, self.quantization, self.matmul, self.dither)
        return nn.functional.linear(rounded, self.weight, self.bias)


class QuantizedPatches(nn.Conv2d):
    """A patch embedding that takes grey levels of ``pixel_values``, with rounded weights."""

    def __init__(self, origin: nn.Conv2d, weight: Tensor, bias: Tensor, preprocess: Preprocess) -> None:
        side = int(origin.kernel_size[0])
        super().__init__(3, origin.out_channels, side, side, device="meta")
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.scale, self.offset = (torch.from_numpy(value) for value in affine_of(preprocess))

    def forward(self, input: Tensor) -> Tensor:
        """``pixel_values`` [B, 3, height, width] -> [B, D, rows, columns]."""
        levels = ((input.double() - self.offset) / self.scale).round().clamp(0, 255)
        return super().forward(levels.to(input.dtype))


def quantized_classifier(classifier: Classifier, preprocess: Preprocess, quantization: Quantization) -> Classifier:
    """A copy whose matmuls are rounded as the graph's are.

    Run it by its own forward pass, which leaves out the tokens that the graph leaves out.
    """
    rounded = copy.deepcopy(classifier)
    names = names_of(rounded)
    fold_layer_scales(rounded.encoder.tower)
    attentions = [attention for tower in rounded.encoder.towers for attention in tower.attentions]
    joint = names.joint_matmuls(attentions)
    shared: dict[tuple[nn.Module, int], nn.Linear] = {}
    for matmul in quantization.matmuls:
        layers = joint.get(matmul) or (Projection(rounded.get_submodule(matmul)),)
        if isinstance(layers[0].module, nn.Conv2d):
            _replace(rounded, matmul, _patches(layers[0].module, preprocess, quantization))
            continue
        weights = _dequantised(torch.cat([layer.weight.T for layer in layers], dim=1), quantization)
        for layer, weight in zip(layers, weights.chunk(len(layers), dim=1), strict=True):
            linear = QuantizedLinear(weight.T.contiguous(), layer.bias, quantization, matmul)
            if layer.rows is None:
                _replace(rounded, names.of(layer.module), linear)
            else:
                shared[layer.module, layer.rows.start] = linear
    for attention in attentions:
        parts = (attention.query, attention.key, attention.value)
        if any(module is attention.query.module for module, _ in shared):
            linears = [shared.get((part.module, part.rows.start)) or _as_linear(part) for part in parts if part.rows]
            _replace(rounded, names.of(attention.query.module), PartedLinear(linears))
    return rounded


def _as_linear(projection: Projection) -> nn.Linear:
    """A linear layer of its own, in float."""
    weight, bias = projection.weight.detach(), projection.bias
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach())
    return linear


def _replace(classifier: Classifier, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(classifier.get_submodule(parent), last, module)


def _patches(module: nn.Conv2d, preprocess: Preprocess, quantization: Quantization) -> QuantizedPatches:
    matrix, bias = patches_of_levels(module, preprocess)
    side = int(module.kernel_size[0])
    weight = _dequantised(matrix, quantization).reshape(side, side, 3, -1).permute(3, 2, 0, 1)
    return QuantizedPatches(module, weight.contiguous(), bias, preprocess)


def _dequantised(matrix: Tensor, quantization: Quantization) -> Tensor:
    rounded, scale = quantization.weight(matrix.detach().numpy())
    return torch.from_numpy(rounded * scale)


def largest_rounding(rounded: Classifier) -> float:
    """What one activation that is rounded to the neighbouring value changes at most in a matmul, in the newest pass."""
    linear = [module for module in rounded.modules() if isinstance(module, QuantizedLinear)]
    return max((module.input_scale * float(module.weight.detach().abs().max()) for module in linear), default=0.0)


@contextmanager
def dithered(rounded: Classifier, share: float) -> Iterator[None]:
    """While this is open, values near the border of two quantised values are rounded to either."""
    linear = [module for module in rounded.modules() if isinstance(module, QuantizedLinear)]
    for module in linear:
        module.dither = share
    try:
        yield
    finally:
        for module in linear:
            module.dither = 0.0


def _rounded(x: Tensor, quantization: Quantization, matmul: str, dither: float) -> tuple[Tensor, float]:
    """Activations rounded to 256 values, as floating-point numbers again, and their scale."""
    if quantization.activations == "static":
        scale, offset = (each.item() for each in quantization.activation(matmul))
    else:
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        scale = max(high - low, TINY) / 255
        offset = round(-low / scale)
    smallest, largest = (-128, 127) if quantization.symmetric else (0, 255)
    quantized = x / scale
    if dither:
        noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
        quantized = quantized + dither * (2 * noise - 1)
    return (quantized.round().add(offset).clamp(smallest, largest) - offset) * scale, scale
