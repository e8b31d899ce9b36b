"""The simplest experiment's arms."""

from collections.abc import Mapping

from tst_lightning.comparison.design.arms import Arm, Overlay


def plain_arms(overlays: Mapping[str, Overlay], baseline: str) -> dict[str, Arm]:
    """Arms without grid, variants or lengths, all compared with ``baseline``."""
    return {
        name: Arm(name, name, overlay, references=() if name == baseline else (baseline,))
        for name, overlay in overlays.items()
    }
