"""Make the example that the README shows, from a lap with the base of `make real`.

`make example` writes docs/example/report.html and docs/result.png.
"""

import sys
import tempfile
from pathlib import Path

from onelap import PROJECT, cli


def main(base: str) -> int:
    """Run a lap; write its report and its first figure. Returns the exit status of the first command that failed."""
    with tempfile.TemporaryDirectory(prefix="example_", dir=PROJECT / "outputs") as folder:
        run = Path(folder) / "example"
        lap = ["run", str(PROJECT / "params" / "laptop.yaml"), "--run", str(run), "-p", f"split_dir={folder}/splits"]
        lap += ["-p", f"base_model={base}"]
        report = ["report", str(run), "--out", str(PROJECT / "docs" / "example" / "report.html")]
        status = cli.main(lap) or cli.main(report)
        if status == 0:
            draw_accuracies(run, PROJECT / "docs" / "result.png")
    return status


def draw_accuracies(run: Path, file: Path) -> None:
    """Draw the accuracy of every arm of a run."""
    import matplotlib  # only now: `cli.main` prepares the process before libraries are imported

    matplotlib.use("svg")  # without a window
    import matplotlib.pyplot as plt

    from onelap.machine.store import read_json
    from onelap.verdict import figures

    print(figures.accuracies(read_json(run / "comparison.json")["arms"]))
    plt.savefig(file, dpi=150)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
