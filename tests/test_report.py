"""The report as a reader sees it."""

import html
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from onelap.lap.parameters import NOTEBOOKS
from onelap.lap.report import MAIN_FIGURES, _main_figures, _without_places, write_report
from onelap.lap.run import Run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
SILENT = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--dump-dom"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    *("--enable-logging=stderr", "--virtual-time-budget=5000"),
]
LISTEN = "<script>window.wrong = []; window.onerror = message => wrong.push(message);</script>"
LOOK = """<script>
addEventListener("load", () => {
  const box = element => element.getBoundingClientRect(), verdict = document.querySelector("#verdict");
  const images = [...document.images].map(image => ({loaded: image.complete && image.naturalWidth > 0,
    inside: box(image).left >= 0 && box(image).right <= innerWidth, high: box(image).height}));
  const seen = {wrong, images, width: innerWidth, page: document.documentElement.scrollWidth,
    verdict: {text: verdict.innerText, top: box(verdict).top, right: box(verdict).right,
              size: parseFloat(getComputedStyle(verdict).fontSize)},
    paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.body).color,
    requests: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:"))};
  parent.postMessage(JSON.stringify(seen), "*");
});
</script>"""
FRAME = """<body style="margin: 0"><pre id="seen"></pre>
<script>onmessage = told => document.querySelector("#seen").textContent = told.data;</script>
<iframe src="watched.html" style="border: 0; width: {width}px; height: 900px"></iframe>"""  # no window is as narrow


@pytest.fixture(scope="module")
def page(lap, tmp_path_factory):
    """The report of the lap."""
    file = tmp_path_factory.mktemp("report") / "report.html"
    write_report(Run(lap[0]), file)
    return file


class Attributes(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]


def test_report_requests_nothing_from_anywhere(page):
    text = page.read_text(encoding="utf-8")
    found = Attributes(text)
    assert all(link.startswith(("data:", "#")) for link in found.links), found.links
    assert not {"script", "link", "iframe", "object", "base"} & set(found.tags)
    assert "@import" not in text and not re.search(r"url\((?!['\"]?data:)", text)


def test_report_puts_the_result_first_and_folds_the_code_of_the_notebooks(lap, page):
    text = page.read_text(encoding="utf-8")
    sentence = json.loads((lap[0] / "comparison.json").read_text(encoding="utf-8"))["sentence"]
    places = [text.index(f'<section id="{path.stem}">') for path in NOTEBOOKS]
    assert text.index(sentence) < text.index("<img") < places[0] and places == sorted(places)
    folded = re.findall(r'<details class="code"><summary>code</summary>\s*<div class="inner_cell">', text)
    assert len(folded) == text.count('<div class="input_area">') > 50
    assert "No attempt to reach another machine was made." in text
    assert len(text) < 1_000_000


def test_report_shows_the_main_figures_with_their_readings_above_the_notebooks(page):
    above = page.read_text(encoding="utf-8").partition("<section")[0]
    figures = re.findall(
        r'<figure><img src="data:image/svg\+xml;base64,[^"]+" alt="(.*?)"><figcaption>(.*?)</figc', above, re.S
    )
    assert [title for title, _ in figures] == list(MAIN_FIGURES.values())
    accuracies, recalls = (reading for _, reading in figures)
    assert re.search(r"Most often right is <strong>.+?</strong> \w+ \d+ %", accuracies), accuracies
    assert re.search(r"<strong>QLoRA</strong> finds \d+ %", recalls), recalls


def test_report_names_each_arm_and_marks_the_tuned_one(page):
    above = page.read_text(encoding="utf-8").partition("<section")[0]
    (chosen,) = re.findall(r'<tr class="chosen"><td>(.*?)</td><td>(.*?)</td>', above)
    assert chosen == ("QLoRA", "qlora") and "<td>untuned, label bias removed</td><td>base_unbiased</td>" in above


def test_main_figures_are_found_by_tag_whatever_the_cell_calls(notebook):
    path = notebook("05_compare", 'run_dir: str = "."  # folder', "draw()", "figures.accuracies(metrics)")
    cells = nbformat.read(path, as_version=4)
    for cell in cells.cells[1:]:
        outputs = {"image/png": "aGk="}, {"text/markdown": "**most** 5 %"}
        cell.outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    cells.cells[1].metadata["tags"] = ["figure:accuracies"]
    (figure,) = _main_figures(cells.cells)
    assert figure["title"] == MAIN_FIGURES["figure:accuracies"] and figure["image"] == "data:image/png;base64,aGk="
    assert figure["reading"].strip() == "<p><strong>most</strong> 5 %</p>"


def seen(page, tmp_path, width, *options):
    """What a browser makes of it."""
    text = page.read_text(encoding="utf-8")
    watched = tmp_path / "watched.html"
    text = text.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"{LOOK}</body>")
    watched.write_text(text, encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    command = [BROWSER, *SILENT, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1600,1000"]
    result = subprocess.run([*command, frame.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert not re.search(r"CONSOLE.*(rror|refused|blocked)", result.stderr), result.stderr
    found = re.search(r'<pre id="seen">(.*?)</pre>', result.stdout, re.DOTALL)
    assert found, result.stdout[-500:] + result.stderr[-500:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
@pytest.mark.parametrize("width", [400, 1400])
def test_report_shows_verdict_and_figures_in_a_browser(page, tmp_path, width):
    shown = seen(page, tmp_path, width)
    assert shown["wrong"] == [] and shown["requests"] == []
    assert shown["width"] == width and shown["page"] <= width, "it scrolls sideways"
    assert "frozen test notes" in shown["verdict"]["text"]
    assert shown["verdict"]["top"] < 150 and shown["verdict"]["right"] <= width and shown["verdict"]["size"] >= 16
    assert len(shown["images"]) >= 15
    assert all(image["loaded"] and image["inside"] and image["high"] > 80 for image in shown["images"])


@pytest.mark.skipif(not BROWSER, reason="no Chromium here")
def test_report_is_dark_where_the_reader_prefers_it(page, tmp_path):
    light = seen(page, tmp_path, 1000, "--blink-settings=preferredColorScheme=1")
    dark = seen(page, tmp_path, 1000, "--blink-settings=preferredColorScheme=0")
    paper, ink = ([brightness(shown[part]) for shown in (light, dark)] for part in ("paper", "ink"))
    assert paper[0] > 700 > 200 > paper[1] and ink[0] < 200 < 600 < ink[1]


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_without_places_shortens_paths_of_this_machine_and_nothing_else(monkeypatch):
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/home/ann"))
    assert _without_places("/home/ann/vault, /home/anna/x, '/home/ann'") == "~/vault, /home/anna/x, '~'"
    monkeypatch.setattr("pathlib.Path.home", lambda: Path("/"))
    assert _without_places("<p>/etc/</p>") == "<p>/etc/</p>"


def test_report_of_a_failed_run_says_why_it_has_no_result(lap, onelap, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "params.yaml", "01_data_prep.ipynb"):
        shutil.copy(lap[0] / name, run)
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    record |= {"status": "failed", "error": "the <river> rose"}
    (run / "run.json").write_text(json.dumps(record), encoding="utf-8")
    result = onelap("report", run)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(run / "report.html")
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "This run has no result: the &lt;river&gt; rose." in text and '<section id="01_data_prep">' in text


def test_report_to_a_place_that_cannot_be_written_is_one_clear_line(lap, complaint, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert "cannot be written" in complaint("report", lap[0], "--out", tmp_path / "file/report.html")
