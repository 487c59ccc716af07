"""A general model behind an OpenAI-compatible endpoint on this machine: Ollama, llama.cpp, vLLM, transformers serve.

It is asked as one asks a chat model, and its answer is parsed. An answer that cannot be parsed is counted, not hidden.
Notes go to this machine's own addresses only, unless the user allows otherwise.
"""

import re
import time
from collections import Counter
from contextlib import nullcontext
from functools import partial
from urllib.parse import urlsplit

import numpy as np

from onelap import UserError
from onelap.arms.prompts import Prompt, question
from onelap.machine.guard import allow_network, is_this_machine
from onelap.machine.names import normalize
from onelap.machine.precision import autocast

ANSWER_TOKENS = 16  # that are generated, and parsed
TIMEOUT = 60.0  # seconds a request; a first one may load the model
RETRIES = 2  # of a request that got no answer
MAX_QUOTED = 200  # characters of a server's error
TRIAL_NOTE = "Milk, eggs, call the dentist."  # asked first: what a server says of it may be shown, it quotes no note


def ask(
    url: str, model: str, texts: list[str], kinds: list[str], definitions: dict[str, str], timeout: float = TIMEOUT
) -> tuple[np.ndarray, float, Counter]:
    """Ask for the kind of every text, one after the other.

    Returns (notes, kinds) with a one for the kind of each answer, and zeros where none was given; seconds a note; and
    counts of `in set`, `outside the set`, `refused`, `timeout`, `error`. Raises UserError where a trial question fails.
    """
    import openai  # takes a second, which checking an address need not wait for

    # No proxy from the environment and no redirect: what is sent goes to this address and no further.
    transport = openai.DefaultHttpxClient(trust_env=False, follow_redirects=False)
    client = openai.OpenAI(base_url=url, api_key="none", timeout=timeout, max_retries=RETRIES, http_client=transport)

    def reply(text: str) -> tuple[str, str]:
        """(answer, `answered` or `refused`); raises OpenAIError, or what a malformed answer leads to."""
        messages = [{"role": "user", "content": question(kinds, definitions, text)}]
        options = {"temperature": 0, "max_tokens": ANSWER_TOKENS}
        choice = client.chat.completions.create(model=model, messages=messages, **options).choices[0]
        if choice.message.refusal or choice.finish_reason == "content_filter":
            return "", "refused"
        return re.sub(r"<think>.*?(?:</think>|\Z)", "", choice.message.content or "", flags=re.DOTALL), "answered"

    answers, counts = np.zeros((len(texts), len(kinds))), Counter()
    # The endpoint is beyond this machine only where `check_address` was told that it may be.
    with client, nullcontext() if is_this_machine(urlsplit(url).hostname) else allow_network():
        try:
            reply(TRIAL_NOTE)
        except Exception as error:
            reply_text = getattr(error, "body", None) or error.__cause__ or error  # the server's words, else the reason
            problem = " ".join(f"{getattr(error, 'status_code', '')} {reply_text}".split())[:MAX_QUOTED]
            raise UserError(f"endpoint {url}: expected an answer of the model {model}, found: {problem}") from None
        start = time.perf_counter()
        for row, text in enumerate(texts):
            try:
                answer, outcome = reply(text)
            except openai.APITimeoutError:
                answer, outcome = "", "timeout"
            except Exception:  # whatever the client makes of a server's answer
                answer, outcome = "", "error"
            kind = parse_answer(answer, kinds)
            counts[outcome if outcome != "answered" else "in set" if kind else "outside the set"] += 1
            if kind:
                answers[row, kinds.index(kind)] = 1.0
    return answers, (time.perf_counter() - start) / len(texts), counts


def generate(model, prompt: Prompt, texts: list[str], batch_size: int = 1) -> tuple[list[str], float]:
    """Let the model write up to `ANSWER_TOKENS` tokens about each text; returns answers, and seconds a note."""
    model.eval()
    decode = partial(prompt.tokenizer.batch_decode, skip_special_tokens=True)
    written = dict(zip(prompt.answers, decode(list(prompt.answers.values())), strict=True))
    letters = {token: kind for kind, token in prompt.answer_tokens.items() if written[kind].strip() != kind}
    start, answers = time.perf_counter(), []
    for first in range(0, len(texts), batch_size):
        prompts = [prompt.encode(text) for text in texts[first : first + batch_size]]
        inputs = prompt.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
        with autocast(model):
            output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        answers += [letters.get(row[0], text) for row, text in zip(new.tolist(), decode(new), strict=True)]
    return answers, (time.perf_counter() - start) / len(texts)


def parse_answer(answer: str, kinds: list[str]) -> str:
    """Find the one kind that an answer names; empty where it names none or several."""
    words = _words(answer)
    named = {kind for kind in kinds if re.search(rf"(?<![a-z]){re.escape(_words(kind))}s?(?![a-z])", words)}
    # "design decision" names "decision" too: the longer one is meant.
    named = {kind for kind in named if not any(kind != other and kind in other for other in named)}
    return named.pop() if len(named) == 1 else ""


def _words(text: str) -> str:
    return normalize(re.sub(r"[\W_]+", " ", text))
