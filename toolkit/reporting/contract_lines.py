"""What ``parity.json`` says of a contract, in sentences."""

from __future__ import annotations

from typing import Any


def contract_lines(parity: dict[str, Any]) -> list[str]:
    """What was asked for and what was measured of it; nothing where no contract was made."""
    found = parity.get("contract")
    if not found:
        return []
    asked = [f"at most {found['max_accuracy_drop']:g} points lost"]
    if found["max_flips"] is not None:
        asked.append(f"at most {found['max_flips']:g} % of decisions flipped")
    if found["min_speedup"] is not None:
        asked.append(f"at least {found['min_speedup']:g} times as fast as fp32")
    speed = found["latency"]
    provider, beside = found.get("provider", "cpu"), speed.get("fp32_provider", "cpu")
    on, fp32 = ("", "fp32") if provider == beside == "cpu" else (f" on {provider}", f"fp32 on {beside}")
    return [
        f"contract, kept by {found['form']}{on}: {', '.join(asked)}",
        f"on validation images, which chose it: {_loss(found['validation'])}",
        f"on test images, which the search did not see: {_loss(found['held_out'])}",
        f"{speed['speedup']:.2f} times as fast as {fp32} at batch 1 (at least {speed['speedup_at_least']:.2f})",
    ]


def _loss(found: dict[str, Any]) -> str:
    return (
        f"{found['flips']:.2f} % of {found['images']:,} decisions flipped (at most {found['flips_at_most']:.2f} %), "
        f"{found['accuracy_drop']:+.2f} points lost (at most {found['accuracy_drop_at_most']:.2f})"
    )
