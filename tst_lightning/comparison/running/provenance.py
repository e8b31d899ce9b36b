"""Where a result comes from: versions, commit, machine."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from tst_lightning.cores import available_cores

PACKAGES = ("tst-lightning", "torch", "lightning", "transformers", "litdata", "lm-eval")
SOURCE_PATHS = ("tst_lightning", "callbacks", "configs", "pyproject.toml")
"""What a result depends on, from the top of the checkout."""


def provenance() -> dict[str, Any]:
    """Versions, commit and machine as they are now.

    Nothing heavy is imported and no device is touched, so this can be asked for beside a running training.
    """
    return {"versions": _versions(), "commit": _commit(), "machine": _machine()}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _commit() -> dict[str, Any] | None:
    """Commit of the checkout that this package runs from; None for an installed copy.

    Files that git does not know are not looked at: results are written into the checkout all the time.
    """
    package = Path(__file__).resolve().parent
    if _output_of("git", "-C", str(package), "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    top = _output_of("git", "-C", str(package), "rev-parse", "--show-toplevel")
    commit = _output_of("git", "-C", str(package), "rev-parse", "HEAD")
    if top is None or commit is None:
        return None
    sources = [path for path in SOURCE_PATHS if (Path(top) / path).exists()]
    changed = _output_of("git", "-C", top, "status", "--porcelain", "--untracked-files=no", "--", *sources)
    return {"hash": commit, "dirty": bool(changed)}


def _machine() -> dict[str, Any]:
    gpus = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return {
        "cpu": _cpu_name(),
        "cpus": available_cores(),
        "gpus": gpus.splitlines() if gpus else [],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _output_of(*command: str) -> str | None:
    """What a command prints, stripped; None if it is not there, fails, or does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
