"""What is here: versions, processors, memory, and what is missing for which command.

Torch is imported inside, so that a broken installation can still be examined.
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
EXTRAS = {  # extra of pyproject.toml -> commands that need it
    "serve": "serve, quickstart",
    "web": "web",
    "quantize": "export --quantize",
}
BESIDE = {"pycocoevalcap": "score caption (METEOR)"}  # packages of no extra: what they are for
CGROUP = Path("/sys/fs/cgroup")
CGROUPS = (  # limit, in use, statistics: version 2, version 1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def examine_machine() -> dict[str, Any]:
    """Versions, devices, memory and the disk of this folder, JSON-ready; sizes in bytes."""
    core = [Requirement(line) for line in requires("ziya-visual") or ()]
    names = ["ziya-visual", *(needed.name for needed in core if _wanted(needed, ""))]
    found = {"python": platform.python_version(), **{name: _version(name) for name in names}}
    return {
        "versions": found,
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
    """A line for each package that we cannot do without and that is absent or too old."""
    lines = []
    for needed in map(Requirement, requires("ziya-visual") or ()):
        found = _version(needed.name)
        if _wanted(needed, "") and (found is None or not needed.specifier.contains(found, prereleases=True)):
            lines.append(
                f"{needed.name} {found or 'is not installed'}, expected {needed.name}{needed.specifier}; "
                f"pip install '{needed.name}{needed.specifier}'"
            )
    return (
        lines if machine["torch"] else [*lines, "torch cannot be imported; python -c 'import torch' says why"]
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _wanted(needed: Requirement, extra: str) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": extra})


def _missing(core: list[Requirement]) -> list[dict[str, str]]:
    """Rows of package, commands that need it, and the line to type."""
    rows = []
    for extra, commands in EXTRAS.items():
        for needed in core:
            only_there = _wanted(needed, extra) and not _wanted(needed, "")
            if only_there and _version(needed.name) is None:
                install = f"pip install 'ziya-visual[{extra}]'"
                rows.append({"package": needed.name, "for": commands, "install": install})
    for name, commands in BESIDE.items():
        if _version(name) is None:
            rows.append({"package": name, "for": commands, "install": f"pip install {name}"})
    if shutil.which("java") is None:
        install = "apt install default-jre-headless"
        rows.append({"package": "java", "for": BESIDE["pycocoevalcap"], "install": install})
    return rows


def _devices() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError):
        return {"torch": False, "torch_threads": 0, "vector_units": [], "cuda": [], "mps": False}
    can: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    fast = [name for name in ("amx_bf16", "avx512_bf16", "avx512_f") if can.get(name)]
    gpus = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        name = torch.cuda.get_device_name(number)
        gpus.append({"name": name, "total_bytes": total, "free_bytes": free})
    return {
        "torch": True,
        "torch_threads": torch.get_num_threads(),
        "vector_units": fast,
        "cuda": gpus,
        "mps": torch.backends.mps.is_available(),
    }


def _ram() -> dict[str, int]:
    """The machine's, or less where a container is given less."""
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
    """Bytes free on the disk where ``path`` is or would be made."""
    path = path.absolute()
    return shutil.disk_usage(path).free if path.exists() else disk_free(path.parent)
