"""Make the example that the README shows, from a lap with the embedded base.

`make example` writes docs/example/report.html and docs/result.png.
"""

import matplotlib.pyplot as plt

from onelap import PROJECT, UserError
from onelap.lap.parameters import read_parameters
from onelap.lap.report import write_report
from onelap.lap.run import Run
from onelap.lap.runner import resolve_inputs, run_lap
from onelap.machine.store import read_json
from onelap.verdict import figures

PARAMS = PROJECT / "params" / "embedded.yaml"


def main() -> None:
    """Run a lap; write its report and its first figure."""
    parameters, problems = read_parameters(PARAMS)
    problems += resolve_inputs(parameters)
    if problems:
        raise UserError("; ".join(problems))
    run = Run.create(PARAMS.name, parameters, None)
    with run.locked():
        run_lap(run, parameters)
    write_report(run, PROJECT / "docs" / "example" / "report.html")
    comparison = read_json(run.comparison_path)
    reading = figures.accuracies(comparison["arms"])
    plt.savefig(PROJECT / "docs" / "result.png", dpi=150)
    print(reading, comparison["sentence"], sep="\n")


if __name__ == "__main__":
    main()
