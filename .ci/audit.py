"""Look up known vulnerabilities of the pinned versions with pip-audit, and say what was not looked up."""

import json
import subprocess
import sys
from pathlib import Path

PINNED = ("-r", "constraints.txt", "--no-deps", "--disable-pip")


def main() -> None:
    command = [str(Path(sys.executable).with_name("pip-audit")), *PINNED, "-f", "json"]
    done = subprocess.run(
        [*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"audit: nothing was looked up: the vulnerability service cannot be reached ({reason[:160]})")
        return
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    known = [(package, entry) for package in packages for entry in package.get("vulns", ())]
    for package, entry in known:
        fixed = ", ".join(entry["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {entry['id']}, fixed in {fixed}")
    if len(skipped) == len(packages):
        print("audit: nothing was looked up: the package index knows none of the packages")
        return
    print(
        f"audit: {len(packages) - len(skipped)} of {len(packages)} packages looked up, "
        f"{len(known)} known vulnerabilities"
    )
    if skipped:
        print(f"audit: not looked up: {', '.join(skipped)}")
    sys.exit(bool(known))


if __name__ == "__main__":
    main()
