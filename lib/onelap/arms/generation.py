"""An answer that is generated and then parsed, as a chat program asks; scoring the kinds is compared with it."""

import re
import time

from onelap.arms.prompts import Prompt
from onelap.machine.names import normalize
from onelap.machine.precision import autocast

ANSWER_TOKENS = 16


def generate(model, prompt: Prompt, texts: list[str], batch_size: int = 1) -> tuple[list[str], float]:
    """Generate the answer to each text, greedily, at most `ANSWER_TOKENS` tokens; returns it and seconds a note."""
    model.eval()
    start, answers = time.perf_counter(), []
    for first in range(0, len(texts), batch_size):
        prompts = [prompt.encode(text) for text in texts[first : first + batch_size]]
        inputs = prompt.tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(model.device)
        with autocast(model):
            output = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
        answers += prompt.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
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
