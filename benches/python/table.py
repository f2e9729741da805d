"""Prints results as a Markdown table of ratios: emcache against each of the others."""

import json
import sys
from pathlib import Path


def main():
    print("| work | loop | against | ops/s | p50 | CPU per operation |")
    print("|---|---|---|---|---|---|")
    for path in sys.argv[1:]:
        for row in json.loads(Path(path).read_text())["rows"]:
            ours = row["results"]["emcache"]
            work = f"{row['case']}, {row['tasks']} task{'s' * (row['tasks'] > 1)}"
            print(
                f"| {work} | {row['loop']} | **emcache** | {ours['ops_per_s']:,.0f} "
                f"| {ours['p50_us']:.0f} us | {ours['cpu_us']:.1f} us |"
            )
            for client, theirs in row["results"].items():
                if client == "emcache" or "error" in theirs:
                    continue
                print(
                    f"| | | {client} | {ours['ops_per_s'] / theirs['ops_per_s']:.2f}x "
                    f"| {ours['p50_us'] / theirs['p50_us']:.2f} "
                    f"| {ours['cpu_us'] / theirs['cpu_us']:.2f} |"
                )


if __name__ == "__main__":
    main()
