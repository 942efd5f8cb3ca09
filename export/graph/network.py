"""The classifier as ONNX nodes: patches, tower, head and calibrated probabilities."""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

import math

import numpy as np
import onnx
import torch
from onnx import TensorProto
from torch import nn

from export.graph.builder import GraphBuilder, Scope
from export.graph.config import FUSED, GraphConfig
from export.graph.grey_levels import affine_of, patches_of_levels
from export.graph.layers import LayerBuilder, Residual, Rotary
from export.graph.matmul import integer_matmul, quantized_matrix
from export.graph.ordered import add_ordered_logits, add_ordered_probabilities
from export.graph.preprocessing import RESIZED
from export.graph.tensor_names import EMBEDDING, FUSION, LOGITS, POOLED, PROBABILITIES, VALUE, names_of
from export.graph.text import TextBuilder
from export.graph.text_inputs import ATTENTION_MASK, IMAGE_MASK, INPUT_IDS, all_text_inputs
from export.graph.traced import add_traced
from toolkit.models.classifier import Classifier
from toolkit.models.encoder import Encoder
from toolkit.models.families.tower import AttentionPooling, Tower
from toolkit.models.fusion import CrossAttention, Fusion
from toolkit.models.head import CosineHead, NumberHead, OrdinalHead, TipAdapterHead
from toolkit.models.modalities import AnyEncoder, image_tower_of, text_tower_of
from toolkit.models.multimodal import MultimodalEncoder
from toolkit.runtime.preprocess import Preprocess

SHORTEST = 1e-12
"""Length below which an embedding is divided by this instead, as ``torch.nn.functional.normalize`` does."""


class NetworkBuilder(LayerBuilder):
    """Turns the parts of a classifier into nodes."""

    def __init__(
        self,
        builder: GraphBuilder,
        classifier: Classifier,
        config: GraphConfig,
        preprocess: Preprocess | None,
        size: tuple[int, int] | None,
    ) -> None:
        super().__init__(builder, names_of(classifier), config)
        self.classifier, self.preprocess = classifier, preprocess
        self.alone = isinstance(classifier.encoder, Encoder)
        """Whether the image's embedding is what the head takes."""
        self.size = preprocess.output_size if preprocess and size is None else size

    def patches(self, pixel_values: str, tower: Tower) -> str:
        """``pixel_values`` [B, 3, height, width] -> [B, patches, D]."""
        module, side = tower.patches, tower.patch_side
        name, add = self.names.of(module), self.scope(module)
        if isinstance(module, nn.Conv2d) and self.config.quantization.rounds(name):
            return self._patches_of_levels(pixel_values, module)
        if self.config.patches_as_matmul and all(length % side == 0 for length in self._size(tower)):
            return self._patches_by_matmul(pixel_values, tower)
        inputs = [pixel_values, self.weight(f"{name}.weight", tower.patch_weight)]
        if module.bias is not None:
            inputs.append(self.weight(f"{name}.bias", module.bias))
        planes = self.builder.node("Conv", inputs, name=name, kernel_shape=[side, side], strides=[side, side])
        rows = add("Reshape", planes, add.integers(0, len(tower.patch_weight), -1))
        return str(add("Transpose", rows, perm=[0, 2, 1]))

    def _patches_by_matmul(self, pixel_values: str, tower: Tower) -> str:
        """The same by moving each patch's pixels into a row, which one matmul takes."""
        side, (rows, columns), add = tower.patch_side, self._grid(tower), self.scope(tower.patches)
        cut = add("Reshape", pixel_values, add.integers(0, 3, rows, side, columns, side))
        cut = add("Transpose", cut, perm=[0, 2, 4, 1, 3, 5])  # [B, rows, columns, 3, side, side]
        pixels = add("Reshape", cut, add.integers(0, rows * columns, 3 * side * side))
        name, matrix = self.names.of(tower.patches), tower.patch_weight.flatten(1).T
        return self.matmul(pixels, name, matrix, tower.patches.bias, to=name)

    def _patches_of_levels(self, pixel_values: str, module: nn.Conv2d) -> str:
        """The same from grey levels, whole numbers from 0 to 255, so that nothing but the weights is rounded."""
        name, add = self.names.of(module), self.scope(module)
        assert self.preprocess is not None
        assert self.preprocess.output_size is not None
        matrix, bias = patches_of_levels(module, self.preprocess)
        side, (height, width) = int(module.kernel_size[0]), self.preprocess.output_size
        grid = [height // side, side, width // side, side * 3]
        levels = self._levels(pixel_values, self.preprocess, add)
        cut = add("Transpose", add("Reshape", levels, add.integers(0, *grid)), perm=[0, 1, 3, 2, 4])
        rows = add("Reshape", cut, add.integers(0, grid[0] * grid[2], side * side * 3))
        unit = self.builder.constant(np.float32(1)), self.builder.constant(np.uint8(0))
        weights = quantized_matrix(self.builder, self.config, name, matrix)
        shift, standard = self.weight(f"{name}.shift", bias), self.config.standard_ops_only
        return integer_matmul(self.builder, rows, unit, weights, shift, name, standard_ops_only=standard)

    def _levels(self, pixel_values: str, preprocess: Preprocess, add: Scope) -> str:
        """Grey levels uint8 [B, height, width, 3]: the preprocessing's own, or what ``pixel_values`` came from."""
        if RESIZED in self.builder.tensors:
            return str(add("Cast", RESIZED, to=TensorProto.UINT8))
        scale, offset = (add.single(value) for value in affine_of(preprocess))
        levels = add("Div", add("Sub", pixel_values, offset), scale)
        rounded = add("QuantizeLinear", levels, add.single(1.0), add.builder.constant(np.uint8(0)))
        return str(add("Transpose", rounded, perm=[0, 2, 3, 1]))

    def tower(self, tower: Tower, pixel_values: str, *, all_tokens: bool = False) -> str:
        """``pixel_values`` [B, 3, height, width] -> the embedding [B, P], or all tokens [B, T, D] behind the norm."""
        first_only = not isinstance(tower.pooling, AttentionPooling) and tower.pooling.first_token_only
        first_only = first_only and not all_tokens
        stream: str | Residual = self.tokens(tower, pixel_values)
        *before, last = tower.blocks
        rotary = self._rotary(tower)
        for block in before:
            stream = self.layer(stream, block, rotary=rotary)
        stream = self.layer(stream, last, first_token_only=first_only, rotary=rotary)
        if all_tokens:
            return self.total(stream) if tower.post_norm is None else self.final_norm(stream, tower.post_norm)
        if tower.post_norm is None:
            pooled = self.pooled(self.total(stream), tower)
        else:
            pooled = self.pooled(self.final_norm(stream, tower.post_norm), tower)
        return pooled if tower.projection is None else self.linear(pooled, tower.projection)

    def tokens(self, tower: Tower, pixel_values: str) -> str:
        """``pixel_values`` [B, 3, height, width] -> what the first layer takes [B, T, D]."""
        name, add = self.names.of(tower.embeddings), self.scope(tower.embeddings)
        patches = self.patches(pixel_values, tower)
        if tower.prefix:  # class and register tokens come in with the positions, over zeros
            patches = add("Pad", patches, add.integers(0, tower.prefix, 0, 0, 0, 0))
        constants = f"{name}.tokens" if tower.prefix else f"{name}.position_embedding.weight"
        added = self.weight(constants, tower.constants(self._grid(tower)))
        x = str(self.builder.node("Add", [patches, added], name=name))
        return x if tower.pre_norm is None else self.layer_norm(x, tower.pre_norm)[0]

    def _rotary(self, tower: Tower) -> Rotary | None:
        """What turns queries and keys of all tokens; those before the patches stay as they are."""
        if tower.rotary is None:
            return None
        cosine, sine = tower.rotary(self._grid(tower))
        plain = cosine.new_zeros(tower.prefix, cosine.shape[1])
        name = f"{self.names.of(tower.module)}.rotary"
        return Rotary(name, torch.cat([plain + 1, cosine]), torch.cat([plain, sine]))

    def _grid(self, tower: Tower) -> tuple[int, int]:
        """Rows and columns of patches; any will do where only names are looked up."""
        height, width = self._size(tower)
        return height // tower.patch_side, width // tower.patch_side

    def _size(self, tower: Tower) -> tuple[int, int]:
        """Height and width of the pixels; those of one patch where nobody said."""
        return self.size or (tower.patch_side, tower.patch_side)

    def pooled(self, x: str, tower: Tower) -> str:
        """Last tokens [B, T, D], or [B, 1, D] -> [B, D], or [B, 2 D] of the class token and the patches' mean."""
        pooling = tower.pooling
        if isinstance(pooling, AttentionPooling):
            return self._attention_pooling(x, pooling)
        add = self.scope(tower.module)
        to = POOLED if tower.projection is None and self.alone else ""
        if pooling.first_token_only:
            return str(add("Squeeze", x, add.integers(1), name=to))
        patches = x
        if tower.prefix:
            patches = add("Slice", x, add.integers(tower.prefix), add.integers(2**31 - 1), add.integers(1))
        if not pooling.class_token:
            return str(add("ReduceMean", patches, add.integers(1), name=to, keepdims=0))
        first = add("Squeeze", self.first_token(x, add), add.integers(1))
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

    def fused(self, image: str, text: str, fusion: Fusion) -> str:
        """Embeddings of images [B, P] and of texts [B, Q] -> what the head takes [B, size]."""
        add = self.scope(fusion)
        image = image if fusion.block else self._at_length(image, math.sqrt(fusion.sizes[0]), add)
        text = self._at_length(text, math.sqrt(fusion.sizes[1]), add)
        if fusion.missing_image is not None and fusion.missing_text is not None:
            name = self.names.of(fusion)
            axes = (1, 2) if fusion.block else (1,)
            mask = add("Unsqueeze", add("Cast", IMAGE_MASK, to=TensorProto.BOOL), add.integers(*axes))
            image = add("Where", mask, image, self.weight(f"{name}.missing_image", fusion.missing_image))
            seen = add("ReduceMax", ATTENTION_MASK, add.integers(1), keepdims=1)
            mask = add("Cast", seen, to=TensorProto.BOOL)
            text = add("Where", mask, text, self.weight(f"{name}.missing_text", fusion.missing_text))
        if fusion.block is not None:
            return self._asked(text, image, fusion.block)
        if fusion.config.type == "product":
            return str(add("Mul", image, text, name=FUSION))
        if fusion.gate is None:
            return str(add("Concat", image, text, axis=1, name=FUSION))
        gate = add("Sigmoid", self.linear(add("Concat", image, text, axis=1), fusion.gate))
        rest = add("Mul", add("Sub", add.single(1.0), gate), text)
        return str(add("Add", add("Mul", gate, image), rest, name=FUSION))

    def _asked(self, text: str, tokens: str, block: CrossAttention) -> str:
        """A text's embedding [B, Q] and an image's tokens [B, T, D] -> [B, Q]."""
        add, attention = self.scope(block), block.attention
        stream = add("Unsqueeze", text, add.integers(1))
        normed, _ = self.layer_norm(stream, block.norm1)
        mixed = self.cross_attention(self.linear(normed, block.query), tokens, attention)
        stream = add("Add", stream, self.linear(mixed, block.output))
        normed, _ = self.layer_norm(stream, block.norm2)
        hidden = self.activation(self.linear(normed, block.up), block.activation)
        return str(add("Squeeze", add("Add", stream, self.linear(hidden, block.down)), add.integers(1), name=FUSION))

    def _at_length(self, embedding: str, length: float, add: Scope) -> str:
        """Embeddings [B, P] at a length; see :class:`toolkit.models.fusion.Fusion`."""
        own = add("Max", add("ReduceL2", embedding, add.integers(-1)), add.single(SHORTEST))
        return str(add("Mul", add("Div", embedding, own), add.single(length)))

    def unit(self, embedding: str) -> str:
        """The embedding [B, P] at length one, as the tensor ``embedding``."""
        add = self.scope(self.classifier.head)
        length = add("Max", add("ReduceL2", embedding, add.integers(-1)), add.single(SHORTEST))
        return str(add("Div", embedding, length, name=EMBEDDING))

    def cosines(self, unit: str, head: CosineHead, *, to: str) -> str:
        """Embeddings of length one [B, P] -> logits [B, classes]."""
        matrix, bias = head.matrix().T, head.bias.expand(len(head.weight))
        return self.matmul(unit, self.names.of(head), matrix, bias, to=to)

    def tip_adapter(self, unit: str, head: TipAdapterHead) -> str:
        """The same, with what the cached images say."""
        name, add = self.names.of(head), self.scope(head)
        cosines = self.cosines(unit, head.cosine, to=self.names.of(head.cosine))
        near = self.matmul(unit, f"{name}.keys", head.keys.T, to=f"{name}.keys/MatMul")
        near = add("Exp", add("Mul", add("Sub", near, add.single(1)), add.single(float(head.beta))))
        cached = self.matmul(near, f"{name}.values", head.alpha * head.values, to=f"{name}.values/MatMul")
        return str(add("Add", cosines, cached, name=LOGITS))

    def head(self, embedding: str) -> str:
        """The classification head: [B, P] -> ``logits`` [B, classes]."""
        head, x = self.classifier.head, embedding
        if isinstance(head, CosineHead):
            return self.cosines(self.unit(x), head, to=LOGITS)
        if isinstance(head, TipAdapterHead):
            return self.tip_adapter(self.unit(x), head)
        if isinstance(head, OrdinalHead):
            odds = self._layers(x, head.conditional)
            return add_ordered_logits(self.builder, odds, len(self.classifier.labels), self.names.of(head))
        if isinstance(head, NumberHead):
            add = self.scope(head)
            scaled = add("Mul", self._layers(x, head.layers), add.single(float(head.deviation)))
            return str(add("Add", scaled, add.single(float(head.mean)), name=LOGITS))
        return self._layers(x, head, to=LOGITS)

    def _layers(self, x: str, head: nn.Module, *, to: str = "") -> str:
        """A head of linear layers, and of activations between them: [B, P] -> [B, what the last one gives]."""
        *stages, last = (module for module in head.children() if not isinstance(module, nn.Dropout))
        assert isinstance(last, nn.Linear)
        for module in stages:
            x = self.linear(x, module) if isinstance(module, nn.Linear) else self.activation(x, module)
        return self.linear(x, last, to=to)

    def probabilities(self, logits: str) -> str:
        """The task's activation of the logits over the temperature."""
        value = self.classifier.temperature if self.config.temperature is None else self.config.temperature
        temperature = self.builder.constant(value, np.float32, name="temperature")
        if self.classifier.task.activation == "cumulative":
            return add_ordered_probabilities(self.builder, logits, temperature, len(self.classifier.labels))
        scaled = self.builder.node("Div", [logits, temperature], name=f"{PROBABILITIES}/Div")
        if self.classifier.task.activation == "sigmoid":
            return str(self.builder.node("Sigmoid", [scaled], name=PROBABILITIES))
        return str(self.builder.node("Softmax", [scaled], name=PROBABILITIES, axis=-1))


def add_classifier(
    builder: GraphBuilder,
    classifier: Classifier,
    pixel_values: str,
    config: GraphConfig = FUSED,
    preprocess: Preprocess | None = None,
    size: tuple[int, int] | None = None,
    *,
    with_embedding: bool = False,
) -> None:
    """Add encoder, head and calibrated softmax, which end in ``logits`` and ``probabilities``.

    Args:
        builder: of the graph.
        classifier: in eval mode, float32, on the CPU.
        pixel_values: the tensor that the image tower takes, where there is one.
        config: in which operators, and which matmuls in integers.
        preprocess: what gave ``pixel_values``; a patch embedding in integers needs it.
        size: height and width of ``pixel_values``, where that is not said by ``preprocess``.
        with_embedding: whether ``embedding``, of length one, is to be there too.
    """
    network = NetworkBuilder(builder, classifier, config, preprocess, size)
    encoder = classifier.encoder
    image, text = image_tower_of(encoder), text_tower_of(encoder)
    of_image = of_text = ""
    if image is not None and image.tower is None:
        of_image = add_traced(builder, image, pixel_values, network.size or (1, 1))
    elif image is not None and image.tower is not None:
        tokens = isinstance(encoder, MultimodalEncoder) and encoder.fusion.takes_tokens
        of_image = network.tower(image.tower, pixel_values, all_tokens=tokens)
    if text is not None:
        of_text = TextBuilder(builder, network.names, config).tower(text.tower, INPUT_IDS)
    embedding = of_image or of_text
    if isinstance(encoder, MultimodalEncoder):
        embedding = network.fused(of_image, of_text, encoder.fusion)
    logits = network.head(embedding)
    if classifier.task.activation == "none":
        builder.node("Identity", [logits], name=VALUE)
    else:
        network.probabilities(logits)
    if with_embedding and EMBEDDING not in builder.tensors:
        network.unit(embedding)


def text_inputs(encoder: AnyEncoder) -> list[onnx.ValueInfoProto]:
    """Those of :func:`~export.graph.text_inputs.all_text_inputs` that an encoder's graph takes."""
    if text_tower_of(encoder) is None:
        return []
    marked = isinstance(encoder, MultimodalEncoder) and encoder.fusion.missing_image is not None
    return all_text_inputs() if marked else all_text_inputs()[:2]
