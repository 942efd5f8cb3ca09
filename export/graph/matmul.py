"""Matmuls of activations with constant matrices as ONNX nodes: in float32, or in integers with float32 around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from export.graph.builder import MICROSOFT, GraphBuilder
from export.graph.config import GraphConfig

if TYPE_CHECKING:
    from torch import Tensor


def matmul(
    builder: GraphBuilder, form: GraphConfig, x: str, name: str, matrix: Tensor, bias: Tensor | None = None, *, to: str
) -> str:
    """``x`` [..., in] times ``matrix`` [in, out], plus ``bias`` [out].

    Args:
        builder: of the graph.
        form: whether the matmul is rounded, and in which operators it is said.
        x: float32 activations.
        name: of the matmul; its constants bear it.
        matrix: of a linear layer, transposed.
        bias: of a linear layer, or None.
        to: name of the result, float32 [..., out].
    """
    shift = "" if bias is None else builder.constant(bias, name=f"{name}.bias")
    before_shift = f"{name}/MatMul" if shift else to
    if not form.quantization.rounds(name):
        weight = builder.constant(matrix, name=f"{name}.weight^T")
        return _shifted(builder, builder.node("MatMul", [x, weight], name=before_shift), shift, to)
    weights = quantized_matrix(builder, form, name, matrix)
    if form.quantization.activations == "dynamic":
        inputs = [x, *weights, "", *([shift] if shift else [])]
        return str(builder.node("DynamicQuantizeMatMul", inputs, name=to, domain=MICROSOFT))
    step, zero = (builder.constant(value) for value in form.quantization.activation(name))
    levels = builder.node("QuantizeLinear", [x, step, zero], name=f"{name}/QuantizeLinear")
    if not form.standard_ops_only:
        return integer_matmul(builder, levels, (step, zero), weights, shift, to)
    values = builder.node("DequantizeLinear", [levels, step, zero], name=f"{name}/DequantizeLinear")
    weight = builder.node("DequantizeLinear", weights, name=f"{name}.weight^T", axis=1)
    return _shifted(builder, builder.node("MatMul", [values, weight], name=before_shift), shift, to)


def quantized_matrix(builder: GraphBuilder, form: GraphConfig, name: str, matrix: Tensor) -> list[str]:
    """A matrix [in, out] in integers, and its scales."""
    rounded, scale = form.quantization.weight(matrix.detach().cpu().numpy())
    constants = {f"{name}.weight^T.int8": rounded, f"{name}.weight^T.scale": scale}
    return [builder.constant(value, name=each) for each, value in constants.items()]


def integer_matmul(
    builder: GraphBuilder, levels: str, affine: tuple[str, str], weights: list[str], shift: str, to: str
) -> str:
    """Rounded activations [..., in], with their scale and zero point, times a rounded matrix: float32 [..., out]."""
    step, zero = affine
    matrix, scale = weights
    inputs = [levels, matrix, step, scale, zero, "", *([shift] if shift else [])]
    return str(builder.node("MatMulIntegerToFloat", inputs, name=to, domain=MICROSOFT))


def _shifted(builder: GraphBuilder, matmul: str, shift: str, to: str) -> str:
    return str(builder.node("Add", [matmul, shift], name=to)) if shift else matmul
