"""The classifier as ONNX nodes, in the form that ONNX Runtime runs fast.

torch.onnx's graphs of these encoders are not fused by ONNX Runtime's optimiser (no attention at
all), so the parts of a tower are written here: one matmul for query, key and value, the fused attention
and activation operators, and residual sums in the place where the runtime joins them with the layer
norm behind them. What there is to write comes from the description of the tower
(:mod:`toolkit.models.families.tower`), the names from :mod:`export.graph.tensor_names`.
"""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from export.graph.builder import MICROSOFT, GraphBuilder, Scope
from export.graph.config import FUSED, GraphConfig
from export.graph.grey_levels import affine_of, patches_of_levels
from export.graph.matmul import integer_matmul, matmul, quantized_matrix
from export.graph.preprocessing import RESIZED
from export.graph.tensor_names import LOGITS, POOLED, PROBABILITIES, TensorNames
from export.graph.traced import add_traced
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.families.tower import Attention, AttentionPooling, Block, Mlp, Projection, Tower
from toolkit.runtime.preprocess import Preprocess

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
    """Of the sum."""


class NetworkBuilder:
    """Turns the parts of a classifier into nodes; each method takes tensors' names and gives one."""

    def __init__(
        self,
        builder: GraphBuilder,
        classifier: Classifier,
        form: GraphConfig,
        preprocess: Preprocess | None,
        size: tuple[int, int] | None,
    ) -> None:
        self.builder, self.classifier, self.form, self.preprocess = builder, classifier, form, preprocess
        self.size = preprocess.output_size if preprocess and size is None else size
        self.names = TensorNames(classifier)

    def scope(self, module: nn.Module) -> Scope:
        """Nodes of a module that are no module's output."""
        return Scope(self.builder, self.names.of(module))

    def weight(self, name: str, value: Tensor) -> str:
        """A parameter as a constant of the graph."""
        return self.builder.constant(value, name=name)

    def matmul(self, x: str, name: str, matrix: Tensor, bias: Tensor | None = None, *, to: str) -> str:
        """See :func:`export.graph.matmul.matmul`."""
        return matmul(self.builder, self.form, x, name, matrix, bias, to=to)

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
        if isinstance(x, Residual) and not self.form.fuse_skip_layernorm:
            x = str(self.builder.node("Add", [x.stream, x.matmul], name=x.name))
        if isinstance(x, str):
            node = self.builder.node("LayerNormalization", [x, *affine], name=name, axis=-1, epsilon=epsilon)
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

    def activation(self, x: str, module: nn.Module) -> str:
        """GELU in one of its forms.

        Raises:
            ToolkitError: another activation, named.
        """
        name, kind = self.names.of(module), type(module).__name__
        if kind == "QuickGELUActivation" and self.form.standard_ops_only:
            add = self.scope(module)
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

    def self_attention(self, x: str, attention: Attention) -> str:
        """Attention of all tokens to all tokens, before its output projection: [B, T, D] -> [B, T, D]."""
        name, to = self.names.joint_matmul(attention, "qkv"), self.names.mixed_values(attention)
        matrix, shift = joined(attention.query, attention.key, attention.value)
        if self.form.standard_ops_only or self.form.quantization.rounds(name):
            add = self.scope(attention.module)
            three = self.matmul(x, name, matrix, shift, to=f"{name}/Add")
            query, key, value = add("Split", three, outputs=3, axis=2, num_outputs=3)
            return self.attention(query, key, value, attention)
        weight, bias = self.weight(f"{name}.weight^T", matrix), self.weight(f"{name}.bias", shift)
        return str(
            self.builder.node(
                "Attention",
                [x, weight, bias],
                name=to,
                domain=MICROSOFT,
                num_heads=attention.heads,
                scale=attention.scale,
            )
        )

    def first_token_attention(self, x: str, attention: Attention) -> str:
        """Attention of the first token to all tokens, before its output projection: [B, T, D] -> [B, 1, D]."""
        query = self.linear(self.first_token(x, self.scope(attention.module)), attention.query.module)
        return self.cross_attention(query, x, attention)

    def cross_attention(self, query: str, x: str, attention: Attention) -> str:
        """Attention of ready queries [B, Q, D] to keys and values of [B, T, D]."""
        name = self.names.joint_matmul(attention, "kv")
        both = self.matmul(x, name, *joined(attention.key, attention.value), to=f"{name}/Add")
        key, value = self.scope(attention.module)("Split", both, outputs=2, axis=2, num_outputs=2)
        return self.attention(query, key, value, attention)

    def attention(self, query: str, key: str, value: str, attention: Attention) -> str:
        """Softmax of scaled scores times values: [B, Q, D] and twice [B, T, D] -> [B, Q, D]."""
        add, heads, scale = self.scope(attention.module), attention.heads, attention.scale
        to = self.names.mixed_values(attention)
        if not self.form.standard_ops_only:
            inputs = (query, key, value)
            return str(add("MultiHeadAttention", *inputs, name=to, domain=MICROSOFT, num_heads=heads, scale=scale))
        split = add.integers(0, 0, heads, -1)
        query, value = (
            add("Transpose", add("Reshape", x, split), perm=[0, 2, 1, 3]) for x in (query, value)
        )  # [B, heads, Q or T, D / heads]
        key = add("Transpose", add("Reshape", key, split), perm=[0, 2, 3, 1])
        scores = add("MatMul", add("Mul", query, add.single(scale)), key)
        mixed = add("MatMul", add("Softmax", scores, axis=-1), value)
        return str(add("Reshape", add("Transpose", mixed, perm=[0, 2, 1, 3]), add.integers(0, 0, -1), name=to))

    def first_token(self, x: str, add: Scope) -> str:
        """[B, T, D] -> [B, 1, D]."""
        return str(add("Slice", x, add.integers(0), add.integers(1), add.integers(1)))

    def layer(self, x: str | Residual, block: Block, *, first_token_only: bool = False) -> Residual:
        """A pre-norm transformer layer: [B, T, D] -> [B, T, D], or [B, 1, D] for the first token alone."""
        normed, stream = self.layer_norm(x, block.norm1)
        if first_token_only:
            mixed = self.first_token_attention(normed, block.attention)
            stream = self.first_token(stream, self.scope(block.module))
        else:
            mixed = self.self_attention(normed, block.attention)
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
        if self.form.fuse_skip_layernorm:
            constant = "" if bias is None else self.weight(f"{of}.bias", bias)
            return Residual(stream, self.matmul(x, of, matrix, to=f"{of}/MatMul"), constant, name)
        return Residual(stream, self.matmul(x, of, matrix, bias, to=of), "", name)

    def patches(self, pixel_values: str, module: nn.Conv2d) -> str:
        """``pixel_values`` [B, 3, height, width] -> [B, patches, D]."""
        name, add = self.names.of(module), self.scope(module)
        if self.form.quantization.rounds(name):
            return self._patches_of_levels(pixel_values, module)
        inputs = [pixel_values, self.weight(f"{name}.weight", module.weight)]
        if module.bias is not None:
            inputs.append(self.weight(f"{name}.bias", module.bias))
        planes = self.builder.node(
            "Conv", inputs, name=name, kernel_shape=list(module.kernel_size), strides=list(module.stride)
        )
        rows = add("Reshape", planes, add.integers(0, module.out_channels, -1))
        return str(add("Transpose", rows, perm=[0, 2, 1]))

    def _patches_of_levels(self, pixel_values: str, module: nn.Conv2d) -> str:
        """The same from grey levels, whole numbers from 0 to 255, so that nothing but the weights is rounded."""
        name, add = self.names.of(module), self.scope(module)
        assert self.preprocess is not None
        assert self.preprocess.output_size is not None
        matrix, shift = patches_of_levels(module, self.preprocess)
        side, (height, width) = int(module.kernel_size[0]), self.preprocess.output_size
        grid = [height // side, side, width // side, side * 3]
        levels = self._levels(pixel_values, self.preprocess, add)
        cut = add("Transpose", add("Reshape", levels, add.integers(0, *grid)), perm=[0, 1, 3, 2, 4])
        rows = add("Reshape", cut, add.integers(0, grid[0] * grid[2], side * side * 3))
        step, zero = self.builder.constant(np.float32(1)), self.builder.constant(np.uint8(0))
        weights = quantized_matrix(self.builder, self.form, name, matrix)
        return integer_matmul(self.builder, rows, (step, zero), weights, self.weight(f"{name}.shift", shift), name)

    def _levels(self, pixel_values: str, preprocess: Preprocess, add: Scope) -> str:
        """Grey levels uint8 [B, height, width, 3]: the preprocessing's own, or what ``pixel_values`` came from."""
        if RESIZED in self.builder.tensors:
            return str(add("Cast", RESIZED, to=TensorProto.UINT8))
        scale, offset = (add.single(value) for value in affine_of(preprocess))
        levels = add("Div", add("Sub", pixel_values, offset), scale)
        rounded = add("QuantizeLinear", levels, add.single(1.0), add.builder.constant(np.uint8(0)))
        return str(add("Transpose", rounded, perm=[0, 2, 3, 1]))

    def tower(self, tower: Tower, pixel_values: str) -> str:
        """``pixel_values`` [B, 3, height, width] -> the embedding [B, P]."""
        first_only = not isinstance(tower.pooling, AttentionPooling) and tower.pooling.first_token_only
        stream: str | Residual = self.tokens(tower, pixel_values)
        *before, last = tower.blocks
        for block in before:
            stream = self.layer(stream, block)
        stream = self.layer(stream, last, first_token_only=first_only)
        normed, _ = self.layer_norm(stream, tower.post_norm)
        pooled = self.pooled(normed, tower)
        return pooled if tower.projection is None else self.linear(pooled, tower.projection)

    def tokens(self, tower: Tower, pixel_values: str) -> str:
        """``pixel_values`` [B, 3, height, width] -> what the first layer takes [B, T, D]."""
        name, add = self.names.of(tower.embeddings), self.scope(tower.embeddings)
        patches = self.patches(pixel_values, tower.patches)
        if tower.prefix:  # class and register tokens come in with the positions, over zeros
            patches = add("Pad", patches, add.integers(0, tower.prefix, 0, 0, 0, 0))
        constants = f"{name}.tokens" if tower.prefix else f"{name}.position_embedding.weight"
        added = self.weight(constants, tower.constants(self._grid(tower.patches)))
        x = str(self.builder.node("Add", [patches, added], name=name))
        return x if tower.pre_norm is None else self.layer_norm(x, tower.pre_norm)[0]

    def _grid(self, module: nn.Conv2d) -> tuple[int, int]:
        """Rows and columns of patches; any will do where only names are looked up."""
        height, width = self.size or module.kernel_size
        return int(height) // int(module.kernel_size[0]), int(width) // int(module.kernel_size[1])

    def pooled(self, x: str, tower: Tower) -> str:
        """Normed tokens [B, T, D], or [B, 1, D] -> [B, D], or [B, 2 D] of the class token and the patches' mean."""
        pooling = tower.pooling
        if isinstance(pooling, AttentionPooling):
            return self._attention_pooling(x, pooling)
        add = self.scope(tower.module)
        to = POOLED if tower.projection is None else ""
        if pooling.first_token_only:
            return str(add("Squeeze", x, add.integers(1), name=to))
        if not pooling.class_token:
            return str(add("ReduceMean", x, add.integers(1), name=to, keepdims=0))
        first = add("Squeeze", self.first_token(x, add), add.integers(1))
        patches = add("Slice", x, add.integers(tower.prefix), add.integers(2**31 - 1), add.integers(1))
        return str(add("Concat", first, add("ReduceMean", patches, add.integers(1), keepdims=0), name=to, axis=1))

    def _attention_pooling(self, x: str, pooling: AttentionPooling) -> str:
        """[B, T, D] -> [B, D]; the query is a constant, so its projection is one too."""
        attention, add = pooling.attention, self.scope(pooling.module)
        query = self.weight(f"{self.names.of(attention.module)}.query", attention.query(pooling.probe.detach()))
        batch = add("Concat", add("Shape", x, start=0, end=1), add.integers(1, 1), axis=0)
        mixed = self.cross_attention(add("Expand", query, batch), x, attention)
        pooled = self.linear(mixed, attention.output.module, to=self.names.taken_by(pooling.norm))
        normed, _ = self.layer_norm(pooled, pooling.norm)
        changed = self.linear(self.hidden(normed, pooling.mlp), pooling.mlp.down.module)
        total = add("Add", pooled, changed)
        return str(add("Squeeze", total, add.integers(1), name=self.names.of(pooling.module)))

    def head(self, embedding: str) -> str:
        """The classification head: [B, P] -> ``logits`` [B, classes]."""
        x = embedding
        *stages, last = (module for module in self.classifier.head.children() if not isinstance(module, nn.Dropout))
        assert isinstance(last, nn.Linear)
        for module in stages:
            x = self.linear(x, module) if isinstance(module, nn.Linear) else self.activation(x, module)
        return self.linear(x, last, to=LOGITS)

    def probabilities(self, logits: str) -> str:
        """The task's activation of the logits over the temperature."""
        value = self.classifier.temperature if self.form.temperature is None else self.form.temperature
        temperature = self.builder.constant(value, np.float32, name="temperature")
        scaled = self.builder.node("Div", [logits, temperature], name=f"{PROBABILITIES}/Div")
        if self.classifier.task.activation == "sigmoid":
            return str(self.builder.node("Sigmoid", [scaled], name=PROBABILITIES))
        return str(self.builder.node("Softmax", [scaled], name=PROBABILITIES, axis=-1))


def add_classifier(
    builder: GraphBuilder,
    classifier: Classifier,
    pixel_values: str,
    form: GraphConfig = FUSED,
    preprocess: Preprocess | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Add encoder, head and calibrated softmax, which end in ``logits`` and ``probabilities``.

    Args:
        builder: of the graph.
        classifier: in evaluation form, float32, on the CPU.
        pixel_values: the tensor that the encoder takes.
        form: in which operators, and which matmuls in integers.
        preprocess: what gave ``pixel_values``; a patch embedding in integers needs it.
        size: height and width of ``pixel_values``, where that is not said by ``preprocess``.
    """
    network = NetworkBuilder(builder, classifier, form, preprocess, size)
    tower = classifier.encoder.tower
    if tower is not None:
        embedding = network.tower(tower, pixel_values)
    else:
        embedding = add_traced(builder, classifier.encoder, pixel_values, network.size or (1, 1))
    network.probabilities(network.head(embedding))


def joined(*projections: Projection) -> tuple[Tensor, Tensor]:
    """One matrix [in, out] and one bias [out] of projections that take the same."""
    biases = [each.weight.new_zeros(len(each.weight)) if each.bias is None else each.bias for each in projections]
    return torch.cat([each.weight.T for each in projections], dim=1), torch.cat(biases)
