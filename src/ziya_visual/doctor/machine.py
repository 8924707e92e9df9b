"""This machine: versions, processors, memory, and the packages that single commands still need.

Torch is imported inside a function, so that a broken installation can be examined too.
"""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement

OPTIONAL = ("torchao", "flash-attn", "liger-kernel", "bitsandbytes")
# Extra of pyproject.toml -> commands that need it.
EXTRAS = {"serve": "serve, quickstart", "web": "web", "quantize": "export --quantize"}
BESIDE = {"pycocoevalcap": "score caption (METEOR)"}  # packages outside the extras -> their use
CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (  # limit, in use, statistics: version 2, version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def format_bytes(count: float) -> str:
    """Return a size with its unit.

    >>> format_bytes(3 * 2**30), format_bytes(1536)
    ('3.0 GiB', '1.5 KiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def examine_machine() -> dict[str, Any]:
    """Return versions, devices, memory and the free disk of this folder, JSON-ready; sizes in bytes."""
    core = [Requirement(line) for line in requires("ziya-visual") or ()]
    names = ["ziya-visual", *(needed.name for needed in core if _wanted(needed, ""))]
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in names}},
        "optional": {name: _version(name) for name in OPTIONAL} | {"java": shutil.which("java")},
        "cpu": {
            "name": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        **_devices(),
        "ram": _ram(),
        "disk": {"free_bytes": disk_free(Path())},
        "missing": _missing(core),
    }


def version_problems(machine: dict[str, Any]) -> list[str]:
    """Return a line for each required package that is missing or too old."""
    lines = []
    for needed in map(Requirement, requires("ziya-visual") or ()):
        installed = _version(needed.name)
        if _wanted(needed, "") and not (installed and needed.specifier.contains(installed, prereleases=True)):
            lines.append(
                f"{needed.name} {installed or 'is not installed'}, expected {needed.name}{needed.specifier}; "
                f"pip install '{needed.name}{needed.specifier}'"
            )
    if not machine["torch"]:
        lines.append("torch cannot be imported; run python -c 'import torch' to see why")
    return lines


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wanted(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _missing(core: list[Requirement]) -> list[dict[str, str]]:
    """Return rows of package, commands that need it, and the command that installs it."""
    needs = [
        (needed.name, commands, f"pip install 'ziya-visual[{extra}]'")
        for extra, commands in EXTRAS.items()
        for needed in core
        if _wanted(needed, extra) and not _wanted(needed, "")
    ]
    needs += [(name, commands, f"pip install {name}") for name, commands in BESIDE.items()]
    missing = [need for need in needs if _version(need[0]) is None]
    if shutil.which("java") is None:
        missing.append(("java", BESIDE["pycocoevalcap"], "apt install default-jre-headless"))
    return [dict(zip(("package", "for", "install"), need, strict=True)) for need in missing]


def _devices() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError):
        return {"torch": False, "torch_threads": 0, "vector_units": [], "cuda": [], "mps": False}
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    gpus = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        gpus.append({"name": name, "total_bytes": total, "free_bytes": free})
    return {
        "torch": True,
        "torch_threads": torch.get_num_threads(),
        "vector_units": [n for n in ("amx_bf16", "avx512_bf16", "avx512_f") if capabilities.get(n)],
        "cuda": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def _ram() -> dict[str, int]:
    """Return the machine's memory, or a container's if its limit is lower."""
    memory = psutil.virtual_memory()
    total, available = int(memory.total), int(memory.available)
    for names in CGROUPS:
        limit, used, statistics = (CGROUP / name for name in names)
        text = limit.read_text().strip() if limit.is_file() else "max"
        if text.isdigit() and int(text) < total:
            cache = sum(
                int(line.split()[1])
                for line in statistics.read_text().splitlines()
                if line.startswith("inactive_file ")
            )
            total = int(text)
            available = min(available, total - int(used.read_text()) + cache)
    return {"total_bytes": total, "available_bytes": available}


def disk_free(path: Path) -> int:
    """Return the free bytes of the disk on which ``path`` is or would be created."""
    path = path.absolute()
    return shutil.disk_usage(path).free if path.exists() else disk_free(path.parent)
