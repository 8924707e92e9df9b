"""The doctor's report for human eyes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

FORMS = {"cpu": "CPU", "gpu": "one GPU", "ddp": "DDP", "fsdp": "FSDP"}
MEMORY = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "casts": "bfloat16 copies of weights",
    "pictures": "pictures (CPU)",
}


def show(report: Mapping[str, Any]) -> None:
    """Print the report's tables to standard output."""
    console = Console(highlight=False)
    whole = "checkpoint" not in report and "recipe" not in report
    _machine(console, report["machine"], whole=whole)
    if "checkpoint" in report:
        _checkpoint(console, report["checkpoint"])
    if "recipe" in report:
        _recipe(console, report["recipe"])
    for row in report["advice"]:
        then = "then the stage fits" if row["fits"] else "not enough alone"
        where = f"stage {row['stage']}, {_form(row['form'])}"
        line = f"advice: {row['change']} saves {size(row['saves_bytes'])} ({where}; {then})"
        console.print(line, markup=False, soft_wrap=True)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    if not report["problems"]:
        console.print("all is well")


def size(count: float) -> str:
    """Bytes as people say them.

    >>> size(3 * 2**30), size(1536)
    ('3.0 GiB', '1.5 KiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def seconds(count: float) -> str:
    """Seconds as people say them.

    >>> seconds(0.25), seconds(90), seconds(9000)
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


def _machine(console: Console, machine: Mapping[str, Any], *, whole: bool) -> None:
    cpu, ram = machine["cpu"], machine["ram"]
    units = ", ".join(machine["vector_units"]) or "no bfloat16 units known"
    rows = [
        [
            "CPU",
            f"{cpu['cores']} cores, {cpu['threads']} usable, {machine['torch_threads']} threads; {units}",
        ],
        ["memory", f"{size(ram['available_bytes'])} free of {size(ram['total_bytes'])}"],
        ["disk", f"{size(machine['disk']['free_bytes'])} free"],
        *(
            ["GPU", f"{gpu['name']}, {size(gpu['free_bytes'])} free of {size(gpu['total_bytes'])}"]
            for gpu in machine["cuda"]
        ),
    ]
    if not machine["cuda"]:
        rows.append(["GPU", "Apple (MPS)" if machine["mps"] else "none that torch sees"])
    _table(console, "machine", ["what", "found"], rows)
    if whole:
        found = {**machine["versions"], **machine["optional"]}
        _table(
            console, "versions", ["package", "found"], [[k, v or "not installed"] for k, v in found.items()]
        )
        missing = [[row["package"], row["for"], row["install"]] for row in machine["missing"]]
        if missing:
            _table(console, "missing, and for what", ["package", "for", "to install"], missing)


def _checkpoint(console: Console, facts: Mapping[str, Any]) -> None:
    rows = [[name, size(count)] for name, count in facts["files"].items()]
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
    rows = [
        [
            name,
            size(row["weights_bytes"]),
            size(row["total_bytes"]),
            _yes(row["fits_ram"]),
            _yes(row["fits_gpu"]),
        ]
        for name, row in facts["memory_to_run"].items()
    ]
    columns = ["precision", "weights", "with a dialogue", "fits in memory", "on a GPU here"]
    _table(console, "memory to run", columns, rows)


def _recipe(console: Console, facts: Mapping[str, Any]) -> None:
    rows = []
    for source in facts["data"]:
        counts = ", ".join(f"{key} {count}" for key, count in source.get("by_task_and_lang", {}).items())
        pictures = f"{source.get('pictures', 0)} ({source.get('decoded', 0)} decoded)"
        rows.append([source["path"], str(source["records"]), counts, pictures, str(source.get("rejects", 0))])
    _table(console, "data", ["path", "records", "by task/language", "pictures", "rejects"], rows)
    stages = facts.get("stages")
    if stages:
        _stages(console, facts, stages)
    probe = facts["probe"]
    if isinstance(probe, str):
        console.print(probe, markup=False)
        return
    rows = [
        [row["stage"], seconds(row["seconds_per_step"]), seconds(row["seconds"]), size(row["process_bytes"])]
        for row in stages or ()
    ]
    _table(console, "time on this machine, probed", ["stage", "a step", "all steps", "memory seen"], rows)
    ahead = seconds(probe["seconds_ahead"])
    console.print(f"in all {seconds(probe['seconds'])}, {ahead} of it to encode the pictures ahead")


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
        found = [row["memory_bytes"][kind] for row in stages]
        sums = [sum(x.values()) if isinstance(x, dict) else x for x in found]
        rows.append([title, *map(size, sums)])
    for form, here in facts.get("fits", {}).items():
        says = {True: "fits", False: "does not fit", None: "no such GPUs here"}[here]
        rows.append([f"in all, {_form(form)}: {says}", *(size(row["needed_bytes"][form]) for row in stages)])
    _table(console, f"memory of a step, {facts['precision']}", ["what", *names], rows)


def _yes(value: bool) -> str:
    return "yes" if value else "no"
