"""Inputs and outputs that stay on the device: one shape, its memory taken once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort

from toolkit.runtime.preprocess import Float32, UInt8
from toolkit.runtime.session import Session


class Binding:
    """A session bound to fixed memory for batches of one shape; what CUDA graphs need, and others gain from."""

    def __init__(self, session: Session, shape: Sequence[int]) -> None:
        """Take the memory.

        Args:
            session: on any provider.
            shape: of a batch, as the graph takes it.
        """
        self._session = session
        self._device = "cpu" if session.provider == "cpu" else "cuda"
        dtype = np.uint8 if session.input == "image" else np.float32
        self._input = ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype), self._device, 0)
        self._bound = session.bind(self._input)

    def run(self, inputs: Float32 | UInt8) -> tuple[Float32, Float32]:
        """Logits and probabilities, each [batch, classes], like :meth:`toolkit.runtime.session.Session.run`."""
        return self.steps(inputs, lambda: None)

    def steps(self, inputs: Float32 | UInt8, mark: Callable[[], object]) -> tuple[Float32, Float32]:
        """Like :meth:`run`; ``mark`` is called when the input is on the device, and when the outputs are there."""
        self._input.update_inplace(np.ascontiguousarray(inputs))
        self._bound.synchronize_inputs()
        mark()
        self._session.run_bound(self._bound)
        mark()
        logits, probabilities = self._bound.copy_outputs_to_cpu()
        return logits, probabilities
