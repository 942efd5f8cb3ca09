"""Inputs and outputs that stay on the device: one set of shapes, its memory taken once.

Inputs are copied from host memory as it is, which the system may page. ONNX Runtime's Python API allocates pinned
memory by the ``memory_info`` of a provider's device (``OrtValue.ortvalue_from_shape_and_type``, onnxruntime#28038), and
only providers that were built as plugins have such a device; the CUDA provider of PyPI's wheels is none (1.31:
``get_build_info`` names no ``cuda-plugin-ep``, ``get_ep_devices`` the CPU alone). It would be a faster copy, not one
beside other work: ``update_inplace`` returns when an array has arrived.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnxruntime as ort

from toolkit.runtime.inputs import Feed
from toolkit.runtime.session import Outputs, Session


class Binding:
    """A session bound to fixed memory for batches of the same shapes; CUDA graphs need it, others gain from it."""

    def __init__(self, session: Session, shapes: Mapping[str, Sequence[int]]) -> None:
        """Take the memory.

        Args:
            session: on any provider.
            shapes: of a batch, by the names of what the graph takes.
        """
        self._session = session
        device = "cpu" if session.provider == "cpu" else "cuda"
        self._feed = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, session.inputs[name].dtype), device, 0)
            for name, shape in shapes.items()
        }
        self._bound = session.bind(self._feed)

    def run(self, feed: Feed) -> Outputs:
        """Like :meth:`toolkit.runtime.session.Session.run`."""
        return self.steps(feed, lambda: None)

    def steps(self, feed: Feed, mark: Callable[[], object]) -> Outputs:
        """Like :meth:`run`; ``mark`` is called when the inputs are on the device, and when the outputs are there."""
        for name, values in feed.items():
            self._feed[name].update_inplace(np.ascontiguousarray(values))
        self._bound.synchronize_inputs()
        mark()
        self._session.run_bound(self._bound)
        mark()
        return dict(zip(self._session.outputs, self._bound.copy_outputs_to_cpu(), strict=True))
