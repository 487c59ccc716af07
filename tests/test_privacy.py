"""Nothing leaves the machine, and notes' words stay in the dataset."""

import ast
import http.server
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading

import nbformat
import pytest
import yaml

from onelap import PROJECT, NotebookFailed
from onelap.lap.parameters import read_parameters
from onelap.lap.run import Run
from onelap.lap.runner import run_lap
from onelap.machine import guard
from onelap.machine.redact import WITHHELD, pieces_of, without
from tests.conftest import ALONE, CANARY, alone, toy_notes, write_jsonl

ELSEWHERE = "192.0.2.1"  # of a network that is kept for documentation (RFC 5737)
WORDS = CANARY.split()


# The guard


def in_a_process(code: str) -> subprocess.CompletedProcess:
    """Whoever closes the guard cannot take its hook out: not in the tests' own process."""
    start = "import socket, sys\nfrom pathlib import Path\nfrom onelap import guard\nguard.close()\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "attempt",
    [
        f"socket.create_connection(('{ELSEWHERE}', 80), timeout=1)",
        f"socket.socket().connect_ex(('{ELSEWHERE}', 80))",
        f"socket.socket(type=socket.SOCK_DGRAM).sendto(b'words', ('{ELSEWHERE}', 53))",
        "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))",
        "socket.getaddrinfo('example.org', 80)",
        "socket.gethostbyname('example.org')",
        f"socket.gethostbyaddr('{ELSEWHERE}')",
        "__import__('urllib.request').request.urlopen('http://example.org', timeout=1)",
        "__import__('httpx').get('http://example.org', timeout=1)",
        f"socket.socket().connect((bytearray(b'{ELSEWHERE}'), 80))",
    ],
)
def test_what_is_beyond_this_machine_is_refused_and_written_down(attempt, tmp_path):
    result = in_a_process(f"guard.record_in(Path({str(tmp_path)!r}))\n{attempt}")
    assert result.returncode != 0 and "beyond this machine, and nothing here may reach it" in result.stderr
    (line,) = guard.refused(tmp_path)
    assert line.split()[-1] in (ELSEWHERE, "2001:db8::1", "example.org")


def test_a_proxy_on_this_machine_is_no_way_out(tmp_path):
    """It would pass on what it is given: it is not asked."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_CONNECT = do_POST = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    ask = "import os, urllib.request, httpx\n" + "".join(
        f"try:\n    {call}('http://example.org/words', timeout=2)\nexcept Exception:\n    print('refused')\n"
        for call in ("urllib.request.urlopen", "httpx.get")
    )
    code = f"import os\nfor name in ('http_proxy', 'HTTP_PROXY', 'ALL_PROXY'): os.environ[name] = '{address}'\n"
    start = code + "import socket, sys\nfrom onelap import guard\nguard.close()\n"
    result = subprocess.run([sys.executable, "-c", start + ask], capture_output=True, text=True, timeout=60)
    server.shutdown()
    assert asked == [] and result.stdout.count("refused") == 2, result.stderr


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "::ffff:127.0.0.1", "ip6-localhost", "127.0.0.2"]
)
def test_the_loopback_has_many_names(host):
    assert guard.is_this_machine(host)


def test_this_machine_is_reached():
    code = """
server = socket.create_server(("127.0.0.1", 0))
for host in ("127.0.0.1", "localhost"):
    socket.create_connection((host, server.getsockname()[1]), timeout=5).close()
socket.getaddrinfo(None, 80), socket.getaddrinfo("localhost", 80)
for refused in (1, 2):
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    except guard.Refused:
        print(refused)
"""
    result = in_a_process(code)
    assert (result.returncode, result.stdout) == (0, "1\n2\n"), result.stderr


def test_what_the_user_has_allowed_is_let_through():
    """The refusal that comes then is the system's or the network's."""
    code = "with guard.opened():\n    socket.create_connection(('192.0.2.1', 80), timeout=1)"
    result = in_a_process(code)
    assert result.returncode != 0 and "guard.Refused" not in result.stderr


@pytest.mark.parametrize("notebook_stem", ["01_data_prep", "02_baseline", "03_train", "04_evaluate", "05_compare"])
def test_every_notebook_closes_it_before_anything_else(notebook_stem):
    notebook = nbformat.read(PROJECT / f"notebooks/{notebook_stem}.ipynb", as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert code[1].startswith("from onelap import guard\n\nguard.close()")


def test_an_attempt_in_a_notebook_is_in_the_record(notebook, tmp_path):
    run = Run.create("toy", {}, tmp_path / "run")
    cell = f"""
from onelap import guard
from onelap.runs import Run
guard.close()
Run.open(run_dir)
import socket
try:
    socket.create_connection(("{ELSEWHERE}", 80))
except ConnectionError:
    pass
"""
    run_lap(run, {}, [notebook("01_one", 'run_dir: str = "."  # folder', cell)])
    assert run.record["network"] == {"refused": 1}
    assert guard.refused(run.path) == [f"getaddrinfo {ELSEWHERE}"]


@pytest.mark.parametrize(
    "command", ["run x", "sort x", "label x", "plan x", "export x y", "report x", "runs", "doctor", "fetch x"]
)
def test_every_command_but_fetch_closes_it(command):
    """Each is replaced by one that says whether it may go out."""
    name = command.split()[0]
    code = f"""
from onelap import cli, commands, guard
def told(options):
    print("closed" if guard._guard.closed else "open")
told.__name__ = "{name}"
commands.{name} = told
cli.main({command.split()!r})
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout.strip() == ("open" if name == "fetch" else "closed"), result.stderr


# Without a network, and the canary


@pytest.mark.skipif(not alone(), reason="this system lets users make no network namespace")
def test_a_lap_and_a_sort_need_no_network(lap, onelap, tmp_path):
    """The lap of these tests was made in such a network, and this sort is."""
    out = subprocess.run(
        [*ALONE, sys.executable, "-c", f"import socket; socket.create_connection(('{ELSEWHERE}', 80), timeout=5)"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "Network is unreachable" in out.stderr, "the namespace has a way out"
    notes = write_jsonl(tmp_path / "notes.jsonl", toy_notes(3))
    result = onelap("sort", notes, "--run", lap[0], before=ALONE)
    assert result.returncode == 0 and len(result.stdout.splitlines()) == 3
    assert json.loads((lap[0] / "run.json").read_text(encoding="utf-8"))["network"] == {"refused": 0}


def test_the_notes_words_are_in_the_dataset_and_nowhere_else(lap, onelap, tmp_path):
    """Run folder, home, temporary folders, report and export; in the encodings that Python and JSON write."""
    folder, result = lap
    report, model = tmp_path / "report.html", tmp_path / "model"
    assert onelap("report", folder, "--out", report).returncode == 0
    assert onelap("export", folder, model).returncode == 0
    home = folder.parent.parent
    places = [home / "outputs", home / "splits", home / "home", home / "temporary", tmp_path]
    looked_at = [path for place in places for path in place.rglob("*") if path.is_file()]
    found = {path for path in looked_at if quotes_the_canary(path.read_bytes())}
    assert found == {folder / "dataset/train.jsonl", folder / "dataset/test.jsonl"}, "validation has single notes only"
    assert len(looked_at) > 50 and not quotes_the_canary((result.stdout + result.stderr).encode())


def quotes_the_canary(data: bytes) -> bool:
    return any(word.encode(encoding) in data for word in WORDS[:1] + WORDS[3:] for encoding in ("utf-8", "utf-16-le"))


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_run_is_readable_by_its_owner_only(lap):
    made = [lap[0], *lap[0].rglob("*"), *(lap[0].parent.parent / "splits").rglob("*")]
    open_to_others = [path for path in made if path.stat().st_mode & 0o077]
    assert open_to_others == []


# A cell that fails


FAILING = {
    "an exception that quotes": "raise ValueError(text)",
    "its representation": "raise KeyError(text)",
    "half of it": "raise TypeError(f'expected a number, found {text[9:40]!r}')",
    "a chain of exceptions": "try:\n    {}[text]\nexcept KeyError as error:\n    raise RuntimeError('gone') from error",
    "what was printed before": "print(text)\nraise RuntimeError('later')",
    "in capitals": "raise ValueError(text.upper())",
    "as JSON": "raise ValueError(json.dumps(text))",
    "what was shown before": "import pandas\ndisplay(pandas.DataFrame([text]))\nraise RuntimeError('later')",
    "a library's": "import json\njson.loads('{\"' + text)\nint(text)",
}


@pytest.mark.parametrize("cell", FAILING.values(), ids=FAILING)
def test_a_cell_that_fails_does_not_quote_a_note(cell, notebook, tmp_path):
    notes = [{"text": f"{CANARY}, {number} times\nover “again”", "kind": kind} for number, kind in enumerate("ab" * 5)]
    parameters, _ = read_parameters(None)
    parameters |= {"notes_path": str(write_jsonl(tmp_path / "notes.jsonl", notes)), "kinds": "a, b"}
    run = Run.create("toy", parameters, tmp_path / "run")
    read = f"import json\nfor line in open({parameters['notes_path']!r}):\n    text = json.loads(line)['text']"
    source = notebook("01_one", 'run_dir: str = "."  # folder', read, cell)
    with pytest.raises(NotebookFailed) as failure:
        run_lap(run, parameters, [source])
    written = (run.path / "01_one.ipynb").read_text(encoding="utf-8")
    for word in WORDS[:1] + WORDS[3:]:
        assert word not in str(failure.value) and word not in written and word not in run.record_path.read_text()
    assert "Error" in str(failure.value) and "Traceback" in written


def test_a_kind_that_is_a_note_is_not_shown(onelap, tmp_path):
    """Where the wrong field was named."""
    notes = write_jsonl(tmp_path / "notes.jsonl", [{"text": f"{CANARY} {n}", "kind": "value"} for n in range(40)])
    run = tmp_path / "run"
    result = onelap("run", "params/embedded.yaml", "--run", run, "-p", f"notes_path={notes}", "-p", "kind_field=text")
    assert result.returncode == 2 and "a text of 47 characters in row" in result.stderr
    for file in [path for path in run.rglob("*") if path.is_file()]:
        assert not quotes_the_canary(file.read_bytes().lower().replace(b"zwiesel", b"Zwiesel")), file
    assert "ostler" not in result.stderr


def test_an_interrupt_while_words_are_withheld_leaves_no_notebook(notebook, tmp_path, monkeypatch):
    notes = write_jsonl(tmp_path / "notes.jsonl", [{"text": CANARY, "kind": "a"}])
    parameters = read_parameters(None)[0] | {"notes_path": str(notes), "kinds": "a, b"}
    run = Run.create("toy", parameters, tmp_path / "run")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("onelap.runner.withhold", interrupted)
    source = notebook("01_one", 'run_dir: str = "."  # folder', f"raise ValueError(open({str(notes)!r}).read())")
    with pytest.raises(KeyboardInterrupt):
        run_lap(run, parameters, [source])
    assert not list(run.path.rglob("*.ipynb"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quit my job", "ValueError: 'Quit my job' is no number"),
        ("妻と離婚を決めた。", "KeyError: '離婚を決めた'"),
        ("Über Öl und Äpfel in Köln", 'bad row: "\\u00dcber \\u00d6l und \\u00c4pfel in K\\u00f6ln"'),
    ],
)
def test_short_foreign_and_escaped_words_are_withheld_too(text, said):
    left = without(said, pieces_of(said, [text]))
    assert WITHHELD in left and not any(word in left for word in ("job", "離婚", "pfel"))


def test_only_a_notes_words_are_withheld():
    said = "TypeError: expected str, found 'the river took the old bridge' in line 7"
    texts = ["In spring the river took the old bridge away."]
    assert without(said, pieces_of(said, texts)) == f"TypeError: expected str, found '{WITHHELD}' in line 7"
    assert without(said, pieces_of(said, ["nothing of that"])) == said


# Downloads


@pytest.fixture
def hub(toy_base):
    """A hub on this machine that gives out the toy base, and the requests it got."""
    commit, requests = "0123456789abcdef0123456789abcdef01234567", []
    files = [path.name for path in toy_base.iterdir()]

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.answer(False)

        def do_GET(self):
            self.answer(True)

        do_POST = do_PUT = do_GET

        def answer(self, with_body):
            requests.append((self.path, str(self.headers)))
            if self.path.startswith("/api/models/"):
                listed = {"id": "toy/base", "sha": commit, "siblings": [{"rfilename": name} for name in files]}
                tree = [{"type": "file", "path": name, "size": 1, "oid": name} for name in files]
                body = json.dumps(tree if "/tree/" in self.path else listed).encode()
            else:
                body = (toy_base / self.path.rpartition("/")[2]).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hash(body)}"')
            self.send_header("X-Repo-Commit", commit)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", commit, requests
    server.shutdown()


def test_fetch_tells_the_hub_a_name_and_a_revision(hub, onelap, toy_base, toy_params, tmp_path):
    address, commit, requests = hub
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hub")}
    environment.pop("HF_HUB_OFFLINE", None)
    wanted = ["-p", f"base_model=toy/base@{commit}"]
    missing = onelap("run", toy_params, *wanted, env=environment)
    assert missing.returncode == 2
    assert f"`onelap fetch {toy_params} -p base_model=toy/base@{commit}` downloads it" in missing.stderr
    assert requests == [], "only fetch may ask"
    result = onelap("fetch", toy_params, *wanted, env=environment)
    assert result.returncode == 0, result.stderr
    for path, headers in requests:
        told = re.fullmatch(
            rf"/(?:api/models/)?toy/base/(?:revision|resolve|tree)/{commit}(?:/([\w.-]+))?(?:\?.*)?", path
        )
        assert told and (told[1] is None or (toy_base / told[1]).exists()), path
        assert str(tmp_path) not in headers and "notes" not in headers
    base = result.stdout.strip()
    assert commit in base and pathlib.Path(f"{base}/model.safetensors").exists()
    planned = onelap("plan", toy_params, *wanted, env=environment | {"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert planned.returncode == 0 and "some real steps say" in planned.stdout, planned.stderr


def test_a_missing_base_says_what_to_type_and_how_much_it_is(onelap):
    result = onelap("run", "params/llama31_8b_12gb.yaml", "-p", "notes_path=data/sample_notes")
    assert result.returncode == 2
    assert "`onelap fetch params/llama31_8b_12gb.yaml` downloads it, 16.1 GB" in result.stderr


@pytest.mark.parametrize("params", sorted((PROJECT / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_from_the_hub_is_pinned_to_a_commit(params):
    name = yaml.safe_load(params.read_text(encoding="utf-8"))["base_model"]
    assert (PROJECT / name).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", name)


# What is not in the code


FORBIDDEN = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}


def code_of(path):
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return path.read_text(encoding="utf-8")


def test_no_pickle_no_remote_code_no_shell_and_yaml_safely():
    sources = [path for folder in ("lib", "notebooks", "tools", "benchmarks") for path in (PROJECT / folder).rglob("*")]
    for path in (path for path in sources if path.suffix in (".py", ".ipynb") and ".ipynb_" not in str(path)):
        for node in ast.walk(ast.parse(code_of(path))):
            where = f"{path}, line {getattr(node, 'lineno', '?')}"
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
                assert not names & FORBIDDEN, where
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                assert called not in ("eval", "exec", "os.system", "os.popen"), where
                assert "shell" not in options and options.get("trust_remote_code", "False") == "False", where
                if called.startswith("Auto") and called.endswith(".from_pretrained") and "lib" in path.parts:
                    assert "trust_remote_code" in options or "**options" in ast.unparse(node), where
                assert called != "torch.load" or options.get("weights_only") == "True", where
                assert called != "yaml.load" or ast.unparse(node.args[1]) == "_YAML", where
                assert called not in ("yaml.unsafe_load", "yaml.full_load"), where


def test_the_yaml_loader_makes_no_objects():
    from onelap.notes.markup import split_front_matter

    head, _, _ = split_front_matter("---\nkind: !!python/object/apply:os.system ['touch gone']\n---\ntext")
    assert not isinstance(head.get("kind"), int)


def test_a_socket_pair_is_no_network():
    """So that the guard's own tests know what they look at."""
    assert guard.is_this_machine("127.0.0.1") and guard.is_this_machine("::1") and not guard.is_this_machine(ELSEWHERE)
    assert guard.is_this_machine(socket.gethostbyname("localhost"))
