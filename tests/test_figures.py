"""What figures draw: the numbers on their axes, and the sentence that reads them."""

import subprocess
import sys
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from onelap.verdict import figures
from onelap.verdict.metrics import measure
from tests.predictions import KINDS, clusters_of, predict

LONG = "base_few_shot_unbiased"  # has the longest name of all


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def metrics():
    """Two arms on ten notes of a, four of b and none of c: one finds half of each, the other nine of a and all of b."""
    truth = "a" * 10 + "b" * 4
    answers = {LONG: "a" * 5 + "b" * 5 + "bbaa", "qlora": "a" * 9 + "b" + "bbbb"}
    return {arm: measure(predict(truth, guessed), clusters_of(14), KINDS) for arm, guessed in answers.items()}


def drawn():
    """The axes of the figure that was drawn last, with its layout made."""
    figure = plt.gcf()
    figure.canvas.draw()
    return figure.axes


def dots(axes):
    """[(x, y)] of single markers."""
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() == "o"]


def bars(axes):
    """[(from, to)] of horizontal lines."""
    return [tuple(line.get_xdata()) for line in axes.lines if line.get_marker() == "None"]


def legend():
    return [text.get_text() for text in plt.gcf().legends[0].get_texts()]


def test_importing_figures_leaves_the_settings_of_the_program_alone():
    code = """
import warnings, matplotlib
before, filters = dict.copy(matplotlib.rcParams), list(warnings.filters)
from onelap.verdict import figures
assert dict.copy(matplotlib.rcParams) == before
assert not any("Glyph" in str(entry) for entry in warnings.filters)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_without_glyphs_is_empty_for_names_that_any_machine_can_write():
    assert figures.without_glyphs(["lesson", "Wert", "décision"]) == ""


def test_without_glyphs_names_a_font_to_install():
    """A private-use character, which stands for Japanese on a machine without such a font."""
    assert "characters of \ue0f0: figures show boxes" in figures.without_glyphs(["lesson", "\ue0f0"])


def test_kinds_by_part_draws_a_bar_for_each_part_as_long_as_its_notes():
    counts = {("a", "train"): 6, ("a", "validation"): 2, ("a", "test"): 3, ("b", "train"): 4, ("b", "test"): 1}
    rows = [{"kind": kind, "part": part} for (kind, part), count in counts.items() for _ in range(count)]
    reading = figures.kinds_by_part(pd.DataFrame(rows))
    (axes,) = drawn()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b", "a"]
    widths = [[patch.get_width() for patch in container] for container in axes.containers]
    assert widths == [[4, 6], [0, 2], [1, 3]]
    assert [text.get_text() for text in axes.texts] == ["4 + 0 + 1", "6 + 2 + 3"]
    assert legend() == ["train", "validation", "test"]
    assert reading == "*a* has 11 notes, *b* 5; the test holds 1 to 3 notes of each kind."


@pytest.mark.parametrize("budget", [20, 90, 200])
def test_token_lengths_draws_every_note_and_marks_the_budget(budget):
    reading = figures.token_lengths(pd.Series([10, 10, 30, 50, 100]), budget)
    (axes,) = drawn()
    assert sum(patch.get_height() for patch in axes.patches) == 5
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() >= max(100, budget)
    assert list(axes.lines[0].get_xdata()) == [budget, budget]
    assert legend() == [f"{budget} tokens fit"]
    longer = {20: 3, 90: 1, 200: 0}[budget]
    assert reading == (
        f"The median note has 30 tokens and the longest 100; {longer} of 5 notes are longer than the {budget} tokens "
        "that fit."
    )


def test_confusion_matrices_draws_counts_and_the_share_of_each_true_kind():
    reading = figures.confusion_matrices({LONG: predict("aaaab", "abbca"), "qlora": predict("ab", "ab")}, KINDS)
    first, second = drawn()
    counts = [[1, 2, 1], [1, 0, 0], [0, 0, 0]]
    assert [int(text.get_text()) for text in first.texts] == list(np.ravel(counts))
    assert np.allclose(first.images[0].get_array(), [[0.25, 0.5, 0.25], [1, 0, 0], [0, 0, 0]])
    assert [tick.get_text() for tick in first.get_xticklabels()] == KINDS
    assert (first.get_xlabel(), first.get_ylabel(), second.get_ylabel()) == ("predicted", "true kind", "")
    assert second.get_title(loc="left") == "QLoRA\nqlora"
    assert reading == (
        "Most frequent confusion: **untuned, with examples, label bias removed** answers *b* for 2 of 4 notes of *a*; "
        "**QLoRA** confuses no kinds."
    )


def test_confusion_matrices_of_five_arms_leave_no_empty_frame():
    figures.confusion_matrices({f"arm {number}": predict("ab", "ab") for number in range(5)}, KINDS)
    assert [axes.get_visible() for axes in drawn()] == [True] * 5 + [False]


def test_accuracies_draws_each_arm_at_its_accuracy_with_its_interval(metrics):
    reading = figures.accuracies(metrics)
    (axes,) = drawn()
    rates = [metrics[arm]["accuracy"] for arm in (LONG, "qlora")]
    assert dots(axes) == [(rates[0]["value"], 0), (rates[1]["value"], 1)] == [(0.5, 0), (13 / 14, 1)]
    assert bars(axes) == [(rate["low"], rate["high"]) for rate in rates]
    assert [line.get_color() for line in axes.lines] == [figures.GREY] * 2 + [figures.BLUE] * 2
    names = [f"untuned, with examples, label bias removed\n{LONG}", "QLoRA\nqlora"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == names
    assert [text.get_text() for text in axes.texts] == ["50 %", "93 %"]
    assert "same 14 test notes" in axes.get_title(loc="left")
    assert reading == (
        "Most often right is **QLoRA** for 93 % (69 to 99) of the notes, then **untuned, with examples, label bias "
        "removed** for 50 % (27 to 73)."
    )


def test_accuracies_of_a_single_arm_have_a_reading_too(metrics):
    assert (
        figures.accuracies({"qlora": metrics["qlora"]})
        == "Most often right is **QLoRA** for 93 % (69 to 99) of the notes."
    )


def test_recall_by_kind_draws_each_arm_of_each_kind_that_is_tested(metrics):
    reading = figures.recall_by_kind(metrics, KINDS)
    (axes,) = drawn()
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["b (n=4)", "a (n=10)"]
    assert dots(axes) == [(0.5, pytest.approx(0.175)), (0.5, pytest.approx(1.175)), (1.0, pytest.approx(-0.175)),
                          (0.9, pytest.approx(0.825))]  # fmt: skip
    assert bars(axes)[2] == (metrics["qlora"]["recall"]["b"]["low"], metrics["qlora"]["recall"]["b"]["high"])
    assert legend() == [f"untuned, with examples, label bias removed ({LONG})", "QLoRA (qlora)"]
    assert reading == (
        "Lowest recall: **untuned, with examples, label bias removed** finds 50 % (24 to 76) of *a*; **QLoRA** finds "
        "90 % (60 to 98) of *a*."
    )


def test_recall_by_kind_draws_more_runs_than_there_are_colours(metrics):
    figures.recall_by_kind({f"run {number}": metrics["qlora"] for number in range(9)}, KINDS)
    (axes,) = drawn()
    assert len(dots(axes)) == 18 and len(legend()) == 9


def test_reliability_draws_each_bin_at_its_confidence_and_its_share_of_right_answers():
    answers = {"as trained": predict("aaab", "aaaa", 0.9), "corrected": predict("aaab", "aaaa", 0.7)}
    reading = figures.reliability(answers)
    (axes,) = drawn()
    points = [tuple(map(float, dot.get_offsets()[0])) for dot in axes.collections]
    assert points == [(pytest.approx(0.9), 0.75), (pytest.approx(0.7), 0.75)]
    assert [dot.get_sizes()[0] for dot in axes.collections] == [12 + 6 * 4] * 2
    assert list(axes.lines[0].get_xdata()) == list(axes.lines[0].get_ydata()) == [0, 1]
    assert legend() == ["as sure as right", "as trained", "corrected"]
    assert reading == (
        "Mean probability of an answer, and share of right answers: as trained 90 % and 75 % (calibration error 0.15); "
        "corrected 70 % and 75 % (calibration error 0.05)."
    )


def test_risk_coverage_draws_the_accuracy_of_the_surest_answers():
    sure, unsure = predict("aaaaaa", "aaaaab", 0.9), predict("aaaa", "bbbb", 0.6)
    reading = figures.risk_coverage({"qlora": pd.concat([unsure, sure], ignore_index=True)}, target=0.8, kept=0.6)
    (axes,) = drawn()
    curve, target, kept = axes.lines
    assert list(curve.get_xdata()) == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert list(curve.get_ydata()) == pytest.approx([5 / 5, 5 / 6, 5 / 7, 5 / 8, 5 / 9, 5 / 10])
    assert list(target.get_ydata()) == [0.8, 0.8] and list(kept.get_xdata()) == [0.6, 0.6]
    assert legend() == ["QLoRA (qlora)", "target: 80 %", "sure enough: 60 % of the notes"]
    assert reading == "Share of right answers among the surer half, and among all: **QLoRA** 100 % and 50 %."


def cost_of(**arms):
    """Metrics of arms, by (seconds a note, accuracy)."""
    return {arm: {"seconds_per_note": cost, "accuracy": {"value": value}} for arm, (cost, value) in arms.items()}


def test_cost_draws_each_arm_at_its_seconds_and_its_accuracy():
    reading = figures.cost(cost_of(tfidf=(0.002, 0.7), qlora=(0.5, 0.8), majority=(0.0, 0.3)))
    (axes,) = drawn()
    assert dots(axes) == [(1e-7, 0.3), (0.002, 0.7), (0.5, 0.8)] and axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["most frequent kind", "TF-IDF", "QLoRA"]
    assert reading == (
        "The most accurate arm, **QLoRA**, takes 500 ms a note; the fastest, **most frequent kind**, takes 0.0001 ms a "
        "note; the slowest, **QLoRA**, takes 500 ms a note."
    )


@pytest.mark.parametrize("accuracy", [0.0, 0.31, 1.0])
def test_cost_labels_of_arms_that_lie_on_each_other_do_not_overlap(accuracy):
    figures.cost(cost_of(**{f"arm {number}": (0.01, accuracy) for number in range(10)}))
    (axes,) = drawn()
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 for below, above in pairwise(boxes))
    assert boxes[0].y0 >= 0 and boxes[-1].y1 <= axes.get_figure().bbox.y1


LOG = pd.DataFrame(
    {
        "step": [1, 2, 2, 3, 4, 4],
        "loss": [4.0, 2.0, None, 1.0, 0.5, None],
        "learning_rate": [0.0, 1e-3, None, 5e-4, 0.0, None],
        "step_seconds": [0.5, 0.3, None, 0.3, 2.0, None],
        "memory_gb": [1.0, 1.5, 1.5, 1.5, 1.5, 1.5],
        "validation_loss": [None, None, 1.25, None, None, 1.5],
        "validation_macro_f1": [None, None, 0.5, None, None, 0.4],
    }
)


def test_training_curves_draws_losses_macro_f1_and_learning_rate_by_step():
    reading = figures.training_curves({"seed 0": LOG}, best_step=2)
    losses, scores, rates = drawn()
    training, smooth, validation, best = losses.lines
    assert list(training.get_xdata()) == [1, 2, 3, 4] and list(training.get_ydata()) == [4.0, 2.0, 1.0, 0.5]
    assert list(smooth.get_ydata()) == [4.0, 2.0, 1.0, 0.5], "a mean over one step, for so few"
    assert list(validation.get_xdata()) == [2, 4] and list(validation.get_ydata()) == [1.25, 1.5]
    assert list(best.get_xdata()) == [2, 2] and list(scores.lines[0].get_ydata()) == [0.5, 0.4]
    assert list(rates.lines[0].get_ydata()) == [0.0, 1e-3, 5e-4, 0.0]
    assert legend() == ["seed 0: training, running mean", "seed 0: validation", "adapter kept: step 2"]
    assert reading == (
        "**seed 0**: training loss went from 4.00 to 0.50 nats a note, validation loss is lowest at step 2, 1.25."
    )


def test_training_curves_overlays_runs_also_one_that_has_not_been_validated_yet():
    begun = LOG.head(2)[["step", "loss", "learning_rate"]]
    reading = figures.training_curves({"run 1": begun, "run 2": LOG})
    losses, _, _ = drawn()
    assert [list(line.get_xdata()) for line in losses.lines[:3]] == [[1, 2], [1, 2], []]
    assert len({line.get_color() for line in losses.lines}) == 2
    assert reading.startswith("**run 1**: training loss went from 4.00 to 2.00 nats a note; **run 2**: ")


def test_step_seconds_draws_each_step_its_median_and_the_memory():
    reading = figures.step_seconds(LOG)
    seconds, memory = drawn()
    assert list(seconds.lines[0].get_ydata()) == [0.5, 0.3, 0.3, 2.0]
    assert list(seconds.lines[1].get_ydata()) == [0.4, 0.4]
    assert list(memory.lines[0].get_ydata()) == [1.0, 1.5, 1.5, 1.5]
    assert reading == "The median of 4 steps is 0.40 s, the slowest took 2.00 s; memory peaked at 1.50 GB."


@pytest.mark.parametrize("draw", ["accuracies", "recall_by_kind", "confusion_matrices", "risk_coverage", "cost"])
def test_the_longest_name_of_an_arm_fits_into_every_figure(draw, metrics):
    answers = {arm: predict("a" * 10, "a" * 10) for arm in metrics}
    arguments = {
        "recall_by_kind": (metrics, KINDS), "confusion_matrices": (answers, KINDS), "risk_coverage": (answers,),
    }  # fmt: skip
    getattr(figures, draw)(*arguments.get(draw, (metrics,)))
    figure = drawn()[0].get_figure()
    boxes = [Text.get_window_extent(text) for text in figure.findobj(Text) if "removed" in text.get_text()]
    assert boxes
    assert all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1 for box in boxes)
