"""Lightning callbacks, one concept a file; in YAML: ``class_path: callbacks.SuperpositionCallback``."""

from callbacks.branch_points import BranchPoints
from callbacks.checkpoint import StepCheckpoint
from callbacks.downstream import DownstreamEvaluation
from callbacks.length_curriculum import LengthCurriculum
from callbacks.loss_guard import LossGuard
from callbacks.ngram_targets import NgramTargets
from callbacks.superposition import SuperpositionCallback
from callbacks.throughput import Throughput

__all__ = [
    "BranchPoints",
    "DownstreamEvaluation",
    "LengthCurriculum",
    "LossGuard",
    "NgramTargets",
    "StepCheckpoint",
    "SuperpositionCallback",
    "Throughput",
]
