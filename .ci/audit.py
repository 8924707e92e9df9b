"""Known vulnerabilities of the pinned versions, by pip-audit; what was not looked up is said."""

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
        found = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        why = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(f"audit: nothing was looked up, the vulnerability service cannot be reached ({why[:160]})")
        return
    skipped = [one["name"] for one in found if "skip_reason" in one]
    faults = [(one, fault) for one in found for fault in one.get("vulns", ())]
    for one, fault in faults:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']}: {fault['id']}, mended in {fixed}")
    if len(skipped) == len(found):
        print("audit: nothing was looked up, the index that is asked knows none of the packages")
        return
    print(
        f"audit: {len(found) - len(skipped)} of {len(found)} packages looked up, {len(faults)} known faults"
    )
    if skipped:
        print(f"audit: not looked up: {', '.join(skipped)}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
