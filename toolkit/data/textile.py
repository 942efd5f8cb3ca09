"""2,000 simulated images of textiles with and without defects, as image folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.data.package import package_folder
from toolkit.data.writer import EncodedImage, write_dataset

ABOUT = {
    "name": "textile",
    "source": "Megahed et al., simulated textile images of the package conformal-clip-data (arXiv 2501.12596, 2025)",
    "url": "https://github.com/fmegahed/conformal-clip-data",
    "licence": "MIT",
    "note": "simulated; nominal weave, a local defect, or a global one, which changes the whole weave",
}


def write_textile(dest: Path, *, seed: int = 0, force: bool = False) -> dict[str, Any]:
    """Write ``train/ val/ test/`` of ``global``, ``local`` and ``nominal``; return the content of ``dataset.json``.

    The images come from the installed package ``conformal-clip-data`` and are copied byte by byte.

    Raises:
        ToolkitError: the package isn't installed.
    """
    package = package_folder("conformal_clip_data", distribution="conformal-clip-data", verb="toolkit data textile")
    files = sorted((package / "data" / "textile_images" / "simulated").glob("*/*.jpg"))
    images = [EncodedImage(path.name, path.parent.name, path.read_bytes()) for path in files]
    return write_dataset(dest, images, ABOUT, seed=seed, force=force)
