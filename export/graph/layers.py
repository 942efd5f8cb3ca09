"""Transformer layers as ONNX nodes, in the form that ONNX Runtime runs fast.

torch.onnx's graphs of these encoders are not fused by ONNX Runtime's optimiser (no attention at
all), so the parts of a tower are written here: one matmul for query, key and value, the fused attention
and activation operators, and residual sums in the place where the runtime joins them with the layer
norm behind them. What there is to write comes from the description of the tower
(:mod:`toolkit.models.families.tower`), the names from :mod:`export.graph.tensor_names`.
"""

# B batch, T tokens, D width

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from export.graph.builder import MICROSOFT, GraphBuilder, Scope
from export.graph.config import GraphConfig
from export.graph.matmul import matmul
from export.graph.tensor_names import TensorNames
from toolkit.errors import ToolkitError
from toolkit.models.families.tower import Attention, Block, Mlp, Projection

GELU = {
    "GELU": "none",
    "GELUActivation": "none",
    "GELUTanh": "tanh",
    "PytorchGELUTanh": "tanh",
    "NewGELUActivation": "tanh",
}
"""Activation classes that are GELU, with their approximation."""
SILU = frozenset({"SiLU", "SiLUActivation"})
QUICK_GELU_ALPHA = 1.702


@dataclass(frozen=True)
class Residual:
    """A sum that the next layer norm forms: the stream, a matmul, and the bias of that matmul."""

    stream: str
    matmul: str
    bias: str
    """Empty where the matmul has it already."""
    name: str
    """Name of the sum."""


@dataclass(frozen=True)
class Rotary:
    """What turns queries and keys: cosine and sine [T, D / heads], one and zero for tokens without a position."""

    name: str
    """Of the constants."""
    cosine: Tensor
    sine: Tensor


class LayerBuilder:
    """Turns the parts of a tower into nodes; each method takes tensors' names and gives one."""

    def __init__(self, builder: GraphBuilder, names: TensorNames, config: GraphConfig) -> None:
        self.builder, self.names, self.config = builder, names, config

    def scope(self, module: nn.Module) -> Scope:
        """Nodes of a module that are no module's output."""
        return Scope(self.builder, self.names.of(module))

    def weight(self, name: str, value: Tensor) -> str:
        """A parameter as a constant of the graph."""
        return self.builder.constant(value, name=name)

    def matmul(self, x: str, name: str, matrix: Tensor, bias: Tensor | None = None, *, to: str) -> str:
        """See :func:`export.graph.matmul.matmul`."""
        return matmul(self.builder, self.config, x, name, matrix, bias, to=to)

    def linear(self, x: str, module: nn.Module, *, to: str = "") -> str:
        """[..., in] -> [..., out]."""
        name, layer = self.names.of(module), Projection(module)
        return self.matmul(x, name, layer.weight.T, layer.bias, to=to or name)

    def layer_norm(self, x: str | Residual, module: nn.LayerNorm) -> tuple[str, str]:
        """Normalise the last axis; the result, and what was normalised.

        A residual sum is formed by the same operator that normalises it.
        """
        name = self.names.of(module)
        affine = [self.weight(f"{name}.weight", module.weight), self.weight(f"{name}.bias", module.bias)]
        epsilon = float(module.eps)
        if isinstance(x, Residual) and not self.config.fuse_skip_layernorm:
            x = str(self.builder.node("Add", [x.stream, x.matmul], name=x.name))
        if isinstance(x, str):
            options: dict[str, Any] = {"stash_type": TensorProto.BFLOAT16} if self._compiled_in_bf16 else {}
            node = self.builder.node("LayerNormalization", [x, *affine], name=name, axis=-1, epsilon=epsilon, **options)
            return node, x
        self.builder.node(
            "SkipLayerNormalization",
            [x.stream, x.matmul, *affine, x.bias],
            name=name,
            outputs=[name, "", "", x.name],
            domain=MICROSOFT,
            epsilon=epsilon,
        )
        return name, x.name

    def final_norm(self, x: str | Residual, module: nn.LayerNorm) -> str:
        """The norm behind the last layer; nothing else takes what it normalises.

        Such a sum ONNX Runtime joins with the norm by itself, but only where it knows the shapes: graphs that take
        images would give other bits than those that take their pixels. It lets ``Sum`` alone. Graphs in half and in
        integers keep their form, since a run may have learned on it.
        """
        if isinstance(x, Residual) and not self.config.fuse_skip_layernorm and self.config.precision == "fp32":
            x = str(self.builder.node("Sum", [x.stream, x.matmul], name=x.name))
        return self.layer_norm(x, module)[0]

    @property
    def _compiled_in_bf16(self) -> bool:
        """Whether OpenVINO runs the graph in bf16.

        Its kernel of the norm computes in float32 whatever it takes; the casts around it that ONNX asks for by default
        would be passes over memory of their own.
        """
        return self.config.standard_ops_only and self.config.precision == "bf16"

    def total(self, x: str | Residual) -> str:
        """A residual sum that no norm follows."""
        if isinstance(x, str):
            return x
        added = str(self.builder.node("Add", [x.matmul, x.bias], name=f"{x.name}/bias")) if x.bias else x.matmul
        return str(self.builder.node("Add", [x.stream, added], name=x.name))

    def activation(self, x: str, module: nn.Module) -> str:
        """GELU in one of its forms.

        Raises:
            ToolkitError: another activation, named.
        """
        name, kind = self.names.of(module), type(module).__name__
        if kind == "QuickGELUActivation" and self.config.standard_ops_only:
            add = self.scope(module)
            if self._compiled_in_bf16:  # the form that OpenVINO 2026.4 joins with the matmul in bf16 too
                power = add("Exp", add("Neg", add("Mul", x, add.single(QUICK_GELU_ALPHA))))
                return str(add("Div", x, add("Add", power, add.single(1.0)), name=name))
            gate = add("Sigmoid", add("Mul", x, add.single(QUICK_GELU_ALPHA)))
            return str(add("Mul", x, gate, name=name))
        if kind == "QuickGELUActivation":
            return str(self.builder.node("QuickGelu", [x], name=name, domain=MICROSOFT, alpha=QUICK_GELU_ALPHA))
        if kind in SILU:
            return str(self.builder.node("Mul", [x, self.scope(module)("Sigmoid", x)], name=name))
        if kind in GELU:
            return str(self.builder.node("Gelu", [x], name=name, approximate=GELU[kind]))
        what = f"the graph can't express the activation {kind}"
        raise ToolkitError(what, where=name, fix="use an encoder with a GELU or a SiLU")

    def hidden(self, x: str, mlp: Mlp) -> str:
        """The hidden layer of an MLP block."""
        if mlp.gate is None:
            return self.activation(self.linear(x, mlp.up.module), mlp.activation)
        gate = self.activation(self.linear(x, mlp.gate.module), mlp.activation)
        return str(
            self.scope(mlp.module)(
                "Mul", gate, self.linear(x, mlp.up.module), name=self.names.taken_by(mlp.down.module)
            )
        )

    def self_attention(
        self, x: str, attention: Attention, *, causal: bool = False, rotary: Rotary | None = None
    ) -> str:
        """Attention of all tokens to all tokens, or to none behind them, before its output projection: [B, T, D]."""
        name, to = self.names.joint_matmul(attention, "qkv"), self.names.mixed_values(attention)
        matrix, bias = joined(attention.query, attention.key, attention.value)
        if self.config.standard_ops_only or self.config.quantization.rounds(name) or rotary is not None:
            three = self.matmul(x, name, matrix, bias, to=f"{name}/Add")
            query, key, value = self._parts(three, 3, attention)
            if rotary is not None:
                query, key = (self.turned(part, attention, rotary) for part in (query, key))
            return self.attention(query, key, value, attention, causal=causal)
        weights = [self.weight(f"{name}.weight^T", matrix), self.weight(f"{name}.bias", bias)]
        return str(
            self.builder.node(
                "Attention",
                [x, *weights],
                name=to,
                domain=MICROSOFT,
                num_heads=attention.heads,
                scale=attention.scale,
                **({"unidirectional": 1} if causal else {}),
            )
        )

    def first_token_attention(self, x: str, attention: Attention, rotary: Rotary | None = None) -> str:
        """Attention of the first token to all tokens, before its output projection: [B, T, D] -> [B, 1, D]."""
        first, name = self.first_token(x, self.scope(attention.module)), self.names.query_matmul(attention)
        query = self.matmul(first, name, attention.query.weight.T, attention.query.bias, to=name)
        return self.cross_attention(query, x, attention, rotary)

    def cross_attention(self, query: str, x: str, attention: Attention, rotary: Rotary | None = None) -> str:
        """Attention of ready queries [B, Q, D] to keys and values of [B, T, D]."""
        name = self.names.joint_matmul(attention, "kv")
        both = self.matmul(x, name, *joined(attention.key, attention.value), to=f"{name}/Add")
        key, value = self._parts(both, 2, attention)
        if rotary is not None:
            key = self.turned(key, attention, rotary)
        (query,) = self._parts(query, 1, attention)
        return self.attention(query, key, value, attention)

    def _parts(self, joint: str, count: int, attention: Attention) -> list[str]:
        """Queries, keys or values that one matmul gave side by side [B, T, count * D]: each [B, T, D].

        In standard operators each is given by heads, [B, heads, T, D / heads]: with one Transpose of all, OpenVINO
        2026.4 runs ViT-B/32 up to a tenth faster than with a Split and a Transpose of each.
        """
        add, heads = self.scope(attention.module), attention.heads
        if not self.config.standard_ops_only:
            return [joint] if count == 1 else list(add("Split", joint, outputs=count, axis=2, num_outputs=count))
        if count == 1:
            return [add("Transpose", add("Reshape", joint, add.integers(0, 0, heads, -1)), perm=[0, 2, 1, 3])]
        by_heads = add("Reshape", joint, add.integers(0, 0, count, heads, -1))
        moved = add("Transpose", by_heads, perm=[2, 0, 3, 1, 4])
        return [add("Gather", moved, add.builder.constant(np.int64(place)), axis=0) for place in range(count)]

    def turned(self, x: str, attention: Attention, rotary: Rotary) -> str:
        """Queries or keys as :meth:`_parts` gives them, turned by the positions of their tokens."""
        add, to = self.scope(attention.module), f"{self.names.of(attention.module)}/turned"
        parts = {"cos": rotary.cosine, "sin": rotary.sine}
        if not self.config.standard_ops_only:  # the operator takes half of what repeats itself
            halves = {part: values.chunk(2, dim=1)[0].contiguous() for part, values in parts.items()}
            constants = [self.weight(f"{rotary.name}.{part}", values) for part, values in halves.items()]
            return str(add("RotaryEmbedding", x, add.integers(0), *constants, name=to, domain=MICROSOFT))
        cosine, sine = (self.weight(f"{rotary.name}.{part}", values) for part, values in parts.items())
        first, second = add("Split", x, outputs=2, axis=3, num_outputs=2)
        across = add("Concat", add("Neg", second), first, axis=3)
        return str(add("Add", add("Mul", x, cosine), add("Mul", across, sine), name=to))

    def attention(self, query: str, key: str, value: str, attention: Attention, *, causal: bool = False) -> str:
        """Softmax of scaled scores times values, of what :meth:`_parts` gives: [B, Q, D]."""
        add, scale, to = self.scope(attention.module), attention.scale, self.names.mixed_values(attention)
        if not self.config.standard_ops_only:
            options: dict[str, Any] = {"num_heads": attention.heads, "scale": scale}
            if causal:
                options["unidirectional"] = 1
            return str(add("MultiHeadAttention", query, key, value, name=to, domain=MICROSOFT, **options))
        scaled, across = add("Mul", query, add.single(scale)), add("Transpose", key, perm=[0, 1, 3, 2])
        scores = add("MatMul", scaled, across)  # [B, heads, Q, T]
        if causal:
            scores = add("Add", scores, self._unseen(scores, add))
        mixed = add("MatMul", add("Softmax", scores, axis=-1), value)
        return str(add("Reshape", add("Transpose", mixed, perm=[0, 2, 1, 3]), add.integers(0, 0, -1), name=to))

    def _unseen(self, scores: str, add: Scope) -> str:
        """What takes the tokens behind each token out of its scores [B, heads, T, T]: -infinity [T, T] above zeros."""
        square = add("Shape", scores, start=2, end=4)
        unseen = add("Expand", add.single(float("-inf")), square)
        return str(add("Trilu", unseen, add.builder.constant(np.int64(1)), upper=1))

    def first_token(self, x: str, add: Scope) -> str:
        """[B, T, D] -> [B, 1, D]."""
        return str(add("Slice", x, add.integers(0), add.integers(1), add.integers(1)))

    def layer(
        self,
        x: str | Residual,
        block: Block,
        *,
        first_token_only: bool = False,
        causal: bool = False,
        rotary: Rotary | None = None,
    ) -> Residual:
        """A pre-norm transformer layer: [B, T, D] -> [B, T, D], or [B, 1, D] for the first token alone."""
        normed, stream = self.layer_norm(x, block.norm1)
        if first_token_only:
            mixed = self.first_token_attention(normed, block.attention, rotary)
            stream = self.first_token(stream, self.scope(block.module))
        else:
            mixed = self.self_attention(normed, block.attention, causal=causal, rotary=rotary)
        sum_name = self.names.taken_by(block.norm2)
        attended = self._residual(stream, mixed, block.attention.output, block.attention_scale, sum_name)
        normed, stream = self.layer_norm(attended, block.norm2)
        hidden = self.hidden(normed, block.mlp)
        return self._residual(stream, hidden, block.mlp.down, block.mlp_scale, self.names.of(block.module))

    def _residual(self, stream: str, x: str, projection: Projection, scale: Tensor | None, name: str) -> Residual:
        """A projection that is added to the stream, with its layer scale folded in."""
        of, matrix, bias = self.names.of(projection.module), projection.weight.T, projection.bias
        if scale is not None:
            matrix, bias = matrix * scale, None if bias is None else bias * scale
        if self.config.fuse_skip_layernorm:
            constant = "" if bias is None else self.weight(f"{of}.bias", bias)
            return Residual(stream, self.matmul(x, of, matrix, to=f"{of}/MatMul"), constant, name)
        return Residual(stream, self.matmul(x, of, matrix, bias, to=of), "", name)


def joined(*projections: Projection) -> tuple[Tensor, Tensor]:
    """One matrix [in, out] and one bias [out] of projections that take the same."""
    biases = [each.weight.new_zeros(len(each.weight)) if each.bias is None else each.bias for each in projections]
    return torch.cat([each.weight.T for each in projections], dim=1), torch.cat(biases)
