"""On what a benchmark ran."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

RANKING = ("torch", "lightgbm", "scikit-learn", "numpy")
"""Packages of the benchmarks of rankings."""


def machine(packages: Iterable[str] = ()) -> str:
    """Processor, cores, load, and the versions of the ``packages`` that do the work."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    found = [f"{package} {version(package)}" for package in packages]
    load = f"load {os.getloadavg()[0]:.1f}"
    return ", ".join([name, f"{os.cpu_count()} cores", load, f"Python {platform.python_version()}", *found])
