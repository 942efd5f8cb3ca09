"""From a trained classifier to a bundle: graph, parity, latency, bundle; one file a station."""

from __future__ import annotations

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in toolkit/__init__.py, which may be imported later
