"""The stages, in order: correctness before speed."""

from __future__ import annotations

STAGES = {
    "environment": "environment:environment",
    "tests": "environment:gpu_tests",
    "placement": "graphs:placement",
    "numbers": "graphs:numbers",
    "batches": "graphs:batches",
    "training": "training:precisions",
    "resume": "training:kill_and_resume",
    "processes": "training:processes",
    "ceilings": "ceilings:ceilings",
    "rivals": "speed:rivals",
    "binding": "speed:binding",
    "images_a_second": "training:images_a_second",
    "memory": "speed:end_of_memory",
}
"""By name, the module and function that runs it."""
SECONDS = {
    **dict.fromkeys(STAGES, 180),
    **{"tests": 420, "numbers": 300, "rivals": 580, "training": 240, "images_a_second": 240},
}
"""What each may take before its process is ended."""
