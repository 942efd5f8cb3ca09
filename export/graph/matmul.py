"""Matmuls of activations with constant matrices as ONNX nodes: in float32, or in integers with float32 around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.config import GraphConfig

if TYPE_CHECKING:
    from torch import Tensor


def matmul(
    builder: GraphBuilder,
    config: GraphConfig,
    x: str,
    name: str,
    matrix: Tensor,
    bias: Tensor | None = None,
    *,
    to: str,
) -> str:
    """``x`` [..., in] times ``matrix`` [in, out], plus ``bias`` [out].

    Args:
        builder: of the graph.
        config: whether the matmul is rounded, and which operators write it.
        x: float32 activations.
        name: of the matmul; its constants bear it.
        matrix: of a linear layer, transposed.
        bias: of a linear layer, or None.
        to: name of the result, float32 [..., out].
    """
    added = "" if bias is None else builder.constant(bias, name=f"{name}.bias")
    before_bias = f"{name}/MatMul" if added else to
    if not config.quantization.rounds(name):
        weight = builder.constant(matrix, name=f"{name}.weight^T")
        return _plus(builder, builder.node("MatMul", [x, weight], name=before_bias), added, to)
    weights = quantized_matrix(builder, config, name, matrix)
    if config.quantization.activations == "dynamic":
        inputs = [x, *weights, "", *([added] if added else [])]
        return str(builder.node("DynamicQuantizeMatMul", inputs, name=to, domain=MICROSOFT))
    scale, zero = (builder.constant(value) for value in config.quantization.activation(name))
    quantized = builder.node("QuantizeLinear", [x, scale, zero], name=f"{name}/QuantizeLinear")
    standard = config.standard_ops_only
    return integer_matmul(builder, quantized, (scale, zero), weights, added, to, standard_ops_only=standard)


def quantized_matrix(builder: GraphBuilder, config: GraphConfig, name: str, matrix: Tensor) -> list[str]:
    """A matrix [in, out] in integers, and its scales."""
    rounded, scale = config.quantization.weight(matrix.detach().cpu().numpy())
    constants = {f"{name}.weight^T.int8": rounded, f"{name}.weight^T.scale": scale}
    return [builder.constant(value, name=each) for each, value in constants.items()]


def integer_matmul(
    builder: GraphBuilder,
    quantized: str,
    affine: tuple[str, str],
    weights: list[str],
    bias: str,
    to: str,
    *,
    standard_ops_only: bool = False,
) -> str:
    """Rounded activations [..., in], with their scale and zero point, times a rounded matrix: float32 [..., out].

    In standard operators it is a matmul of what both stand for, which compilers turn into one of integers.
    """
    if standard_ops_only:
        values = builder.node("DequantizeLinear", [quantized, *affine], name=f"{to}/values")
        matrix = builder.node("DequantizeLinear", weights, name=f"{to}/matrix", axis=-1)
        return _plus(builder, builder.node("MatMul", [values, matrix], name=f"{to}/MatMul" if bias else to), bias, to)
    scale, zero = affine
    matrix, weight_scale = weights
    inputs = [quantized, matrix, scale, weight_scale, zero, "", *([bias] if bias else [])]
    return str(builder.node("MatMulIntegerToFloat", inputs, name=to, domain=MICROSOFT))


def _plus(builder: GraphBuilder, matmul: str, bias: str, to: str) -> str:
    return str(builder.node("Add", [matmul, bias], name=to)) if bias else matmul
