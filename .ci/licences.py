"""Write a table of the licences of every package we install: python .ci/licences.py docs/licences.md."""

import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("serve", "web")
COPYLEFT = re.compile(r"GPL|MPL|Mozilla|EPL|CDDL|EUPL|SSPL|CC.BY.SA", re.IGNORECASE)
HEAD = (
    "# Licences\n\n"
    "What `pip install 'ziya-visual[serve,web]'` brings along on Linux, in the versions of "
    "`constraints.txt`: {count} packages, by their own metadata. Written by "
    "`make supply`, which writes the SBOM (CycloneDX, "
    "`dist/sbom.cdx.json`) of the same environment and asks for known vulnerabilities. Ziya-Visual itself is "
    "Apache-2.0. Wheels may carry libraries of other licences inside, which this table does not look into: "
    "torch, numpy, pillow and pyarrow list theirs in their own folders.\n\n"
    "{copyleft}\n\n"
    "| package | version | licence | wanted by |\n|---|---|---|---|\n"
)
NONE = "No package of the table is under a licence with copyleft."
SOME = "Under a licence with copyleft, the weak ones among them included: {names}."


def main(out: Path) -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + [r for e in EXTRAS for r in project["optional-dependencies"][e]]
    found: dict[str, tuple[Distribution, set[str]]] = {}
    for text in wanted:
        collect(Requirement(text), "ziya-visual", found)
    rows, strong = [], []
    for name in sorted(found):
        package, parents = found[name]
        licence = licence_of(package)
        direct = "ziya-visual" in parents
        by = "ziya-visual" if direct else ", ".join(sorted(parents))
        rows.append(f"| {package.name} | {package.version} | {licence} | {by} |")
        if COPYLEFT.search(licence):
            strong.append(f"{package.name} ({licence})")
        if not licence:
            sys.exit(f"{package.name} {package.version}: its metadata names no licence; check it by hand")
    copyleft = SOME.format(names=", ".join(strong)) if strong else NONE
    out.write_text(HEAD.format(count=len(rows), copyleft=copyleft) + "\n".join(rows) + "\n", encoding="utf-8")


def collect(wanted: Requirement, by: str, found: dict[str, tuple[Distribution, set[str]]]) -> None:
    """Collect the distribution of a requirement and, recursively, those that it needs here."""
    extras = wanted.extras or {""}
    if wanted.marker and not any(wanted.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
        return
    name = canonicalize_name(wanted.name)
    if name not in found:
        try:
            found[name] = (distribution(wanted.name), set())
        except PackageNotFoundError:
            sys.exit(f"{wanted.name}, required by {by}, is not installed; `make setup` first")
    package, parents = found[name]
    if by in parents:
        return
    parents.add(by)
    for text in package.requires or ():
        needed = Requirement(text)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
            needed.marker = None
            collect(needed, package.name, found)


def licence_of(package: Distribution) -> str:
    """Return the SPDX expression, or else the classifiers, or else the first line of the licence text."""
    data = package.metadata
    if data.get("License-Expression"):
        return str(data["License-Expression"])
    classifiers = [c for c in data.get_all("Classifier") or () if c.startswith("License :: ")]
    names = [c.split(" :: ")[-1] for c in classifiers]
    names = [name for name in names if name not in ("OSI Approved", "Other/Proprietary License")]
    return ", ".join(names) or str(data.get("License") or "").strip().partition("\n")[0][:60]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
