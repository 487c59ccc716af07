"""Every figure of the notebooks: a function draws one, shows it, and returns its reading, a sentence with numbers."""

import textwrap
import warnings
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager, get_cachedir
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from sklearn.metrics import confusion_matrix

from onelap.verdict import metrics as measures
from onelap.verdict.compare import TUNED
from onelap.verdict.sentences import name_of, percent, with_interval

# Okabe & Ito's colours, told apart by colour-blind readers; their greys differ too.
BLUE, ORANGE, GREY, GREEN = "#0072B2", "#E69F00", "#8C8C8C", "#009E73"
SERIES = [GREY, ORANGE, GREEN, "#CC79A7", "#56B4E9", "#D55E00"]  # arms or runs in one figure; blue is the tuned arm
WIDTH = 9.0  # inches: 900 pixels at 100 dpi
MAX_LABEL = 44  # characters of a line beside a figure
MAX_TITLE = 30  # characters of a line above one of several matrices
LABEL_GAP = 0.075  # share of an axis between two labels of one line
CURVE_START = 5  # notes; the accuracy of fewer is all luck

# With Japanese characters, as Linux, Windows and macOS come with them; DejaVu Sans, matplotlib's own, has none.
JAPANESE_FONTS = ["Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "IPAGothic", "Yu Gothic", "Meiryo", "MS Gothic",
                  "Hiragino Sans"]  # fmt: skip
FONTS = ["DejaVu Sans", *(font for font in JAPANESE_FONTS if font in font_manager.get_font_names())]
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "font.size": 10,
    "font.family": [*FONTS, "sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Verdana"],  # of the same widths, for readers without the former
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    "svg.fonttype": "none",  # text stays text: a quarter of the size, and it can be searched
}


def without_glyphs(names: list[str]) -> str:
    """Name the font to install where none of this machine can write these names; empty where all can be written."""
    fonts = [font_manager.get_font(font_manager.findfont(font)) for font in FONTS]
    missing = [name for name in names if any(not any(font.get_char_index(ord(c)) for font in fonts) for c in name)]
    if not missing:
        return ""
    return (
        f"No font here has all characters of {', '.join(missing)}: figures show boxes instead. Install one (Debian and "
        f"Ubuntu: apt install fonts-noto-cjk), delete matplotlib's font cache ({get_cachedir()}) and run again."
    )


@cache
def _set_style() -> None:
    """Set matplotlib up when the first figure is drawn; importing this module changes nothing."""
    from IPython import get_ipython
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    plt.rcParams.update(STYLE)
    warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # `without_glyphs` says it once, in words
    if get_ipython():
        set_matplotlib_formats("svg")  # sharp on any screen and on paper


def _new_axes(height: float, title: str = "", **options):
    """Begin a figure; returns its axes, one or a grid of them."""
    _set_style()
    return plt.subplots(figsize=(WIDTH, height), subplot_kw={"title": title}, **options)[1]


def _draw_interval(axes, rate: dict, row: float, colour: str, label: str | None = None) -> None:
    """Draw a rate as a dot and its 95 % interval as a bar behind it; nothing where there were no notes."""
    if rate["value"] is not None:
        axes.plot([rate["low"], rate["high"]], [row, row], color=colour, linewidth=3, alpha=0.4)
        axes.plot(rate["value"], row, "o", color=colour, markersize=7, label=label)


def _finish(axes, xlabel: str = "", ylabel: str = "", x=None, y=None, rows=None) -> None:
    """Label the axes and show the figure, the legend of its first axes below: there long names have room.

    Axes whose limits `x` or `y` are given are of shares, written as per cent; `rows` name the rows of the y axis.
    """
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if rows:
        axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(-0.5, len(rows) - 0.5))
    for axis, limits, set_limits in ((axes.xaxis, x, axes.set_xlim), (axes.yaxis, y, axes.set_ylim)):
        if limits:
            set_limits(*limits)
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
            axis.grid(alpha=0.3)
    figure = axes.get_figure()
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        columns = 3 if max(map(len, labels)) < MAX_LABEL * 2 / 3 else 1
        figure.set_figheight(figure.get_figheight() + 0.22 * -(-len(labels) // columns))
        figure.legend(handles, labels, loc="outside lower left", ncols=columns)
    plt.show()


def _colour(arm: str, index: int = 0) -> str:
    return BLUE if arm == TUNED else SERIES[index % len(SERIES)]


def _label(arm: str, width: int = MAX_LABEL) -> str:
    """Name an arm for people, with its identifier below."""
    name = textwrap.fill(name_of(arm), width)
    return name if name_of(arm) == arm else f"{name}\n{arm}"


def _legend_label(arm: str) -> str:
    return arm if name_of(arm) == arm else f"{name_of(arm)} ({arm})"


def kinds_by_part(notes: pd.DataFrame) -> str:
    """Draw how many notes of each kind are in train, validation and test."""
    counts = pd.crosstab(notes["kind"], notes["part"]).reindex(columns=["train", "validation", "test"], fill_value=0)
    total = counts.sum(axis=1).sort_values()
    counts = counts.loc[total.index]
    axes = _new_axes(0.5 * len(counts) + 1.0, "Notes by kind: train + validation + test")
    counts.plot.barh(ax=axes, stacked=True, color=[BLUE, GREY, ORANGE], width=0.7, legend=False)
    axes.bar_label(axes.containers[-1], [" + ".join(map(str, row)) for row in counts.to_numpy()], padding=5)
    axes.set_xlim(right=total.max() * 1.2)
    _finish(axes, "notes")
    return (
        f"*{total.index[-1]}* has {total.iloc[-1]} notes, *{total.index[0]}* {total.iloc[0]}; "
        f"the test holds {counts['test'].min()} to {counts['test'].max()} notes of each kind."
    )


def token_lengths(lengths: pd.Series, budget: int) -> str:
    """Draw a histogram of note lengths in tokens, with the number that fits."""
    axes = _new_axes(3.2, "Length of the notes in the base model's tokens")
    axes.hist(lengths, bins=np.linspace(0, max(lengths.max(), budget) * 1.02, 50), color=BLUE)
    axes.axvline(budget, color=ORANGE, linewidth=2, label=f"{budget} tokens fit")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, "tokens a note", "notes")
    return (
        f"The median note has {lengths.median():.0f} tokens and the longest {lengths.max()}; "
        f"{(lengths > budget).sum()} of {len(lengths)} notes are longer than the {budget} tokens that fit."
    )


def confusion_matrices(arms: dict[str, pd.DataFrame], kinds: list[str]) -> str:
    """Draw one matrix an arm, side by side on one scale: share of each true kind, with counts."""
    columns = min(len(arms), 3)
    rows = -(-len(arms) // columns)
    height = rows * (min(max(2.0, 0.55 * len(kinds)), WIDTH / columns - 0.4) + 1.6)
    grid = _new_axes(height, nrows=rows, ncols=columns, sharey=True, squeeze=False)
    readings = []
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
        axes.set(title=_label(arm, MAX_TITLE), xlabel="predicted", ylabel="" if axes in grid[:, 1:] else "true kind")
        wrong = counts - np.diag(np.diag(counts))
        true, answer = np.unravel_index(wrong.argmax(), wrong.shape)
        confusion = f"answers *{kinds[answer]}* for {wrong.max()} of {counts[true].sum()} notes of *{kinds[true]}*"
        readings.append(f"**{name_of(arm)}** {confusion if wrong.any() else 'confuses no kinds'}")
    for axes in grid.flat[len(arms) :]:
        axes.set_visible(False)
    plt.show()
    return f"Most frequent confusion: {'; '.join(readings)}."


def accuracies(metrics: dict[str, dict], notes: str = "test notes") -> str:
    """Draw the accuracy of every arm with its 95 % interval, the best on top; `notes` says on which notes."""
    rates = {arm: metrics[arm]["accuracy"] for arm in metrics}
    ranked = sorted(rates, key=lambda arm: rates[arm]["value"])
    title = f"Accuracy on the same {rates[ranked[0]]['n']} {notes}, with 95 % intervals"
    axes = _new_axes(0.46 * len(ranked) + 1.1, title)
    for row, arm in enumerate(ranked):
        _draw_interval(axes, rates[arm], row, _colour(arm))
        axes.text(rates[arm]["high"] + 0.015, row, percent(rates[arm]["value"]), va="center", color=_colour(arm))
    _finish(axes, "share of notes sorted right", x=(0, 1.02), rows=[_label(arm) for arm in ranked])
    best, *others = (f"**{name_of(arm)}** for {with_interval(rates[arm])}" for arm in reversed(ranked))
    return f"Most often right is {best} of the notes{''.join(f', then {other}' for other in others[:1])}."


def recall_by_kind(metrics: dict[str, dict], kinds: list[str]) -> str:
    """Draw the recall of every kind for each arm, with 95 % intervals; the first arm on top."""
    recall = {arm: measured["recall"] for arm, measured in metrics.items()}
    tested = {kind: count for kind in kinds if (count := next(iter(recall.values()))[kind]["n"])}
    axes = _new_axes((0.35 + 0.17 * len(recall)) * len(tested) + 1.0, "Recall by kind, with 95 % intervals")
    readings = []
    for index, (arm, rates) in enumerate(recall.items()):
        below = 0.7 / len(recall) * (index - (len(recall) - 1) / 2)
        for row, kind in enumerate(reversed(tested)):
            label = None if row else _legend_label(arm)  # once is enough
            _draw_interval(axes, rates[kind], row - below, _colour(arm, index), label)
        least = min(tested, key=lambda kind, rates=rates: rates[kind]["value"])
        readings.append(f"**{name_of(arm)}** finds {with_interval(rates[least])} of *{least}*")
    rows = [f"{kind} (n={tested[kind]})" for kind in reversed(tested)]
    _finish(axes, "share of the test notes of that kind that were found", x=(-0.02, 1.02), rows=rows)
    return f"Lowest recall: {'; '.join(readings)}."


def reliability(answers: dict[str, pd.DataFrame]) -> str:
    """Draw how often answers are right, against how sure they were; a dot's size is the number of notes."""
    axes = _new_axes(4.2, "Are answers right as often as they are sure?")
    axes.set_aspect("equal")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="as sure as right")
    readings = []
    for (name, predictions), colour in zip(answers.items(), (ORANGE, BLUE), strict=False):
        bins, error = measures.reliability(predictions), measures.calibration_error(predictions)
        axes.plot(bins["confidence"], bins["right"], color=colour, alpha=0.5, label=name)
        axes.scatter(bins["confidence"], bins["right"], 12 + 6 * bins["notes"], color=colour, alpha=0.7, clip_on=False)
        sure, right = (np.average(bins[column], weights=bins["notes"]) for column in ("confidence", "right"))
        readings.append(f"{name} {percent(sure)} and {percent(right)} (calibration error {error:.2f})")
    _finish(axes, "probability of the answer, ten bins", "share of right answers", x=(0, 1.02), y=(-0.02, 1.02))
    return f"Mean probability of an answer, and share of right answers: {'; '.join(readings)}."


def risk_coverage(arms: dict[str, pd.DataFrame], target: float | None = None, kept: float | None = None) -> str:
    """Draw the accuracy of the surest answers against their share; the target, and the share its threshold keeps."""
    axes = _new_axes(3.6, "If only the surest answers count")
    readings = []
    for index, (arm, predictions) in enumerate(arms.items()):
        curve = measures.risk_coverage(predictions)
        half, whole = (curve["accuracy"].iloc[position] for position in ((len(curve) - 1) // 2, -1))
        readings.append(f"**{name_of(arm)}** {percent(half)} and {percent(whole)}")
        curve = curve.iloc[CURVE_START - 1 :]
        line = "-" if arm == TUNED else ("--", "-.")[index % 2]
        axes.plot(curve["coverage"], curve["accuracy"], line, color=_colour(arm, index), label=_legend_label(arm))
    if target:
        axes.axhline(target, color=GREEN, linestyle=":", label=f"target: {percent(target)}")
    if kept:
        axes.axvline(kept, color=GREEN, linewidth=1, label=f"sure enough: {percent(kept)} of the notes")
    _finish(axes, "share of the test notes that are answered", "share of right answers", x=(0, 1.02), y=(0, 1.04))
    return f"Share of right answers among the surer half, and among all: {'; '.join(readings)}."


def cost(metrics: dict[str, dict]) -> str:
    """Draw the accuracy of every arm against its seconds a note, on a logarithmic axis."""
    seconds = {arm: max(1e-7, measured["seconds_per_note"]) for arm, measured in metrics.items()}
    accuracy = {arm: measured["accuracy"]["value"] for arm, measured in metrics.items()}
    ranked = sorted(accuracy, key=accuracy.get)
    axes = _new_axes(4.4, "Accuracy against time")
    # Labels of one line are moved apart, upwards from the bottom, and then below the top.
    gaps = LABEL_GAP * np.arange(len(ranked))
    heights = np.maximum.accumulate([accuracy[arm] for arm in ranked] - gaps) + gaps
    for arm, height in zip(ranked, np.minimum(heights, 1 - gaps[::-1]), strict=True):
        point, colour = (seconds[arm], accuracy[arm]), _colour(arm)
        line = {"arrowstyle": "-", "color": colour, "alpha": 0.4, "relpos": (0, 0.5)}
        axes.plot(*point, "o", color=colour, markersize=8)
        axes.annotate(name_of(arm), point, (1.03, height), color=colour, va="center", textcoords="axes fraction",
                      arrowprops=line)  # fmt: skip
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    _finish(axes, "seconds a note, logarithmic", "share of notes sorted right", y=(0, 1))
    best, fastest, slowest = ranked[-1], min(seconds, key=seconds.get), max(seconds, key=seconds.get)
    times = {arm: f"{1000 * time:.0f}" if time >= 0.01 else f"{1000 * time:.2g}" for arm, time in seconds.items()}
    readings = [f"**{name_of(arm)}**, takes {times[arm]} ms a note" for arm in (best, fastest, slowest)]
    return "The most accurate arm, {}; the fastest, {}; the slowest, {}.".format(*readings)


def training_curves(logs: dict[str, pd.DataFrame], best_step: int | None = None) -> str:
    """Draw loss, macro-F1 on validation and learning rate of one training or several, which may be under way."""
    losses, scores, rates = _new_axes(6.0, nrows=3, sharex=True, height_ratios=[3, 2, 1])
    readings = []
    for index, (name, log) in enumerate(logs.items()):
        colour, second = (BLUE, ORANGE) if len(logs) == 1 else (SERIES[index % len(SERIES)],) * 2
        log = log.reindex(columns=log.columns.union(["validation_loss", "validation_macro_f1"]))
        steps, passes = log.dropna(subset=["loss"]), log.dropna(subset=["validation_loss"])
        smooth = steps["loss"].rolling(max(1, len(steps) // 20), center=True, min_periods=1).mean()
        losses.plot(steps["step"], steps["loss"], color=colour, alpha=0.25, linewidth=1)
        losses.plot(steps["step"], smooth, color=colour, label=f"{name}: training, running mean")
        losses.plot(passes["step"], passes["validation_loss"], "o--", color=second, label=f"{name}: validation")
        scores.plot(passes["step"], passes["validation_macro_f1"], "o--", color=second)
        rates.plot(steps["step"], steps["learning_rate"], color=colour)
        reading = f"**{name}**: training loss went from {smooth.iloc[0]:.2f} to {smooth.iloc[-1]:.2f} nats a note"
        for _, lowest in passes.nsmallest(1, "validation_loss").iterrows():
            reading += f", validation loss is lowest at step {lowest['step']:.0f}, {lowest['validation_loss']:.2f}"
        readings.append(reading)
    if best_step is not None:
        losses.axvline(best_step, color=GREY, linestyle=":", label=f"adapter kept: step {best_step}")
        scores.axvline(best_step, color=GREY, linestyle=":")
    losses.set(title="Loss: which of the kinds? Logarithmic", ylabel="nats a note", yscale="log")
    losses.yaxis.set(major_formatter="{x:g}", minor_formatter=NullFormatter())
    scores.set(title="Macro-F1 on the validation notes")
    rates.set(title="Learning rate", xlabel="optimizer step")
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(scores, y=(0, 1.02))
    return f"{'; '.join(readings)}."


def step_seconds(log: pd.DataFrame) -> str:
    """Draw the seconds of each optimizer step, and the peak of memory so far."""
    steps = log.dropna(subset=["loss"])
    seconds, memory = _new_axes(2.6, ncols=2)
    seconds.plot(steps["step"], steps["step_seconds"], ".", color=BLUE, markersize=3)
    seconds.axhline(steps["step_seconds"].median(), color=ORANGE)
    seconds.set(title="Seconds a step, and their median", ylabel="seconds")
    memory.plot(steps["step"], steps["memory_gb"], color=BLUE)
    memory.set(title="Peak memory so far", ylabel="GB (10⁹ bytes)")
    for axes in (seconds, memory):
        axes.set(ylim=(0, 1.1 * axes.dataLim.ymax), xlabel="optimizer step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plt.show()
    return (
        f"The median of {len(steps)} steps is {steps['step_seconds'].median():.2f} s, the slowest took "
        f"{steps['step_seconds'].max():.2f} s; memory peaked at {steps['memory_gb'].max():.2f} GB."
    )
