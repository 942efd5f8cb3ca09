"""The release of Triton that repositories are written for, and what its ONNX Runtime reads."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.errors import ToolkitError
from toolkit.runtime.onnx_file import entries, versions

IR_VERSION = 1
"""Field of a model (onnx.proto)."""


@dataclass(frozen=True)
class TritonRelease:
    """A release of the server's container."""

    name: str
    onnxruntime: str
    opset: int
    """Newest standard operators that this ONNX Runtime runs."""
    ir_version: int
    """Newest version of the file format that it reads."""

    @property
    def image(self) -> str:
        """Tag of the container's image."""
        return f"{self.name}-py3"


RELEASE = TritonRelease("26.05", "1.24.4", opset=25, ir_version=13)
"""ONNX Runtime by ``build.py`` of the server's branch r26.05; opset and IR by loading graphs of each with it."""


def fitted(graph: bytes, where: object, release: TritonRelease = RELEASE) -> bytes:
    """A graph that a release reads: as it is, or with a lower version of the format written into it.

    The caller proves that what was lowered still gives the same bits.

    Args:
        graph: content of an ONNX file.
        where: what errors call it.
        release: to read it.

    Raises:
        ToolkitError: the graph's operators are newer than the release.
        ValueError: the bytes are no ONNX file, or a damaged one.
    """
    ir_version, opsets = versions(graph)
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    if opset > release.opset:
        what = f"the graph has opset {opset}, and ONNX Runtime {release.onnxruntime} of Triton {release.name} runs up"
        what += f" to {release.opset}"
        raise ToolkitError(what, where=where, fix="export the run again with this version of the toolkit")
    if ir_version <= release.ir_version:
        return graph
    from export.graph.external_data import encoded

    return b"".join(
        encoded(number, release.ir_version if number == IR_VERSION else field)
        for number, field in entries(memoryview(graph))
    )
