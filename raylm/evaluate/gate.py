"""The gate: measured values against limits, and the reasons why a model must not be served."""

from __future__ import annotations


def failures(measured: dict[str, float], gate: dict[str, float], better: dict[str, str]) -> list[str]:
    """One sentence per metric that is worse than its limit; [] lets the model pass.

    Args:
        better: metric -> `low` or `high`.
    """
    found = []
    for name, limit in gate.items():
        if name not in measured:
            found.append(f"{name} was not measured")
            continue
        value, low = measured[name], better.get(name, "high") == "low"
        if not (value <= limit if low else value >= limit):
            found.append(f"{name} is {value:.4g}, {'at most' if low else 'at least'} {limit:g} is asked")
    return found
