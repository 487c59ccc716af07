"""Numbers, arms and the verdict in words."""

ARM_NAMES = {  # for people; an arm without a name keeps its identifier
    "majority": "most frequent kind",
    "markup": "length and markup",
    "tfidf": "TF-IDF",
    "embeddings": "sentence embeddings",
    "base": "untuned",
    "base_unbiased": "untuned, label bias removed",
    "base_few_shot": "untuned, with examples",
    "base_few_shot_unbiased": "untuned, with examples, label bias removed",
    "endpoint": "general model",
    "probe": "probe of the frozen base",
    "blend": "probe and TF-IDF together",
    "qlora": "QLoRA",
}
# Words for QLoRA against the best untuned arm, and for the best cheap arm against QLoRA.
VERDICTS = {
    "better": ("fine-tuning helped", "QLoRA beat it"),
    "worse": ("fine-tuning did harm", "QLoRA lost to it"),
    "cannot_tell": ("cannot tell whether fine-tuning helped", "cannot tell it from QLoRA"),
}


def name_of(arm: str) -> str:
    """Name an arm for people."""
    return ARM_NAMES.get(arm, arm)


def say(text: str) -> None:
    """Show a sentence in a notebook as prose (rendered Markdown)."""
    from IPython.display import Markdown, display  # takes time that a command without a notebook need not wait for

    display(Markdown(text))


def state_verdict(accuracy: dict[str, float], tuned: dict, cheap: dict, winner: str) -> str:
    """State the result of a lap in one sentence.

    `accuracy` is {arm: share of right answers}; `tuned` and `cheap` are the pairs of `compare` in which QLoRA is
    compared with the best untuned arm and with the best cheap arm. A base that does worse untuned than always giving
    one answer is no achievement to beat: then the sentence says so.
    """
    before, rival, constant = tuned["a"], cheap["a"], accuracy["majority"]
    lower = f" (always the most frequent kind: {percent(constant)})" if accuracy[before] < constant else ""
    gain, low, high = (_signed_points(tuned["difference"][name]) for name in ("value", "low", "high"))
    return (
        f"{name_of(before)}: {percent(accuracy[before])}{lower} → QLoRA: {percent(accuracy['qlora'])} on {tuned['n']} "
        f"frozen test notes ({gain} points, 95 % interval {low.removeprefix('+')} to {high.removeprefix('+')}): "
        f"{_verdict(tuned, 0)}; {name_of(rival)}: {percent(accuracy[rival])}: {_verdict(cheap, 1)}; new notes are "
        f"sorted by: {name_of(winner)} ({percent(accuracy[winner])})"
    )


def _verdict(pair: dict, place: int) -> str:
    words, more = VERDICTS[pair["verdict"]][place], pair["more_notes"]
    if pair["verdict"] != "cannot_tell" or not more:
        return words
    return f"{words} (about {float(f'{more:.2g}'):,.0f} more test notes, from new sources, would)"


def percent(share: float | None) -> str:
    """Write a share as `48 %`, or as a dash where there is none."""
    return "–" if share is None else f"{points(share)} %"


def points(share: float) -> int:
    """Round a share or a difference of shares to percentage points; never -0."""
    return round(100 * share)


def _signed_points(share: float) -> str:
    """Percentage points with their sign, and with a decimal where they are less than one."""
    return f"{100 * share:+.1f}" if 0 < abs(100 * share) < 0.95 else f"{points(share):+d}"


def points_with_interval(difference: dict) -> str:
    """Write a difference as `+40 points, 95 % interval 27 to 55`."""
    rounded = {name: points(value) for name, value in difference.items()}
    return "{value:+d} points, 95 % interval {low} to {high}".format(**rounded)


def with_interval(rate: dict) -> str:
    """Write a rate as `48 % (38 to 58)`."""
    value, low, high = rate["value"], rate["low"], rate["high"]
    return "–" if value is None else f"{percent(value)} ({points(low)} to {points(high)})"


def hundredths(number: float | None) -> str:
    """Write a number as `0.48`, or as a dash where there is none."""
    return "–" if number is None else f"{number:.2f}"
