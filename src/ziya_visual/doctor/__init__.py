"""``ziya-visual doctor``: predict what fits on this machine and advise what to change; nothing is written.

Start reading at :func:`examine`, which every report comes from; ``memory.py`` counts the memory of a step. It
may import everything below ``quickstart`` but ``serve``, and steps with the functions of ``train``.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ziya_visual.core.errors import ConfigError, ZiyaError
from ziya_visual.core.recipe import load_recipe
from ziya_visual.doctor.machine import examine_machine, format_bytes, version_problems

FORMS = {"cpu": "CPU", "gpu": "one GPU", "ddp": "DDP", "fsdp": "FSDP"}
MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "casts": "bfloat16 copies of weights",
    "pictures": "pictures (CPU)",
}


def doctor(
    target: Path | None, changes: Sequence[str] = (), *, gpus: int | None = None, json_output: bool = False
) -> int:
    """Examine the machine and a recipe file or checkpoint folder, if given, and print the report.

    Return the exit code: 0, or 2 after a line on standard error for each problem.
    """
    report = examine(target, changes, gpus=gpus)
    if json_output:
        print(json.dumps(report, ensure_ascii=False, indent=1, allow_nan=False))
    else:
        print_report(report)
    for line in report["problems"]:
        print(f"error: {line}", file=sys.stderr)
    return 2 if report["problems"] else 0


def examine(target: Path | None, changes: Sequence[str] = (), *, gpus: int | None = None) -> dict[str, Any]:
    """Return the report: ``machine``, ``checkpoint`` or ``recipe``, ``advice``, ``notes``, ``problems``."""
    machine = examine_machine()
    problems = version_problems(machine)
    report: dict[str, Any] = {"machine": machine, "advice": [], "notes": [], "problems": problems}
    if target is None or problems:
        return report
    try:
        with warnings.catch_warnings():  # peft warns about transformers' names
            warnings.simplefilter("ignore", FutureWarning)
            _examine_target(target, changes, gpus, report)
    except ZiyaError as error:
        problems.append(str(error))
    return report


def _examine_target(target: Path, changes: Sequence[str], gpus: int | None, report: dict[str, Any]) -> None:
    if not target.exists():
        raise ConfigError(f"{target}: not found; give a recipe file or a checkpoint folder")
    if target.is_dir() and (changes or gpus):
        raise ConfigError(f"{target}: key=value and --gpus need a recipe file, but this is a folder")
    settings = None if target.is_dir() else load_recipe(target, changes)
    from transformers.utils import logging

    logging.set_verbosity_error()  # we report keys ourselves
    logging.disable_progress_bar()
    from ziya_visual.doctor import checkpoint, recipe

    if settings is None:
        examined = checkpoint.examine_checkpoint(target, report["machine"])
        report["checkpoint"] = examined.facts
    else:
        examined = recipe.examine_recipe(settings, report["machine"], gpus=gpus)
        report["recipe"] = examined.facts
    for key in ("advice", "notes", "problems"):
        report[key] += getattr(examined, key)


def print_report(report: Mapping[str, Any]) -> None:
    """Print the report's tables to standard output."""
    console = Console(highlight=False)
    _machine(console, report["machine"])
    if "checkpoint" in report:
        _checkpoint(console, report["checkpoint"])
    elif "recipe" in report:
        _recipe(console, report["recipe"])
    else:
        _versions(console, report["machine"])
    for row in report["advice"]:
        effect = "then the stage fits" if row["fits"] else "not enough alone"
        where = f"stage {row['stage']}, {_form(row['form'])}"
        line = f"advice: {row['change']} saves {format_bytes(row['saves_bytes'])} ({where}; {effect})"
        console.print(line, markup=False, soft_wrap=True)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if not report["problems"]:
        console.print("all is well")


def format_seconds(count: float) -> str:
    """Return a duration with its unit.

    >>> format_seconds(0.25), format_seconds(90), format_seconds(9000)
    ('0.25 s', '1.5 min', '2.5 h')
    """
    if count < 60:
        return f"{count:.2f} s"
    return f"{count / 60:.1f} min" if count < 3600 else f"{count / 3600:,.1f} h"


def _form(key: str) -> str:
    kind, _, count = key.partition(" ")
    return f"{FORMS[kind]} {count}".strip()


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number and len(columns) > 2 else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def _machine(console: Console, machine: Mapping[str, Any]) -> None:
    ram, cores = machine["ram"], f"{machine['cpu']['cores']} cores, {machine['cpu']['threads']} usable"
    units = ", ".join(machine["vector_units"]) or "no bfloat16 units known"
    rows = [
        ["CPU", f"{cores}, {machine['torch_threads']} threads; {units}"],
        ["memory", f"{format_bytes(ram['available_bytes'])} free of {format_bytes(ram['total_bytes'])}"],
        ["disk", f"{format_bytes(machine['disk']['free_bytes'])} free"],
    ]
    for gpu in machine["cuda"]:
        sizes = f"{format_bytes(gpu['free_bytes'])} free of {format_bytes(gpu['total_bytes'])}"
        rows.append(["GPU", f"{gpu['name']}, {sizes}"])
    if not machine["cuda"]:
        rows.append(["GPU", "Apple (MPS)" if machine["mps"] else "none that torch sees"])
    _table(console, "machine", ["what", "found"], rows)


def _versions(console: Console, machine: Mapping[str, Any]) -> None:
    versions = machine["versions"] | machine["optional"]
    rows = [[name, version or "not installed"] for name, version in versions.items()]
    _table(console, "versions", ["package", "found"], rows)
    missing = [[row["package"], row["for"], row["install"]] for row in machine["missing"]]
    if missing:
        _table(console, "missing, and for what", ["package", "for", "to install"], missing)


def _checkpoint(console: Console, facts: Mapping[str, Any]) -> None:
    rows = [[name, format_bytes(count)] for name, count in facts["files"].items()]
    _table(console, facts["path"], ["file", "size"], rows)
    chat = facts.get("chat_format")
    rows = [
        ["layout", facts["layout"]],
        ["for", facts["usable_for"]],
        ["keys", facts.get("keys", "not compared, a file cannot be read")],
        ["tensors", ", ".join(f"{count} in {name}" for name, count in facts["dtypes"].items())],
        ["chat format", repr(chat) if chat else "not ours"],
    ]
    _table(console, "what it is", ["what", "found"], rows)
    rows = [[name, f"{count:,}"] for name, count in facts["parameters"].items()]
    rows.append(["all", f"{sum(facts['parameters'].values()):,}"])
    _table(console, "parameters", ["part", "count"], rows)
    rows = []
    for name, row in facts["memory_to_run"].items():
        sizes = [format_bytes(row[key]) for key in ("weights_bytes", "total_bytes")]
        rows.append([name, *sizes, *("yes" if row[key] else "no" for key in ("fits_ram", "fits_gpu"))])
    columns = ["precision", "weights", "with a dialogue", "fits in memory", "on a GPU here"]
    _table(console, "memory to run", columns, rows)


def _recipe(console: Console, facts: Mapping[str, Any]) -> None:
    rows = []
    for source in facts["data"]:
        counts = ", ".join(f"{key} {count}" for key, count in source.get("by_task_and_lang", {}).items())
        pictures = f"{source.get('pictures', 0)} ({source.get('decoded', 0)} decoded)"
        rows.append([source["path"], str(source["records"]), counts, pictures, str(source.get("rejects", 0))])
    _table(console, "data", ["path", "records", "by task/language", "pictures", "rejects"], rows)
    stages = facts.get("stages", [])
    if stages:
        _stages(console, facts, stages)
    probe = facts["probe"]
    if isinstance(probe, str):
        console.print(probe, markup=False)
        return
    rows = []
    for row in stages:
        times = [format_seconds(row[key]) for key in ("seconds_per_step", "seconds")]
        rows.append([row["stage"], *times, format_bytes(row["process_bytes"])])
    _table(console, "time on this machine, probed", ["stage", "a step", "all steps", "memory seen"], rows)
    total, ahead = format_seconds(probe["seconds"]), format_seconds(probe["seconds_ahead"])
    console.print(f"in all {total}, {ahead} of it to encode the pictures ahead")


def _stages(console: Console, facts: Mapping[str, Any], stages: list[Mapping[str, Any]]) -> None:
    names = [row["stage"] for row in stages]
    rows = [
        [part, f"{count:,}", *(f"{row['trained'].get(part, 0):,}" for row in stages)]
        for part, count in facts["parameters"].items()
    ]
    if any(row["trained"].get("lora") for row in stages):
        rows.append(["lora", "0", *(f"{row['trained'].get('lora', 0):,}" for row in stages)])
    rows.append(["frozen", "", *(f"{row['frozen']:,}" for row in stages)])
    _table(console, "parameters, and how many each stage trains", ["part", "all", *names], rows)
    rows = []
    for kind, title in MEMORY.items():
        counts = [row["memory_bytes"][kind] for row in stages]
        sums = [sum(count.values()) if isinstance(count, dict) else count for count in counts]
        rows.append([title, *map(format_bytes, sums)])
    for form, verdict in facts.get("fits", {}).items():
        text = {True: "fits", False: "does not fit", None: "no such GPUs here"}[verdict]
        sizes = [format_bytes(row["needed_bytes"][form]) for row in stages]
        rows.append([f"in all, {_form(form)}: {text}", *sizes])
    _table(console, f"memory of a step, {facts['precision']}", ["what", *names], rows)
