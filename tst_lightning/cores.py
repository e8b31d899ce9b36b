"""How many CPU cores there are for us."""

import os


def available_cores() -> int:
    """CPUs that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
