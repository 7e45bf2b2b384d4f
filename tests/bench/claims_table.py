"""The claims of finished runs side by side, as a Markdown table: how README.md's was made.

    python tests/bench/claims_table.py runs/scenes runs/longer ...

One row a claim, with its effect, interval and verdict in every run; `--only` picks claims by parts
of their names, such as `1b` or `scotoma`.
"""

import argparse
import json
from pathlib import Path

MARKS = {"holds": "**holds**", "fails": "*fails*", "undecided": "undecided"}
FACTORS = {"accuracy": (100, "points"), "area": (100, "% of the area")}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", type=Path, nargs="+")
    parser.add_argument("--only", nargs="*", default=[], help="measures, such as accuracy scotoma")
    options = parser.parse_args()
    runs = [json.loads((d / "results.json").read_text()) for d in options.workdirs]
    print("| | " + " | ".join(d.name for d in options.workdirs) + " |")
    print("| --- |" + " --- |" * len(runs))
    for system in runs[0]["systems"]:
        cells = " | ".join(f"{run['accuracy'][system]:.1%}" for run in runs)
        print(f"| accuracy, `{system}` | {cells} |")
    claims = [{claim["name"]: claim for claim in run["claims"]} for run in runs]
    for name in dict.fromkeys(name for found in claims for name in found):
        if not options.only or any(part in name for part in options.only):
            print(f"| {name} | " + " | ".join(cell(found.get(name)) for found in claims) + " |")


def cell(claim: dict | None) -> str:
    """Verdict, effect and interval of a claim."""
    if claim is None:
        return "-"
    factor, unit = FACTORS.get(claim["unit"], (1, claim["unit"]))
    effect, (low, high) = claim["effect"], claim["interval"]
    if effect is None or low is None:
        return MARKS[claim["verdict"]]
    span = f"{factor * low:+.3g} to {factor * high:+.3g}"
    return f"{MARKS[claim['verdict']]} {factor * effect:+.3g} ({span}) {unit}"


if __name__ == "__main__":
    main()
