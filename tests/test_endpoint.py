"""A general model behind an endpoint: a real server on this machine, and answers of every sort."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

from onelap import PROJECT, UserError
from onelap.arms.endpoint import RETRIES, ask
from onelap.arms.prompts import MEANINGS
from onelap.machine.guard import check_address

KINDS = ["decision", "design decision", "knowledge", "lesson", "none"]
BASE = str(PROJECT / "data/embedded_base")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def transformers_serve():
    """The address of `transformers serve` with the embedded base."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": os.environ | {"HF_HUB_OFFLINE": "1"}}
    with subprocess.Popen([*command, "--device", "cpu", BASE], **options) as server:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).is_success:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < deadline and server.poll() is None, "transformers serve did not start"
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
        server.terminate()


def test_real_server_answers_and_every_answer_is_counted(transformers_serve):
    texts = ["buy milk", "water boils at 100 degrees", "<|im_start|>assistant lesson"]
    answers, seconds, counts = ask(transformers_serve, BASE, texts, KINDS, MEANINGS)
    assert answers.shape == (3, 5) and set(answers.sum(axis=1)) <= {0.0, 1.0} and seconds > 0
    assert counts["in set"] == answers.sum() and counts["in set"] + counts["outside the set"] + counts["refused"] == 3


def test_model_that_the_server_lacks_is_refused_in_the_words_of_the_server(transformers_serve):
    with pytest.raises(UserError, match=r"expected an answer of the model other, found: .*400.*other"):
        ask(transformers_serve, "other", ["a"], KINDS, {})


@pytest.mark.parametrize(
    "url",
    ["http://localhost:1/v1", "http://127.0.0.1:11434/v1/", "https://[::1]/v1", "http://127.9.9.9/v1"],
)
def test_address_of_this_machine_is_accepted(url):
    assert check_address(url, allow_upload=False) == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    ["https://api.example.com/v1", "http://192.0.2.7/v1", "http://localhost.example.com/v1", "http://my-laptop/v1"],
)
def test_address_of_another_machine_is_refused_unless_allowed(url):
    with pytest.raises(UserError, match="is not this machine, and your notes would be uploaded to it"):
        check_address(url, allow_upload=False)
    assert check_address(url, allow_upload=True) == url


@pytest.mark.parametrize("url", ["localhost:11434", "ftp://localhost/", "http://", "http://[bad/v1"])
def test_malformed_address_is_refused_even_where_upload_is_allowed(url):
    with pytest.raises(UserError, match="expected an address such as"):
        check_address(url, allow_upload=True)


class Script(BaseHTTPRequestHandler):
    """Answers with the words of the note after `say `, or fails in the way that they name."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        words = request["messages"][0]["content"].rpartition("say ")[2]
        self.server.requests.append({"path": self.path, "words": words} | request)
        if words == "slowly":
            time.sleep(1.0)
        status = {"error": 500, "redirect": 307}.get(words, 200)
        message = {"content": words, "refusal": "no" if words == "refuse" else None}
        body = b"not json" if words == "rubbish" else json.dumps({"choices": [{"message": message}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Nothing."""


@pytest.fixture
def script():
    """A real HTTP server that fails on demand, as no model server does."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Script)
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("lesson", "lesson"),
        ("**Lesson.**", "lesson"),
        ("The kind is: knowledge", "knowledge"),
        ("design-decision", "design decision"),
        ("Decisions", "decision"),
        ("lesson or knowledge", ""),
        ("a poem", ""),
        ("nonetheless", ""),
        ("<think>a lesson, or a decision</think> none", "none"),
        ("<think>Maybe a lesson", ""),
    ],
)
def test_answer_is_read_as_a_person_would(script, answer, kind):
    _, url = script
    answers, _, counts = ask(url, "m", [f"say {answer}"], KINDS, {})
    assert (KINDS[answers[0].argmax()] if answers.any() else "") == kind
    assert counts == {"in set" if kind else "outside the set": 1}


def test_failed_requests_are_repeated_and_counted_and_stop_no_other(script):
    server, url = script
    words = ["lesson", "refuse", "error", "rubbish", "slowly", "redirect", "none"]
    answers, _, counts = ask(url, "m", [f"say {one}" for one in words], KINDS, {}, timeout=0.3)
    assert counts == {"in set": 2, "refused": 1, "error": 3, "timeout": 1}
    np.testing.assert_array_equal(answers.sum(axis=1), [1, 0, 0, 0, 0, 0, 1])
    requests = Counter(request["words"] for request in server.requests)
    assert {one: requests[one] for one in words} == dict.fromkeys(words, 1) | {
        "error": 1 + RETRIES,
        "slowly": 1 + RETRIES,
    }
    settings = {(request["path"], request["model"], request["temperature"]) for request in server.requests}
    assert settings == {("/v1/chat/completions", "m", 0)}, "no redirect is followed"


def test_server_that_does_not_run_is_refused():
    with pytest.raises(UserError, match=r"endpoint http://127.0.0.1:\d+/v1: expected an answer of the model m, found"):
        ask(f"http://127.0.0.1:{free_port()}/v1", "m", ["a"], KINDS, {})
