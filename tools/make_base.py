"""Train the embedded base model from scratch: `make base`.

A Qwen2-architecture causal model of about 5 million parameters that lets the whole lap run
on a CPU with nothing to download. It learns from text that every installation has at hand:
the prose in the docstrings of the standard library and of the installed packages, and the
passages in `data/base_corpus/`, written for this project. It has never seen the sample
notes.

Each step mixes three kinds of sequences:

- docstring prose, so that there is enough text to learn English from;
- the project's own everyday prose, English and Japanese, because docstrings are a narrow diet;
- chats in the words of the lap's own prompt that ask from which of a few packages a docstring
  comes, or on which of a few shelves (the names of the files) a passage of ours stands. So the
  base knows its chat template and has learnt to weigh a whole text before it answers in a word
  that it is offered. The kinds of notes are never among them.

Beside the next token the model learns to gather: at some positions, those before an answer
first, an auxiliary head must tell the rare tokens of the whole text (as a model of documents
does, Le and Mikolov 2014, https://arxiv.org/abs/1405.4053). Reading left to right alone, so
small a model knows the topic on average over a text's tokens but not at the place where the
answer is due; docs/LOG.md has the figures.

Optimizer: Muon for the hidden matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/),
AdamW for the rest; linear warm-up and cool-down; bfloat16 autocast.
"""

import argparse
import ast
import hashlib
import json
import math
import random
import re
import sys
import sysconfig
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from onelap.arms.prompts import INSTRUCTION

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "data" / "base_corpus"
TARGET = ROOT / "data" / "embedded_base"

VOCABULARY = 8192
CONTEXT = 256  # tokens a training sequence; rotary positions reach further
BATCH = 32  # sequences a step
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MIXTURE = {"docstrings": 0.25, "own": 0.40, "chats": 0.35}  # shares of the sequences of a step
ANSWER_WEIGHT = 10.0  # of an answer's tokens in the loss; they are one in fifty of a chat's
GATHERING_WEIGHT = 0.5  # of the auxiliary loss beside the next token's
GATHERING_POSITIONS = 32  # of each sequence at which the auxiliary loss is taken
COMMON_TOKENS = 300  # the most frequent ones, which tell nothing of a text
HELD_OUT_ONE_IN = 50  # texts kept out of training, to measure perplexity


def read_docstrings() -> dict[str, str]:
    """Prose of every docstring on this machine, as {text: package it came from}."""
    prose: dict[str, str] = {}
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            inside = path.relative_to(folder)
            if inside.parts[0] == "site-packages" or "tests" in inside.parts:
                continue
            package = re.sub(r"\W|_", " ", inside.parts[0].removesuffix(".py")).strip()
            for docstring in _docstrings_of(path):
                text = _prose_of(docstring)
                if text:
                    prose.setdefault(text, package)
    return prose


def _docstrings_of(path: Path) -> list[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return []
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return [text for text in found if text]


def _prose_of(docstring: str) -> str:
    """The paragraphs that read like sentences; tables, doctests and parameter lists are dropped."""
    kept = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        words = paragraph.split()
        plain = sum(bool(re.fullmatch(r"[A-Za-z][a-z'’-]*[.,;:!?)]?", word)) for word in words)
        if len(words) >= 10 and plain >= 0.75 * len(words) and ">>>" not in paragraph:
            kept.append(re.sub(r"[ \t]*\n[ \t]*", " ", paragraph).strip())
    return "\n\n".join(kept)


def read_own_passages() -> dict[str, str]:
    """Passages of `data/base_corpus/<shelf>_<n>.txt`, separated by a line `%%`, as {text: shelf}."""
    passages = {}
    for path in sorted(CORPUS.glob("*.txt")):
        for passage in re.split(r"^%%\s*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if passage.strip():
                passages[passage.strip()] = path.stem.partition("_")[0]
    return passages


def train_tokenizer(docstrings: list[str], own: list[str]) -> Qwen2Tokenizer:
    """Byte-level BPE: any text survives, Japanese included.

    It splits text by the rules of Qwen2Tokenizer, because that is the class which AutoTokenizer
    gives a model of this architecture, whatever rules its file says.
    """
    rules = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer, tokenizer.pre_tokenizer = rules.normalizer, rules.pre_tokenizer
    special = [END_OF_TEXT, TURN_START, TURN_END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Own prose counts three times, so that everyday words and Japanese get tokens of their own.
    tokenizer.train_from_iterator(own * 3 + docstrings[:: max(1, len(docstrings) // 20_000)], trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=[tuple(pair) for pair in learnt["merges"]],
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=1024,
    )


Stream = tuple[np.ndarray, np.ndarray]
"""Token ids and their weights in the loss, one row each."""


def stream(texts: list[tuple[str, str]], tokenizer: Qwen2Tokenizer) -> Stream:
    """All (text, answer) pairs in one row, each closed by the end-of-text token."""
    ids, weights = [], []
    prompts = tokenizer([text for text, _ in texts], verbose=False)["input_ids"]
    answers = tokenizer([answer + END_OF_TEXT for _, answer in texts])["input_ids"]
    for prompt, answer in zip(prompts, answers, strict=True):
        ids += prompt + answer
        weights += [1.0] * len(prompt) + [ANSWER_WEIGHT] * (len(answer) - 1) + [1.0]
    return np.array(ids, dtype=np.uint16), np.array(weights, dtype=np.float32)


def plain(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Texts without an answer."""
    return [(text, "") for text in texts]


def chats(origins: dict[str, str], tokenizer: Qwen2Tokenizer, rng: random.Random, each: int) -> list[tuple[str, str]]:
    """(prompt, answer): from which of a few places is this text? `origins` is {text: place}.

    Every place with at least 60 texts gets `each` questions, so that the answer does not follow
    from how much of the text there is of one.
    """
    by_place: dict[str, list[str]] = {}
    for text, place in origins.items():
        by_place.setdefault(place, []).append(text)
    places = [place for place, texts in by_place.items() if len(texts) >= 60]
    pairs = []
    for place in places:
        for text in rng.choices(by_place[place], k=each):
            others = rng.sample([other for other in places if other != place], rng.randint(2, 6))
            request = INSTRUCTION.format(
                kinds=", ".join(sorted([place, *others])), answer="kind", note=excerpt_of(text, rng)
            )
            pairs.append((_request(request, tokenizer), place + TURN_END))
    return pairs


def _request(content: str, tokenizer: Qwen2Tokenizer) -> str:
    messages = [{"role": "user", "content": content}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def excerpt_of(text: str, rng: random.Random) -> str:
    """Up to 90 words, or 200 characters of a language that writes without spaces, from anywhere in the text."""
    words = text.split(" ")
    if len(words) > len(text) / 20:
        length = rng.randint(15, 90)
        start = rng.randint(0, max(0, len(words) - length))
        return " ".join(words[start : start + length])
    length = rng.randint(40, 200)
    start = rng.randint(0, max(0, len(text) - length))
    return text[start : start + length]


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Token ids and loss weights, both (BATCH, CONTEXT), and gathering positions, (BATCH, GATHERING_POSITIONS)."""


def batch_of(streams: dict[str, Stream], rng: np.random.Generator) -> Batch:
    """Sequences drawn from the streams by their shares; positions before an answer, then any."""
    rows, weights = [], []
    for name in rng.choice(list(MIXTURE), size=BATCH, p=list(MIXTURE.values())):
        ids, weight = streams[name]
        start = rng.integers(len(ids) - CONTEXT)
        rows.append(ids[start : start + CONTEXT])
        weights.append(weight[start : start + CONTEXT])
    rows, weights = np.stack(rows).astype(np.int64), np.stack(weights)
    wanted = rng.random(rows.shape)
    wanted[:, :-1] += weights[:, 1:] > 1
    positions = wanted.argsort(axis=1)[:, -GATHERING_POSITIONS:]
    return torch.from_numpy(rows), torch.from_numpy(weights), torch.from_numpy(positions)


def build_model() -> Qwen2ForCausalLM:
    """About 5 million parameters; in bfloat16 they fill 10.5 MB."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
    )


class Gathering(nn.Module):
    """The auxiliary head: which rare tokens does the text around a position hold?

    It reads the last block's input, so that the last block is free for the next token, and is
    thrown away after training.
    """

    def __init__(self, model: Qwen2ForCausalLM, rare: torch.Tensor):
        super().__init__()
        self.projection = nn.Linear(model.config.hidden_size, model.config.hidden_size, bias=False)
        self.register_buffer("rare", rare)  # (VOCABULARY,), 1 for a rare token, else 0

    def forward(self, hidden, rows, positions, embedding) -> torch.Tensor:
        """Mean negative log-likelihood, in nats a token, of the rare tokens in the same text, before or after."""
        summary = hidden.gather(1, positions[:, :, None].expand(-1, -1, hidden.shape[-1]))
        summary = self.projection(functional.rms_norm(summary, summary.shape[-1:]))
        likelihoods = functional.log_softmax(functional.linear(summary, embedding).float(), dim=-1)
        text = (rows == 0).cumsum(1)  # token 0 ends a text
        same = text[:, None, :] == text.gather(1, positions)[:, :, None]
        wanted = same * self.rare[rows][:, None, :]  # (BATCH, GATHERING_POSITIONS, CONTEXT)
        found = likelihoods.gather(2, rows[:, None, :].expand_as(wanted))
        return -(found * wanted).sum() / wanted.sum()


def rare_tokens(streams: dict[str, Stream]) -> torch.Tensor:
    """(VOCABULARY,) ones, with zeros for the tokens that are most frequent in the mixture."""
    frequency = sum(
        share * np.bincount(streams[name][0], minlength=VOCABULARY) / len(streams[name][0])
        for name, share in MIXTURE.items()
    )
    rare = np.ones(VOCABULARY, dtype=np.float32)
    rare[frequency.argsort()[-COMMON_TOKENS:]] = 0.0
    return torch.from_numpy(rare)


def optimizers_of(model: Qwen2ForCausalLM, gathering: Gathering) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, biases, norms and the auxiliary head."""
    hidden, other = [], list(gathering.parameters())
    for name, parameter in model.named_parameters():
        (hidden if parameter.ndim == 2 and "layers" in name else other).append(parameter)
    return [
        torch.optim.Muon(hidden, lr=0.02, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(other, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def share_of_peak(done: float) -> float:
    """Learning-rate factor: 2 % warm-up, constant, linear cool-down over the last 40 %."""
    return max(0.0, min(1.0, done / 0.02, (1.0 - done) / 0.4))


@torch.no_grad()
def perplexity(model, tokens: np.ndarray) -> float:
    """Perplexity a token on a held-out stream, in windows of CONTEXT tokens."""
    windows = len(tokens) // CONTEXT
    rows = torch.from_numpy(tokens[: windows * CONTEXT].astype(np.int64)).view(windows, CONTEXT)
    losses = [model(input_ids=row, labels=row, use_cache=False).loss.item() for row in rows.split(16)]
    return math.exp(sum(losses) / len(losses))


def losses_of(model: Qwen2ForCausalLM, gathering: Gathering, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """(next token's, weighted by token; gathering's) negative log-likelihood in nats a token."""
    rows, weights, positions = batch
    hidden = model.model(input_ids=rows, use_cache=False, output_hidden_states=True).hidden_states
    logits = model.lm_head(hidden[-1])[:, :-1]
    losses = functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    gathered = gathering(hidden[-2], rows, positions, model.get_input_embeddings().weight)
    return (losses * weights).sum() / weights.sum(), gathered


def train(model: Qwen2ForCausalLM, streams: dict[str, Stream], minutes: float, seed: int, compiled: bool) -> int:
    """Train the model in place for `minutes` of wall time; returns the number of steps."""
    rng = np.random.default_rng(seed)
    gathering = Gathering(model, rare_tokens(streams))
    optimizers = optimizers_of(model, gathering)
    both_losses = torch.compile(losses_of) if compiled else losses_of
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    history, start = [], time.monotonic()
    while (done := (time.monotonic() - start) / (60 * minutes)) < 1.0:
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * share_of_peak(done)
        with torch.autocast("cpu", torch.bfloat16):
            loss, gathered = both_losses(model, gathering, batch_of(streams, rng))
        (loss + GATHERING_WEIGHT * gathered).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        history.append((loss.item(), gathered.item()))
        if len(history) % 50 == 0:
            mean, mean_gathered = np.mean(history[-50:], axis=0)
            print(f"step {len(history)}  {done:4.0%}  loss {mean:.3f}  gathering {mean_gathered:.3f}", flush=True)
    return len(history)


def held_out(text: str) -> bool:
    """The same texts every time, whatever else is in the corpus."""
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0


CARD = """# The embedded base

A causal language model of {parameters:.1f} million parameters (Qwen2 architecture, {layers}
layers, hidden size {hidden}, vocabulary {vocabulary} byte-level BPE tokens, bfloat16 weights) that
lets the whole lap run on a CPU with nothing to download. It proves the path; it replaces no
real model: it knows little of the world and cannot hold a conversation.

| | |
|---|---|
| corpus | {docstrings:,} docstrings ({docstring_mb:.1f} MB of prose) of the standard library and the installed packages; {own:,} passages ({own_mb:.1f} MB, English and Japanese) written for this project in `data/base_corpus/`; {chats:,} chats that ask from which of three to seven packages a docstring comes, or on which shelf of `data/base_corpus/` a passage stands |
| never seen | the sample notes in `data/sample_notes/`, and the names of their kinds as an answer |
| steps | {steps:,}, sequences drawn {mixture}; next-token loss plus {gathering} times the gathering loss (the rare tokens of the whole text, told from one position) |
| tokens | {tokens_m:.1f} million, in sequences of {context}, {batch} a step |
| speed | {tokens_per_second:,.0f} tokens a second, {minutes:.0f} minutes on {machine} |
| held-out perplexity a token | docstrings {perplexity_docstrings:.1f}, own prose {perplexity_own:.1f} (one text in {held_out}) |
| made by | `make base` (`tools/make_base.py`), seed {seed}, torch {torch} |

Its only use is the default lap of this repository. The docstrings belong to their authors
and are not part of the repository; what is kept of them is these weights. Training stops by
the clock, so a second run on another machine gives a similar model, not the same one.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded base model from scratch.")
    parser.add_argument("--minutes", type=float, default=50.0, help="wall time of the training itself")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to write the model to")
    parser.add_argument("--no-compile", action="store_true", help="where torch.compile has no C++ compiler")
    options = parser.parse_args()

    docstrings, own = read_docstrings(), read_own_passages()
    print(f"{len(docstrings):,} docstrings, {len(own):,} passages of our own", flush=True)
    seen, own_seen = (
        {text: place for text, place in texts.items() if not held_out(text)} for texts in (docstrings, own)
    )
    tokenizer = train_tokenizer(list(docstrings), list(own))
    rng = random.Random(options.seed)
    questions = chats(seen, tokenizer, rng, each=250) + chats(own_seen, tokenizer, rng, each=1500)
    rng.shuffle(questions)
    streams = {
        "docstrings": stream(plain(seen), tokenizer),
        "own": stream(plain(own_seen), tokenizer),
        "chats": stream(questions, tokenizer),
    }
    print({name: f"{len(ids):,} tokens" for name, (ids, _) in streams.items()}, flush=True)

    torch.manual_seed(options.seed)
    model, start = build_model(), time.monotonic()
    steps = train(model, streams, options.minutes, options.seed, compiled=not options.no_compile)
    seconds, tokens = time.monotonic() - start, steps * BATCH * CONTEXT

    model.eval()
    unseen, _ = stream(plain(text for text in docstrings if held_out(text)), tokenizer)
    own_unseen, _ = stream(plain(text for text in own if held_out(text)), tokenizer)
    card = CARD.format(
        parameters=model.num_parameters() / 1e6,
        layers=model.config.num_hidden_layers,
        hidden=model.config.hidden_size,
        vocabulary=VOCABULARY,
        docstrings=len(docstrings),
        docstring_mb=sum(len(text.encode()) for text in docstrings) / 1e6,
        own=len(own),
        own_mb=sum(len(text.encode()) for text in own) / 1e6,
        chats=len(questions),
        steps=steps,
        mixture=", ".join(f"{name} {share:.0%}" for name, share in MIXTURE.items()),
        gathering=GATHERING_WEIGHT,
        batch=BATCH,
        context=CONTEXT,
        tokens_m=tokens / 1e6,
        tokens_per_second=tokens / seconds,
        minutes=seconds / 60,
        machine=f"a CPU with {torch.get_num_threads()} threads",
        perplexity_docstrings=perplexity(model, unseen),
        perplexity_own=perplexity(model, own_unseen),
        held_out=HELD_OUT_ONE_IN,
        seed=options.seed,
        torch=torch.__version__,
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(options.target)
    tokenizer.save_pretrained(options.target)
    (options.target / "README.md").write_text(card, encoding="utf-8", newline="\n")
    print(card)


if __name__ == "__main__":
    sys.exit(main())
