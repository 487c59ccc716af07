"""A general model behind an OpenAI-compatible endpoint on this machine: Ollama, llama.cpp, vLLM, transformers serve.

It is asked as one asks a chat model, and its answer is parsed; what cannot be parsed is counted,
not hidden. Notes go to this machine's own addresses only, unless the user allows otherwise.
"""

import re
import time
from collections import Counter
from contextlib import nullcontext
from urllib.parse import urlsplit

import httpx
import numpy as np

from onelap import UserError
from onelap.discretion import pieces_of, without
from onelap.generation import ANSWER_TOKENS, parse_answer
from onelap.guard import is_here, opened
from onelap.prompts import question

TIMEOUT = 60.0  # seconds a request; a first one may load the model
ATTEMPTS = 3


def check_address(url: str, allow_upload: bool) -> str:
    """The endpoint's address without a slash at the end. Raises UserError for one beyond this machine.

    Only `localhost` and addresses in numbers are taken for this machine: a name would have to be
    looked up, and may mean another machine next time.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"endpoint: expected an address such as http://localhost:11434/v1, found {url}")
    if not allow_upload and not is_here(parts.hostname):
        raise UserError(
            f"endpoint: {parts.hostname} is not this machine, and your notes would be uploaded to it; use an address "
            "such as http://localhost:11434/v1, or set allow_upload: true"
        )
    return url.rstrip("/")


def ask(
    url: str, model: str, texts: list[str], kinds: list[str], definitions: dict[str, str], timeout: float = TIMEOUT
) -> tuple[np.ndarray, float, Counter]:
    """Ask for the kind of every text, one after the other.

    Returns (notes, kinds) with a one for the kind that was answered and only zeros where none
    was; seconds a note; and how often what happened: `in set`, `outside the set`, `refused`,
    `timeout`, `error`, and `retries`. Raises UserError where the first note gets no reply at all.
    """
    answered, counts = np.zeros((len(texts), len(kinds))), Counter()
    start = time.perf_counter()
    # No proxy from the environment, no redirect: what is sent goes to this address and no further.
    client = httpx.Client(timeout=timeout, trust_env=False, follow_redirects=False)
    # It is another machine's only where `check_address` was told that it may be.
    with client, nullcontext() if is_here(urlsplit(url).hostname) else opened():
        for row, text in enumerate(texts):
            content, what = _reply(client, url, model, question(kinds, definitions, text), counts)
            if row == 0 and what in ("timeout", "error"):
                raise UserError(f"endpoint {url}: expected an answer of the model {model}, found: {content}")
            kind = parse_answer(content, kinds) if what == "answered" else ""
            counts[what if what != "answered" else "in set" if kind else "outside the set"] += 1
            if kind:
                answered[row, kinds.index(kind)] = 1.0
    return answered, (time.perf_counter() - start) / len(texts), counts


def _without_the_note(answer: str, prompt: str) -> str:
    """The beginning of what a server says of an error; some say what they were sent."""
    return without(answer, pieces_of(answer, [prompt]))[:200]


def _reply(client: httpx.Client, url: str, model: str, prompt: str, counts: Counter) -> tuple[str, str]:
    """(answer or reason, `answered`, `refused`, `timeout` or `error`), after some attempts."""
    request = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS,
        "stream": False,
    }
    for attempt in range(ATTEMPTS):
        counts["retries"] += attempt > 0
        try:
            response = client.post(f"{url}/chat/completions", json=request)
            response.raise_for_status()
            choice = response.json()["choices"][0]
            content = choice["message"].get("content") or ""
            if choice["message"].get("refusal") or choice.get("finish_reason") == "content_filter":
                return "", "refused"
            return re.sub(r"<think>.*?(?:</think>|\Z)", "", content, flags=re.DOTALL), "answered"
        except httpx.TimeoutException:
            failed = f"no answer within {client.timeout.read:g} seconds", "timeout"
        except httpx.HTTPStatusError as error:
            failed = f"status {error.response.status_code}: {_without_the_note(error.response.text, prompt)}", "error"
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            ValueError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
        ) as error:
            failed = str(error) or type(error).__name__, "error"
    return failed
