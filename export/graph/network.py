"""The classifier as ONNX nodes, in the form that ONNX Runtime runs fast.

torch.onnx's graphs of these encoders are not fused by ONNX Runtime's optimiser (no attention at
all), so the blocks that the families share are said here once: one product for query, key and
value, the fused attention and activation operators, and residual sums in the place where the
runtime joins them with the layer norm behind them. A tensor bears the name of the module of the
classifier that gives it, with ``/input`` behind it where it is what that module takes; everything
else has an operator's name at its end.
"""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor, nn

from export.graph.builder import MICROSOFT, GraphBuilder, Scope
from export.graph.config import FUSED, Form
from export.graph.grey_levels import affine_of, patches_of_levels
from export.graph.matmul import integer_product, product, rounded_matrix
from export.graph.preprocessing import RESIZED
from toolkit.errors import ToolkitError
from toolkit.models.classifier import Classifier
from toolkit.models.encoder import Group
from toolkit.runtime.preprocess import Preprocess

LOGITS, PROBABILITIES = "logits", "probabilities"
POOLED = "head/input"
"""The embedding of an encoder without a projection: no module of PyTorch's gives it."""
GELU = {
    "GELU": "none",
    "GELUActivation": "none",
    "GELUTanh": "tanh",
    "PytorchGELUTanh": "tanh",
    "NewGELUActivation": "tanh",
}
"""Activation classes that are GELU, with their approximation."""
QUICK_GELU_ALPHA = 1.702


@dataclass(frozen=True)
class Residual:
    """A sum that the next layer norm forms: the stream, a product, and the bias of that product."""

    stream: str
    product: str
    bias: str
    """Empty where the product has it already."""
    name: str
    """Of the sum."""


class NetworkBuilder:
    """Turns modules of a classifier into nodes; each method takes tensors' names and gives one."""

    def __init__(
        self, builder: GraphBuilder, classifier: Classifier, form: Form, preprocess: Preprocess | None
    ) -> None:
        self.builder, self.classifier, self.form, self.preprocess = builder, classifier, form, preprocess
        self._names = {module: name for name, module in classifier.named_modules()}

    def name_of(self, module: nn.Module) -> str:
        """A module's dotted name in the classifier."""
        return self._names[module]

    def scope(self, module: nn.Module) -> Scope:
        """Nodes of a module that are no module's output."""
        return Scope(self.builder, self.name_of(module))

    def weight(self, name: str, value: Tensor) -> str:
        """A parameter as a constant of the graph."""
        return self.builder.constant(value, name=name)

    def product(self, x: str, name: str, matrix: Tensor, bias: Tensor | None = None, *, to: str) -> str:
        """See :func:`export.graph.matmul.product`."""
        return product(self.builder, self.form, x, name, matrix, bias, to=to)

    def linear(self, x: str, module: nn.Linear, *, to: str = "") -> str:
        """[..., in] -> [..., out]."""
        name = self.name_of(module)
        return self.product(x, name, module.weight.T, module.bias, to=to or name)

    def layer_norm(self, x: str | Residual, module: nn.LayerNorm) -> tuple[str, str]:
        """Normalise the last axis; the result, and what was normalised.

        A residual sum is formed by the same operator that normalises it.
        """
        name = self.name_of(module)
        affine = [self.weight(f"{name}.weight", module.weight), self.weight(f"{name}.bias", module.bias)]
        epsilon = float(module.eps)
        if isinstance(x, Residual) and not self.form.joined_norms:
            x = str(self.builder.node("Add", [x.stream, x.product], name=x.name))
        if isinstance(x, str):
            node = self.builder.node("LayerNormalization", [x, *affine], name=name, axis=-1, epsilon=epsilon)
            return node, x
        self.builder.node(
            "SkipLayerNormalization",
            [x.stream, x.product, *affine, x.bias],
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
        name, kind = self.name_of(module), type(module).__name__
        if kind == "QuickGELUActivation" and self.form.standard:
            add = self.scope(module)
            gate = add("Sigmoid", add("Mul", x, add.single(QUICK_GELU_ALPHA)))
            return str(add("Mul", x, gate, name=name))
        if kind == "QuickGELUActivation":
            return str(self.builder.node("QuickGelu", [x], name=name, domain=MICROSOFT, alpha=QUICK_GELU_ALPHA))
        if kind in GELU:
            return str(self.builder.node("Gelu", [x], name=name, approximate=GELU[kind]))
        what = f"the graph can't express the activation {kind}"
        raise ToolkitError(what, where=name, fix="use an encoder with a GELU, such as those of CLIP and SigLIP")

    def hidden(self, x: str, module: Any) -> str:
        """The hidden layer of an MLP block."""
        return self.activation(self.linear(x, module.fc1), module.activation_fn)

    def self_attention(self, x: str, module: Any) -> str:
        """Attention of all tokens to all tokens, before its last product: [B, T, D] -> [B, T, D]."""
        name, parts = f"{self.name_of(module)}.qkv", (module.q_proj, module.k_proj, module.v_proj)
        to, scale = f"{self.name_of(module.out_proj)}/input", float(module.scale)
        matrix = torch.cat([part.weight.T for part in parts], dim=1)
        shift = torch.cat([part.bias for part in parts])
        if self.form.standard or self.form.quantization.rounds(name):
            add = self.scope(module)
            three = self.product(x, name, matrix, shift, to=f"{name}/Add")
            query, key, value = add("Split", three, outputs=3, axis=2, num_outputs=3)
            return self.attention(query, key, value, module, to=to, scale=scale)
        weight, bias = self.weight(f"{name}.weight^T", matrix), self.weight(f"{name}.bias", shift)
        attributes = {"domain": MICROSOFT, "num_heads": module.num_heads, "scale": scale}
        return str(self.builder.node("Attention", [x, weight, bias], name=to, **attributes))

    def first_token_attention(self, x: str, module: Any) -> str:
        """Attention of the first token to all tokens, before its last product: [B, T, D] -> [B, 1, D]."""
        name, parts = f"{self.name_of(module)}.kv", (module.k_proj, module.v_proj)
        query = self.linear(self.first_token(x, self.scope(module)), module.q_proj)
        matrix = torch.cat([part.weight.T for part in parts], dim=1)
        bias = torch.cat([part.bias for part in parts])
        to = f"{self.name_of(module.out_proj)}/input"
        return self.cross_attention(query, x, name, matrix, bias, module, to=to, scale=float(module.scale))

    def cross_attention(
        self, query: str, x: str, name: str, matrix: Tensor, bias: Tensor, module: Any, *, to: str, scale: float
    ) -> str:
        """Attention of ready queries [B, Q, D] to keys and values that the product ``name`` makes of [B, T, D]."""
        both = self.product(x, name, matrix, bias, to=f"{name}/Add")
        key, value = self.scope(module)("Split", both, outputs=2, axis=2, num_outputs=2)
        return self.attention(query, key, value, module, to=to, scale=scale)

    def attention(self, query: str, key: str, value: str, module: Any, *, to: str, scale: float) -> str:
        """Softmax of scaled scores times values: [B, Q, D] and twice [B, T, D] -> [B, Q, D]."""
        add, heads = self.scope(module), module.num_heads
        if not self.form.standard:
            attributes = {"domain": MICROSOFT, "num_heads": heads, "scale": scale}
            return str(add("MultiHeadAttention", query, key, value, name=to, **attributes))
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

    def layer(self, x: str | Residual, module: Any, *, first_token_only: bool = False) -> Residual:
        """A pre-norm transformer layer: [B, T, D] -> [B, T, D], or [B, 1, D] for the first token alone."""
        normed, stream = self.layer_norm(x, module.layer_norm1)
        attention, norm = module.self_attn, module.layer_norm2
        if first_token_only:
            mixed = self.first_token_attention(normed, attention)
            stream = self.first_token(stream, self.scope(module))
        else:
            mixed = self.self_attention(normed, attention)
        attended = self._residual(stream, mixed, attention.out_proj, f"{self.name_of(norm)}/input")
        normed, stream = self.layer_norm(attended, norm)
        hidden = self.hidden(normed, module.mlp)
        return self._residual(stream, hidden, module.mlp.fc2, self.name_of(module))

    def _residual(self, stream: str, x: str, module: nn.Linear, name: str) -> Residual:
        product, matrix = self.name_of(module), module.weight.T
        if self.form.joined_norms:
            to = f"{product}/MatMul"
            bias = self.weight(f"{product}.bias", module.bias)
            return Residual(stream, self.product(x, product, matrix, to=to), bias, name)
        return Residual(stream, self.product(x, product, matrix, module.bias, to=product), "", name)

    def patches(self, pixel_values: str, module: nn.Conv2d) -> str:
        """``pixel_values`` [B, 3, height, width] -> [B, patches, D]."""
        name, add = self.name_of(module), self.scope(module)
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
        name, add = self.name_of(module), self.scope(module)
        assert self.preprocess is not None
        assert self.preprocess.output_size is not None
        matrix, shift = patches_of_levels(module, self.preprocess)
        side, (height, width) = int(module.kernel_size[0]), self.preprocess.output_size
        grid = [height // side, side, width // side, side * 3]
        levels = self._levels(pixel_values, self.preprocess, add)
        cut = add("Transpose", add("Reshape", levels, add.integers(0, *grid)), perm=[0, 1, 3, 2, 4])
        rows = add("Reshape", cut, add.integers(0, grid[0] * grid[2], side * side * 3))
        step, zero = self.builder.constant(np.float32(1)), self.builder.constant(np.uint8(0))
        weights = rounded_matrix(self.builder, self.form, name, matrix)
        return integer_product(self.builder, rows, (step, zero), weights, self.weight(f"{name}.shift", shift), name)

    def _levels(self, pixel_values: str, preprocess: Preprocess, add: Scope) -> str:
        """Grey levels uint8 [B, height, width, 3]: the preprocessing's own, or what ``pixel_values`` came from."""
        if RESIZED in self.builder.tensors:
            return str(add("Cast", RESIZED, to=TensorProto.UINT8))
        scale, offset = (add.single(value) for value in affine_of(preprocess))
        levels = add("Div", add("Sub", pixel_values, offset), scale)
        rounded = add("QuantizeLinear", levels, add.single(1.0), add.builder.constant(np.uint8(0)))
        return str(add("Transpose", rounded, perm=[0, 2, 3, 1]))

    def head(self, embedding: str) -> str:
        """The classification head: [B, P] -> ``logits`` [B, classes]."""
        x = embedding
        *stages, last = (module for module in self.classifier.head.children() if not isinstance(module, nn.Dropout))
        assert isinstance(last, nn.Linear)
        for module in stages:
            x = self.linear(x, module) if isinstance(module, nn.Linear) else self.activation(x, module)
        return self.linear(x, last, to=LOGITS)

    def probabilities(self, logits: str) -> str:
        """Softmax of the logits over the temperature."""
        value = self.classifier.temperature if self.form.temperature is None else self.form.temperature
        temperature = self.builder.constant(value, np.float32, name="temperature")
        scaled = self.builder.node("Div", [logits, temperature], name=f"{PROBABILITIES}/Div")
        return str(self.builder.node("Softmax", [scaled], name=PROBABILITIES, axis=-1))


def add_classifier(
    builder: GraphBuilder,
    classifier: Classifier,
    pixel_values: str,
    form: Form = FUSED,
    preprocess: Preprocess | None = None,
) -> None:
    """Add encoder, head and calibrated softmax, which end in ``logits`` and ``probabilities``.

    Args:
        builder: of the graph.
        classifier: in evaluation form, float32, on the CPU.
        pixel_values: the tensor that the encoder takes.
        form: in which operators, and which products in integers.
        preprocess: what gave ``pixel_values``; a patch embedding in integers needs it.
    """
    network = NetworkBuilder(builder, classifier, form, preprocess)
    encoder = classifier.encoder
    embedding = ENCODERS[encoder.family.name](network, encoder.model, pixel_values)
    network.probabilities(network.head(embedding))


def tensor_after(classifier: Classifier, group: Group) -> str:
    """The graph's tensor that holds what a group gives."""
    encoder = classifier.encoder
    if encoder.embedding == "pooled" and group.name == encoder.group_names[-1]:
        return POOLED
    return next(name for name, module in classifier.named_modules() if module is group.modules[-1])


def _clip(network: NetworkBuilder, model: Any, pixel_values: str) -> str:
    """Class token -> post norm -> projection; nothing reads the last layer's other tokens, so they are left out."""
    projection = getattr(model, "visual_projection", None)
    vision = model if projection is None else model.vision_model
    embeddings, add = vision.embeddings, network.scope(vision.embeddings)
    # the class token's row comes in with the position embeddings, over zeros
    tokens = add("Pad", network.patches(pixel_values, embeddings.patch_embedding), add.integers(0, 1, 0, 0, 0, 0))
    rows = embeddings.position_embedding.weight.detach().clone()
    rows[0] += embeddings.class_embedding.detach()
    name = network.name_of(embeddings)
    x = network.builder.node("Add", [tokens, network.weight(f"{name}.tokens", rows)], name=name)
    stream: str | Residual = network.layer_norm(x, vision.pre_layrnorm)[0]
    *before, last = vision.encoder.layers
    for layer in before:
        stream = network.layer(stream, layer)
    stream = network.layer(stream, last, first_token_only=True)
    normed, _ = network.layer_norm(stream, vision.post_layernorm)
    add = network.scope(vision)
    if projection is None:
        return str(add("Squeeze", normed, add.integers(1), name=POOLED))
    return network.linear(add("Squeeze", normed, add.integers(1)), projection)


def _siglip(network: NetworkBuilder, model: Any, pixel_values: str) -> str:
    """All tokens -> post norm -> attention pooling by a learned query, or their mean."""
    embeddings = model.embeddings
    name = network.name_of(embeddings)
    positions = network.weight(f"{name}.position_embedding.weight", embeddings.position_embedding.weight)
    patches = network.patches(pixel_values, embeddings.patch_embedding)
    stream: str | Residual = network.builder.node("Add", [patches, positions], name=name)
    for layer in model.encoder.layers:
        stream = network.layer(stream, layer)
    normed, _ = network.layer_norm(stream, model.post_layernorm)
    if not model.use_head:
        add = network.scope(model.post_layernorm)
        return str(add("ReduceMean", normed, add.integers(1), name=POOLED, keepdims=0))
    return _attention_pooling(network, normed, model.head)


def _attention_pooling(network: NetworkBuilder, x: str, head: Any) -> str:
    """[B, T, D] -> [B, D]; the query is a constant, so its projection is one too."""
    attention, name = head.attention, network.name_of(head.attention)
    width = attention.embed_dim
    query_weight, other_weights = attention.in_proj_weight.detach().split([width, 2 * width])
    query_bias, other_biases = attention.in_proj_bias.detach().split([width, 2 * width])
    add = network.scope(head)
    query = network.weight(f"{name}.query", nn.functional.linear(head.probe.detach(), query_weight, query_bias))
    batch = add("Concat", add("Shape", x, start=0, end=1), add.integers(1, 1), axis=0)
    mixed = network.cross_attention(
        add("Expand", query, batch),
        x,
        f"{name}.kv",
        other_weights.T,
        other_biases,
        attention,
        to=f"{network.name_of(attention.out_proj)}/input",
        scale=(width // attention.num_heads) ** -0.5,
    )
    pooled = network.linear(mixed, attention.out_proj, to=f"{network.name_of(head.layernorm)}/input")
    normed, _ = network.layer_norm(pooled, head.layernorm)
    changed = network.linear(network.hidden(normed, head.mlp), head.mlp.fc2)
    total = add("Add", pooled, changed)
    return str(add("Squeeze", total, add.integers(1), name=network.name_of(head)))


ENCODERS = {"clip": _clip, "siglip": _siglip}
"""How each family's modules are put together."""
