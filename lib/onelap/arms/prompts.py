"""A note as the model sees it.

The prompt is put together from token ids, not from text: what stands before the note, the note, the words after it, the
answer. So only the note is shortened, never the answer, and chat tokens that stand in a note stay plain text.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onelap import UserError
from onelap.machine.names import normalize

if TYPE_CHECKING:  # the command line parses definitions, and should not wait for transformers
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Which kind of note is this: {kinds}? Answer with the kind only.\n\n{note}"
DEFINED = "The kinds of notes:\n{definitions}\n\n"
PLAIN_END = "\n\nKind:"  # for a base without a chat template
HEAD_SHARE = 2 / 3  # of the tokens kept of a note that is too long are its beginning, the others its end
MIN_NOTE_TOKENS = 16
MEANINGS = {  # of the usual kinds
    "lesson": "what experience taught, and what to do differently",
    "knowledge": "a fact, a method or an explanation that holds for anybody",
    "value": "what somebody believes in, or wants to live and work by",
    "decision": "a choice that was made, and its reasons",
    "none": "anything else, such as errands, plans, moods and events",
}
MAX_EXAMPLE_TOKENS = 64  # five kinds with four examples each are 1,300 tokens
_NOTE_MARK = "\u2402note\u2403"  # control pictures: no template and no kind contains them


@dataclass(frozen=True)
class Prompt:
    """The prompt of one base model for one set of kinds."""

    tokenizer: "PreTrainedTokenizerBase"
    before: list[int]  # the same for every note: definitions, examples, instruction
    after: list[int]
    answers: dict[str, list[int]]
    note_budget: int  # tokens of a note that fit into `max_length`

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is the same for every note."""
        content = [self.before, self.after, self.answers, self.note_budget]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def branches(self) -> list[list[int]]:
        """The answers' tokens that the model reads when all are scored at once; the last one is only predicted."""
        return [answer[:-1] for answer in self.answers.values()]

    def note_tokens(self, text: str) -> list[int]:
        """Tokenize a whole note; special tokens in it are split like any other text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def rest(self, text: str) -> list[int]:
        """Tokenize what follows `before`, up to the answer; a long note loses its middle."""
        return _shorten(self.note_tokens(text), self.note_budget) + self.after

    def encode(self, text: str) -> list[int]:
        """Tokenize the whole prompt."""
        return self.before + self.rest(text)

    def cut(self, ids: list[int], note_budget: int) -> list[int]:
        """Reduce a whole prompt's token ids to a smaller budget for its note."""
        end = len(ids) - len(self.after)
        return self.before + _shorten(ids[len(self.before) : end], note_budget) + self.after


def build_prompt(
    tokenizer: "PreTrainedTokenizerBase", kinds: list[str], max_length: int,
    definitions: Mapping[str, str] | None = None, examples: Sequence[tuple[str, str]] = (),
) -> Prompt:  # fmt: skip
    """Build the prompt with the base's chat template, or as plain text where it has none.

    An answer is the kind's name and the end-of-turn token, so that no answer is the beginning of another. `max_length`
    is that of instruction, note and answer in tokens; `definitions` {kind: meaning} and `examples` (text, kind) come on
    top of it, so that they do not shorten the note. Raises UserError where `max_length` leaves no room for notes.
    """
    request = _request(kinds, {})
    gap = "" if tokenizer.chat_template else " "

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    answers = {kind: [*ids(gap + kind), tokenizer.eos_token_id] for kind in kinds}
    before, after = map(ids, _render(tokenizer, [request], []))
    budget = max_length - len(before) - len(after) - max(map(len, answers.values()))
    if budget < MIN_NOTE_TOKENS:
        raise UserError(
            f"max_length: expected at least {max_length - budget + MIN_NOTE_TOKENS} tokens (instruction, answer and "
            f"{MIN_NOTE_TOKENS} of the note), found {max_length}"
        )
    prompt = Prompt(tokenizer, before, after, answers, budget)
    if not definitions and not examples:
        return prompt
    requests = [_request(kinds, definitions or {}), *[request] * len(examples)]
    before, *turns, after = map(ids, _render(tokenizer, requests, [kind for _, kind in examples]))
    for (text, _), following in zip(examples, turns, strict=True):
        before = before + _shorten(prompt.note_tokens(text), MAX_EXAMPLE_TOKENS) + following
    return Prompt(tokenizer, before, after, answers, budget)


def question(kinds: list[str], definitions: Mapping[str, str], text: str) -> str:
    """Write the question to a chat model about one note."""
    return _request(kinds, definitions).replace(_NOTE_MARK, text)


def parse_definitions(text: str, kinds: Sequence[str]) -> dict[str, str]:
    """Parse a parameter such as "lesson: what experience taught; value: ..." to {kind: meaning}, else use `MEANINGS`.

    Raises UserError for a part without a colon, or about a kind that is not among `kinds`.
    """
    meanings = dict(MEANINGS)
    for part in filter(str.strip, text.split(";")):
        kind, colon, meaning = part.partition(":")
        if not colon:
            raise UserError(f"definitions: expected `kind: meaning; kind: meaning`, found {part.strip()!r}")
        if normalize(kind) not in kinds:
            raise UserError(f"definitions: expected meanings of {', '.join(kinds)}, found one of {kind.strip()!r}")
        meanings[normalize(kind)] = meaning.strip()
    return {kind: meanings[kind] for kind in kinds if kind in meanings}


def _request(kinds: list[str], definitions: Mapping[str, str]) -> str:
    """The question, with a mark where the note goes."""
    request = INSTRUCTION.format(kinds=", ".join(kinds), note=_NOTE_MARK)
    meanings = "\n".join(f"- {kind}: {meaning}" for kind, meaning in definitions.items())
    return DEFINED.format(definitions=meanings) + request if meanings else request


def _render(tokenizer: "PreTrainedTokenizerBase", requests: list[str], answers: list[str]) -> list[str]:
    """The conversation up to the answer that is due, cut where the notes go; one answer fewer than requests."""
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": requests[0]}]
        for answer, request in zip(answers, requests[1:], strict=True):
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": request}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    else:
        turns = [f"{request}{PLAIN_END} {answer}\n\n" for request, answer in zip(requests, answers, strict=False)]
        text = (tokenizer.bos_token or "") + "".join(turns) + requests[-1] + PLAIN_END
    return text.split(_NOTE_MARK)


def _shorten(note: list[int], budget: int) -> list[int]:
    """The beginning and the end of a note that is longer than its budget."""
    if len(note) <= budget:
        return note
    head = round(budget * HEAD_SHARE)
    return note[:head] + note[len(note) - (budget - head) :]
