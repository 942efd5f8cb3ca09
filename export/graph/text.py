"""A text tower as ONNX nodes, from token ids to the embedding."""

# B batch, T tokens, D width, P width of the embedding

from __future__ import annotations

from onnx import TensorProto

from export.graph.layers import LayerBuilder, Residual
from toolkit.models.families.tower import TextTower


class TextBuilder(LayerBuilder):
    """Turns the parts of a text tower into nodes."""

    def tower(self, tower: TextTower, input_ids: str) -> str:
        """``input_ids`` int64 [B, T] -> the embedding [B, P]."""
        stream: str | Residual = self.tokens(tower, input_ids)
        for block in tower.blocks:
            stream = self.layer(stream, block, causal=tower.causal)
        assert tower.post_norm is not None  # every family's text tower has one
        normed = self.final_norm(stream, tower.post_norm)
        pooled = self.pooled(normed, input_ids, tower)
        return pooled if tower.projection is None else self.linear(pooled, tower.projection)

    def tokens(self, tower: TextTower, input_ids: str) -> str:
        """``input_ids`` [B, T] -> what the first layer takes [B, T, D]."""
        add = self.scope(tower.tokens)
        table = self.weight(f"{self.names.of(tower.tokens)}.weight", tower.tokens.weight)
        tokens = add("Gather", table, input_ids, name=self.names.of(tower.tokens), axis=0)
        positions = self.weight(f"{self.names.of(tower.positions)}.weight", tower.positions.weight)
        length = add("Shape", input_ids, start=1, end=2)
        return str(add("Add", tokens, add("Slice", positions, add.integers(0), length, add.integers(0))))

    def pooled(self, x: str, input_ids: str, tower: TextTower) -> str:
        """Normed tokens [B, T, D] -> that of the pooled token [B, D]."""
        add, pooling = self.scope(tower.module), tower.pooling
        if pooling.token == "last":
            last = add("Slice", x, add.integers(-1), add.integers(2**31 - 1), add.integers(1))
            return str(add("Squeeze", last, add.integers(1)))
        ids = input_ids if pooling.end_id is None else add("Equal", input_ids, add.integers(pooling.end_id))
        place = add("ArgMax", add("Cast", ids, to=TensorProto.INT32), axis=1, keepdims=1)
        return str(add("GatherND", x, place, batch_dims=1))
