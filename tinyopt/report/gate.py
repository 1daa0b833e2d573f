"""What --max-drop allowed and what was lost: the field `gate` of the report."""

from __future__ import annotations

from typing import Any


def accuracy_gate(report: dict[str, Any], max_drop: float | None) -> dict[str, Any] | None:
    """The limit in points of top-1 and what was lost, None without a limit.

    With labelled samples the compiled model was measured; without, `text` is what the pass limit-drop said.
    """
    if max_drop is None:
        return None
    lost, text = None, "not measured: there are no labelled samples, and limit-drop is disabled"
    if evaluation := report.get("evaluation"):
        lost = 100 * (evaluation["float_top1"] - evaluation["compiled_top1"])
        change = f"{abs(lost):.2f} points {'lost' if lost >= 0 else 'won'}, allowed are {max_drop:.2f} points"
        text = f"{change}: top-1 of the compiled model on {evaluation['samples']} labelled samples"
    elif step := next((step for step in report["passes"] if step["name"] == "limit-drop"), None):
        text = step["remarks"][0]["message"]
    return {"limit_points": max_drop, "lost_points": lost, "text": text}
