"""Every figure of the notebooks. Each function draws one; the notebook shows it at the cell's end."""

import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython import get_ipython
from matplotlib import font_manager
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter
from matplotlib_inline.backend_inline import set_matplotlib_formats
from sklearn.metrics import confusion_matrix

from onelap.verdict import metrics

# Okabe & Ito's colours, told apart by colour-blind readers; their greys differ too.
BLUE, ORANGE, GREY, GREEN = "#0072B2", "#E69F00", "#8C8C8C", "#009E73"
WIDTH = 9.0  # inches: 900 pixels at 100 dpi

# With Japanese characters, as Linux, Windows and macOS come with them; DejaVu Sans, matplotlib's own, has none.
JAPANESE_FONTS = ["Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Yu Gothic", "Meiryo", "MS Gothic",
                  "Hiragino Sans"]  # fmt: skip
FONTS = ["DejaVu Sans", *(font for font in JAPANESE_FONTS if font in font_manager.get_font_names())]
warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # `without_glyphs` says it once, in words

plt.rcParams.update(
    {
        "figure.dpi": 100,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "font.size": 10,
        "font.family": [*FONTS, "sans-serif"],
        "font.sans-serif": ["DejaVu Sans", "Verdana"],  # of the same widths, for readers without the former
        "legend.frameon": False,
        "svg.fonttype": "none",  # text stays text: a quarter of the size, and it can be searched
    }
)

if get_ipython():
    set_matplotlib_formats("svg")  # sharp on any screen and on paper


def without_glyphs(names: list[str]) -> str:
    """What to install where no font of this machine can write these names; empty where all can be written."""
    fonts = [font_manager.get_font(font_manager.findfont(font)) for font in FONTS]
    missing = [name for name in names if any(not any(font.get_char_index(ord(c)) for font in fonts) for c in name)]
    if not missing:
        return ""
    return (
        f"No font here has all characters of {', '.join(missing)}: figures show boxes instead. Install one "
        "(Debian and Ubuntu: apt install fonts-noto-cjk), delete matplotlib's font cache "
        f"({matplotlib.get_cachedir()}) and run again."
    )


def kinds_by_part(notes: pd.DataFrame) -> None:
    """How many notes of each kind are in train, validation and test."""
    counts = notes.groupby(["kind", "part"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=["train", "validation", "test"]).loc[counts.sum(axis=1).sort_values().index]
    axes = counts.plot.barh(
        stacked=True, color=[BLUE, GREY, ORANGE], figsize=(WIDTH, 0.5 * len(counts) + 1.2), width=0.7
    )
    for row, (_, values) in enumerate(counts.iterrows()):
        axes.text(values.sum(), row, f"  {' + '.join(str(value) for value in values)}", va="center")
    axes.set(title="Notes by kind: train + validation + test", xlabel="notes", ylabel="")
    axes.set_xlim(right=counts.sum(axis=1).max() * 1.2)
    axes.legend(loc="lower right", title=None)


def token_lengths(lengths: pd.Series, budget: int) -> None:
    """Histogram of note lengths in tokens, with the number that fits."""
    _, axes = plt.subplots(figsize=(WIDTH, 3.2))
    longest = max(int(lengths.max()), budget)
    axes.hist(lengths, bins=np.linspace(0, longest * 1.02, 50), color=BLUE)
    axes.axvline(budget, color=ORANGE, linewidth=2)
    cut = int((lengths > budget).sum())
    axes.annotate(
        f"{budget} tokens fit; {cut} of {len(lengths)} notes are longer",
        (budget, 0.92), xycoords=("data", "axes fraction"),
        xytext=(8 if budget < longest * 0.6 else -8, 0), textcoords="offset points",
        ha="left" if budget < longest * 0.6 else "right",
    )  # fmt: skip
    axes.set(title="Length of the notes in the base model's tokens", xlabel="tokens a note", ylabel="notes")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))


def confusion_matrices(arms: dict[str, pd.DataFrame], kinds: list[str]) -> None:
    """One matrix an arm, side by side on one scale: share of each true kind, with counts."""
    cells = max(2.6, 0.55 * len(kinds) + 0.6)
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    _, grid = plt.subplots(
        rows,
        columns,
        figsize=(WIDTH, rows * min(cells + 0.7, WIDTH / columns + 0.5)),
        sharey=True,
        squeeze=False,
    )
    for axes, (arm, predictions) in zip(grid.flat, arms.items(), strict=False):
        counts = confusion_matrix(predictions["kind"], predictions["predicted"], labels=kinds)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
        for (row, column), count in np.ndenumerate(counts):
            shade = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, count, ha="center", va="center", color=shade)
        axes.set_xticks(range(len(kinds)), kinds, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(kinds)), kinds)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(title=arm, xlabel="predicted")
    for axes in grid[:, 0]:
        axes.set_ylabel("true kind")


def accuracies(metrics: dict[str, dict], notes: str = "test notes") -> None:
    """Accuracy of every arm with its 95 % interval, the best on top; `notes` says which ones."""
    _, axes = plt.subplots(figsize=(WIDTH, 0.42 * len(metrics) + 1.1))
    ranked = sorted(metrics, key=lambda arm: metrics[arm]["accuracy"]["value"])
    for row, arm in enumerate(ranked):
        accuracy, colour = metrics[arm]["accuracy"], BLUE if arm == "qlora" else GREY
        axes.plot([accuracy["low"], accuracy["high"]], [row, row], color=colour, linewidth=3, alpha=0.4)
        axes.plot(accuracy["value"], row, "o", color=colour, markersize=8)
        axes.text(accuracy["high"] + 0.015, row, f"{accuracy['value']:.0%}", va="center", color=colour)
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(-0.5, len(ranked) - 0.5)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.3)
    n = metrics[ranked[0]]["accuracy"]["n"]
    axes.set(
        title=f"Accuracy on the same {n} {notes}, with 95 % intervals",
        xlabel="share of notes sorted right",
    )


def recall_by_kind(metrics: dict[str, dict], kinds: list[str]) -> None:
    """Recall of every kind for each arm, with 95 % intervals."""
    colours = dict(zip(metrics, [GREY, BLUE, ORANGE, GREEN], strict=False))
    height = 0.8 / len(metrics)
    _, axes = plt.subplots(figsize=(WIDTH, 0.75 * len(kinds) + 1.3))
    for offset, (arm, measured) in enumerate(metrics.items()):
        for row, kind in enumerate(kinds):
            recall = measured["recall"][kind]
            if recall["value"] is None:
                continue
            y = row + (offset - (len(metrics) - 1) / 2) * height
            axes.plot([recall["low"], recall["high"]], [y, y], color=colours[arm], linewidth=2, alpha=0.45)
            axes.plot(recall["value"], y, "o", color=colours[arm])
    first = next(iter(metrics.values()))["recall"]
    axes.set_yticks(range(len(kinds)), [f"{kind} (n={first[kind]['n']})" for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.3)
    axes.set(
        title="Recall by kind, with 95 % intervals",
        xlabel="share of the test notes of that kind that were found",
    )
    shown = [Line2D([], [], color=colour, marker="o", label=arm) for arm, colour in colours.items()]
    axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def recall_change(before: dict, after: dict, kinds: list[str], name: str) -> None:
    """Recall of every kind before (of the arm `name`) and after, joined by an arrow."""
    _, axes = plt.subplots(figsize=(WIDTH, 0.55 * len(kinds) + 1.4))
    for row, kind in enumerate(kinds):
        old, new = before["recall"][kind], after["recall"][kind]
        if old["value"] is None:
            continue
        axes.plot([new["low"], new["high"]], [row, row], color=BLUE, linewidth=7, alpha=0.2)
        axes.plot([old["low"], old["high"]], [row + 0.25, row + 0.25], color=GREY, linewidth=2, alpha=0.5)
        arrow = {"arrowstyle": "->", "color": GREY, "linewidth": 1.5, "shrinkA": 5, "shrinkB": 5}
        axes.annotate("", (new["value"], row), (old["value"], row), arrowprops=arrow)
        axes.plot(old["value"], row, "o", markerfacecolor="white", color=GREY)
        axes.plot(new["value"], row, "o", color=BLUE)
    axes.set_yticks(range(len(kinds)), [f"{kind} (n={after['recall'][kind]['n']})" for kind in kinds])
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="x", alpha=0.3)
    axes.set(
        title="Recall by kind, before and after",
        xlabel="share of the test notes of that kind that were found",
    )
    shown = [
        Line2D([], [], color=GREY, marker="o", linestyle="", markerfacecolor="white", label=name),
        Line2D([], [], color=BLUE, marker="o", label="qlora; bars: 95 % intervals"),
    ]
    axes.legend(handles=shown, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def reliability(arms: dict[str, pd.DataFrame]) -> None:
    """How often answers are right, against how sure they were; a dot's size is the number of notes."""
    _, axes = plt.subplots(figsize=(WIDTH, 4.2))
    axes.set_aspect("equal")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as sure as right")
    for (name, predictions), colour in zip(arms.items(), (ORANGE, BLUE), strict=False):
        bins = metrics.reliability(predictions)
        error = metrics.calibration_error(predictions)
        axes.plot(bins["confidence"], bins["right"], color=colour, alpha=0.5)
        axes.scatter(bins["confidence"], bins["right"], 12 + 6 * bins["notes"], color=colour, alpha=0.7,
                     label=f"{name}, calibration error {error:.2f}")  # fmt: skip
    axes.set(title="Are answers right as often as they are sure?", xlabel="probability of the answer, ten bins")
    axes.set(ylabel="share of right answers", xlim=(0, 1.02), ylim=(-0.02, 1.02))
    _percent_axes(axes)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    for handle in legend.legend_handles[1:]:
        handle.set_sizes([50])


def risk_coverage(arms: dict[str, pd.DataFrame], target: float | None = None, kept: float | None = None) -> None:
    """Accuracy among the surest answers, against how many are answered; the target and what its threshold keeps."""
    _, axes = plt.subplots(figsize=(WIDTH * 0.8, 3.6))
    styles = zip(arms.items(), (GREY, ORANGE, BLUE) if len(arms) > 1 else (BLUE,), ("--", "-.", "-"), strict=False)
    for (name, predictions), colour, line in styles:
        curve = metrics.risk_coverage(predictions).iloc[4:]  # of fewer than five notes it is all luck
        axes.plot(
            curve["coverage"], curve["accuracy"], color=colour, linestyle=line if len(arms) > 1 else "-", label=name
        )
    if target:
        axes.axhline(target, color=GREEN, linestyle=":", label=f"target {target:.0%}")
    if kept:
        axes.axvline(kept, color=GREEN, linewidth=1, label=f"sure enough: {kept:.0%} of the notes")
    axes.set(title="If only the surest answers count", xlabel="share of the test notes that are answered")
    axes.set(ylabel="share of right answers", xlim=(0, 1.02), ylim=(0, 1.04))
    _percent_axes(axes)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def cost(metrics: dict[str, dict]) -> None:
    """Accuracy of every arm against its seconds a note, on a logarithmic axis."""
    _, axes = plt.subplots(figsize=(WIDTH, 4.2))
    placed = []
    for arm in sorted(metrics, key=lambda name: metrics[name]["accuracy"]["value"]):
        seconds, accuracy = max(1e-7, metrics[arm]["seconds_per_note"]), metrics[arm]["accuracy"]["value"]
        colour = BLUE if arm == "qlora" else GREY
        axes.plot(seconds, accuracy, "o", color=colour, markersize=8)
        # Labels of arms that lie on each other are stacked upwards.
        height = max([accuracy, *(other + 0.055 for other, at in placed if abs(np.log10(seconds / at)) < 1
                                  and accuracy < other + 0.055)])  # fmt: skip
        placed.append((height, seconds))
        axes.annotate(arm, (seconds, accuracy), (seconds * 1.15, height), color=colour, va="center")
    axes.set(title="Accuracy against time", xlabel="seconds a note, logarithmic", xscale="log", ylim=(0, 1))
    axes.set_xlim(right=axes.get_xlim()[1] * 15)
    axes.set_ylabel("share of notes sorted right")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)


def _percent_axes(axes) -> None:
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.3)


def training_curves(log: pd.DataFrame, best_step: int | None = None) -> None:
    """Training and validation loss, and the learning rate, over optimizer steps; of a training under way, too."""
    log = log.reindex(columns=log.columns.union(["validation_loss"]))
    _, (losses, rates) = plt.subplots(2, 1, figsize=(WIDTH, 4.6), sharex=True, height_ratios=[3, 1])
    steps = log.dropna(subset=["loss"])
    losses.plot(steps["step"], steps["loss"], color=BLUE, alpha=0.25, linewidth=1)
    smooth = steps["loss"].rolling(max(1, len(steps) // 20), center=True, min_periods=1).mean()
    losses.plot(steps["step"], smooth, color=BLUE, label="training, running mean")
    passes = log.dropna(subset=["validation_loss"])
    losses.plot(passes["step"], passes["validation_loss"], "o-", color=ORANGE, label="validation")
    if best_step is not None:
        losses.axvline(best_step, color=GREY, linestyle=":", label=f"adapter kept: step {best_step}")
    losses.set(title="Loss: which of the kinds? Logarithmic", ylabel="nats a note", yscale="log")
    losses.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    losses.yaxis.set_minor_formatter(NullFormatter())
    losses.legend()
    rates.plot(steps["step"], steps["learning_rate"], color=GREEN)
    rates.set(title="Learning rate", xlabel="optimizer step")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))


def step_seconds(log: pd.DataFrame) -> None:
    """Seconds of each optimizer step and the peak of memory so far."""
    steps = log.dropna(subset=["loss"])
    _, (seconds, memory) = plt.subplots(1, 2, figsize=(WIDTH, 2.6))
    seconds.plot(steps["step"], steps["step_seconds"], ".", color=BLUE, markersize=3)
    seconds.axhline(steps["step_seconds"].median(), color=ORANGE)
    seconds.set(title="Seconds a step, and their median", xlabel="optimizer step", ylabel="seconds")
    memory.plot(steps["step"], steps["memory_gb"], color=BLUE)
    memory.set(title="Peak memory so far", xlabel="optimizer step", ylabel="GB (10⁹ bytes)")
    for axes in (seconds, memory):
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
