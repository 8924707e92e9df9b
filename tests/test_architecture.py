"""The shape of the source tree, measured: file count, imports, function lengths and docstrings.

The tests fail where a measure is over its limit. Run as a script, this file prints every measure beside its
limit; ``--list`` adds the names behind the numbers.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = "ziya_visual"
MAX_FUNCTION_LINES = 60
RECIPE = f"{PACKAGE}.core.recipe"
# The recipe stops at the builders: these may read it, everything else takes plain keyword arguments.
RECIPE_READERS = ("core", "cli", "doctor", "quickstart", "train.run")
LOOP = f"{PACKAGE}.train.loop"
# The first words of docstrings, all in the imperative. A new verb is welcome; a noun or a preposition is not.
VERBS = frozenset(
    """
    Abort Accept Accumulate Add Adjust Admit Advance Align All-gather Allocate Allow Analyze Announce
    Answer Append Apply Approximate Arrange Ask Assemble Assert Assign Associate Attach Attend Average
    Balance Begin Bind Blank Block Bound Break Broadcast Build Cache Calculate Call Cancel Cap Cast Catch
    Change Charge Check Choose Chunk Claim Clean Clear Clip Close Collapse Collate Collect Combine Commit
    Compare Compile Complete Compose Compress Compute Concatenate Configure Confirm Connect Consume
    Continue Convert Copy Count Cover Create Crop Cut Decide Declare Decode Deduplicate Define Delete
    Dequantize Derive Describe Detect Determine Diagnose Discard Dispatch Display Distribute Divide Double
    Download Drain Draw Drop Dump Embed Emit Enable Encode End Enforce Enlarge Enqueue Ensure Enter
    Enumerate Estimate Evaluate Evict Examine Exchange Exclude Exit Expand Explain Export Expose Extend
    Extract Fail Feed Fetch Fill Filter Find Finish Fit Fix Flatten Flush Fold Follow Forget Fork Format
    Forward Free Freeze Gather Generate Get Give Grant Group Grow Guard Guess Halve Handle Hash Hide Hold
    Identify Ignore Implement Import Include Increment Index Infer Initialize Insert Inspect Install
    Interleave Interpolate Interpret Invalidate Invert Iterate Join Judge Keep Label Launch Lay Learn
    Leave Let Limit Link List Listen Load Locate Lock Log Look Lower Make Map Mark Mask Match Measure
    Merge Mix Move Name Narrow Normalise Normalize Offer Omit Open Order Pack Pad Paint Pair Parse
    Partition Pass Patch Pause Permute Persist Pick Pickle Place Plan Plot Pool Pop Pre-train Predict
    Prefill Prefix Prepare Prepend Print Process Produce Project Propose Prove Prune Publish Pull Push Put
    Quantize Query Queue Quote Raise Rank Rate Read Rebuild Recall Receive Recognize Recompute Reconstruct
    Record Reduce Refer Refuse Register Reject Release Reload Remember Remove Rename Render Repair Repeat
    Replace Reply Report Reproduce Request Require Rerank Reserve Reset Resize Resolve Respond Restore
    Restrict Resume Retrieve Retry Return Reuse Reverse Review Rewrite Round Route Run Sample Save Say
    Scale Scan Schedule Score Search Seed Segment Select Send Separate Serialize Serve Set Settle Shard
    Shift Show Shuffle Shut Silence Simulate Skip Sleep Slice Smooth Solve Sort Split Spread Stack Start
    Step Stitch Stop Store Stream Strip Subtract Sum Summarize Suppress Swap Switch Tag Take Talk Tally
    Tell Test Tile Time Tokenize Trace Track Train Translate Transpose Trim Truncate Try Turn Unfreeze
    Unload Unpack Unwrap Update Upgrade Upload Use Validate Vary Verify Visit Vote Wait Walk Warm Warn
    Weigh Widen Work Wrap Write Yield
    """.split()
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Measure:
    """One number about the tree, its limit, and the names behind it."""

    name: str
    value: int
    limit: int
    names: list[str]


def read_modules() -> dict[str, tuple[Path, ast.Module]]:
    """Parse every module of the package, by its dotted name."""
    modules = {}
    for path in sorted((SRC / PACKAGE).rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__")
        modules[name] = path, ast.parse(path.read_text(encoding="utf-8"))
    return modules


MODULES = read_modules()


def imports(tree: ast.Module) -> set[str]:
    """List our own modules that a module imports, anywhere in its text."""
    names_imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names_imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            names_imported |= {name if name in MODULES else node.module for name in names}
    return names_imported & MODULES.keys()


IMPORTS = {name: imports(tree) - {name} for name, (_, tree) in MODULES.items()}


def functions() -> Iterator[tuple[str, Function]]:
    """Yield every function and method with ``file:line name``."""
    for path, tree in MODULES.values():
        for node in ast.walk(tree):
            if isinstance(node, Function):
                yield f"{path.relative_to(SRC)}:{node.lineno} {node.name}", node


def wrong_opening(function: Function) -> str | None:
    """Return the opening of a docstring that is no verb with its object, such as ``Answer of``."""
    words = (ast.get_docstring(function) or "").split(maxsplit=2)[:2]
    is_verb = not words or (words[0].strip(".,:;") in VERBS and words[1:] != ["of"])
    return None if is_verb else " ".join(words)


def lines_of(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def measure() -> list[Measure]:
    """Measure the tree as it stands."""
    paths = [path for path, _ in MODULES.values()]
    importers: dict[str, set[str]] = defaultdict(set)
    for name, imported in IMPORTS.items():
        for target in imported:
            importers[target].add(name)
    single = [
        f"{name} <- {next(iter(users))}" for name, users in sorted(importers.items()) if len(users) == 1
    ]
    readers = [f"{PACKAGE}.{name}" for name in RECIPE_READERS]
    strangers = [
        name
        for name in sorted(importers[RECIPE])
        if not any(name == reader or name.startswith(f"{reader}.") for reader in readers)
    ]
    long = [
        f"{where} ({node.end_lineno - node.lineno + 1})"
        for where, node in functions()
        if node.end_lineno and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    loop = [LOOP, *sorted(name for name in IMPORTS[LOOP] if name.startswith(f"{PACKAGE}.train."))]
    openings = [f"{where}: {text}" for where, node in functions() if (text := wrong_opening(node))]
    return [
        Measure("files", len(paths), 170, []),
        Measure("lines", lines_of(paths), 26_000, []),
        Measure("modules with one importer", len(single), 40, single),
        Measure("modules that read a recipe and should not", len(strangers), 0, strangers),
        Measure(f"functions over {MAX_FUNCTION_LINES} lines", len(long), 0, long),
        Measure("files to read for a training step", len(loop), 4, loop),
        Measure(
            "lines to read for a training step", lines_of([MODULES[name][0] for name in loop]), 700, loop
        ),
        Measure("docstrings that do not open with a verb", len(openings), 0, openings),
    ]


@pytest.mark.parametrize("measured", measure(), ids=lambda measured: measured.name)
def test_the_tree_stays_within_its_limits(measured: Measure) -> None:
    names = "".join(f"\n  {name}" for name in measured.names)
    assert measured.value <= measured.limit, f"{measured.name}: {measured.value} > {measured.limit}{names}"


if __name__ == "__main__":
    for entry in measure():
        print(f"{entry.name:44} {entry.value:7,}  (at most {entry.limit:,})")
        if "--list" in sys.argv:
            print(*(f"  {name}" for name in entry.names), sep="\n")
