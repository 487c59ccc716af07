"""A note as the model sees it: one text, and one token that answers it.

The prompt is a text, so that another program that sends this text asks the same question: its tokens are those of
`before`, of the note and of `after`, wherever it is cut (01_data_prep checks that for each note). Each kind is answered
by one token that no other kind has, so that what is trained, scored and generated is the same.
"""

import hashlib
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from onelap import UserError
from onelap.machine.names import normalize

if TYPE_CHECKING:  # the command line parses definitions, and should not wait for transformers
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = "Which kind of note is this: {kinds}? Answer with the {answer} only.\n{note}"
DEFINED = "The kinds of notes:\n{definitions}\n\n"
# For a base without a chat template. A line break right after a note would become one token with the note's full stop.
PLAIN_END = " \n\nKind:"
# Some templates show the date, and a prompt must be the same tomorrow. Llama's falls back on this one.
FIXED_DATE = "{% macro strftime_now(_) %}26 Jul 2024{% endmacro %}"
LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits  # answers where labels begin alike
HEAD_SHARE = 2 / 3  # of the tokens kept of a note that is too long are its beginning, the others its end
GAP = " … "  # between them
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
    before: str  # the same for every note: definitions, examples, instruction
    after: str
    answers: dict[str, list[int]]  # label, or a letter, and the end token, as tokens; the first one decides
    note_budget: int  # tokens of a note that fit into `max_length`

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is the same for every note."""
        content = [self.before_ids, self.after_ids, self.answers, self.note_budget]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def answer_tokens(self) -> dict[str, int]:
        """The token with which each kind's answer begins, and no other kind's."""
        return {kind: answer[0] for kind, answer in self.answers.items()}

    @property
    def longest_answer(self) -> int:
        """Tokens of the longest answer."""
        return max(map(len, self.answers.values()))

    @cached_property
    def before_ids(self) -> list[int]:
        """Token ids of `before`, as they are in a prompt."""
        ids, spans = self._read("note")
        return ids[: sum(end <= len(self.before) for _, end in spans)]

    @cached_property
    def after_ids(self) -> list[int]:
        """Token ids of `after`, as they are in a prompt."""
        ids, spans = self._read("note")
        return ids[sum(start < len(self.before + "note") for start, _ in spans) :]

    def note_tokens(self, text: str) -> list[int]:
        """Tokenize a whole note, as it stands in the prompt."""
        return self._inner(self._read(self._plain(text))[0])

    def text(self, text: str) -> str:
        """Write the prompt of a note, as any program may send it; a long note loses its middle."""
        return self.before + self._fit(text, self.note_budget)[0] + self.after

    def encode(self, text: str) -> list[int]:
        """Tokenize the prompt of a note."""
        return self._fit(text, self.note_budget)[1]

    def cut(self, ids: list[int], note_budget: int) -> list[int]:
        """Reduce a whole prompt's token ids to a smaller budget for its note."""
        note = self._inner(ids)
        size = min(note_budget, len(note))
        head = round(size * HEAD_SHARE)
        return self.before_ids + note[:head] + note[head + len(note) - size :] + self.after_ids

    def _fit(self, text: str, budget: int) -> tuple[str, list[int]]:
        """A note, shortened where it must be, and the token ids of its prompt."""
        note = self._plain(text)
        ids, spans = self._read(note)
        spans, size, whole = self._inner(spans), budget, note
        while len(self._inner(ids)) > budget:
            head = round(size * HEAD_SHARE)
            begin, end = spans[head - 1][1] - len(self.before), spans[head - size][0] - len(self.before)
            note = whole[:begin].rstrip() + GAP + whole[end:].lstrip()
            ids, _ = self._read(note)
            size -= 1  # for the gap, and for words that have more tokens once they are cut
        return note, ids

    def _read(self, note: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of the whole prompt, and the characters of each one."""
        text = self.before + note + self.after
        read = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return read["input_ids"], read["offset_mapping"]

    def _inner(self, tokens: list) -> list:
        """The part of a whole prompt that is the note."""
        return tokens[len(self.before_ids) : len(tokens) - len(self.after_ids)]

    def _plain(self, text: str) -> str:
        """A note without outer white space, in which special tokens are broken, so that they are text."""
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text.strip())

    @cached_property
    def _special(self) -> re.Pattern:
        added = self.tokenizer.added_tokens_decoder.values()  # a Llama's config names few of its special tokens
        special = sorted((str(token) for token in added if token.special), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, special)))

    def require_stable(self, texts: Sequence[str]) -> None:
        """Check that the tokens around a note do not depend on it. Raises UserError where they do, naming the text."""
        for number, text in enumerate(texts, 1):
            ids = self.encode(text)
            if self.before_ids + self._inner(ids) + self.after_ids != ids:
                raise UserError(
                    f"base_model: expected a chat template after whose text the tokens of a note begin anew; in note "
                    f"{number} of {len(texts)} they merge. Give chat_template.jinja of the base a special token or a "
                    "line break before the message and a special token after it, or take another base"
                )


def build_prompt(
    tokenizer: "PreTrainedTokenizerBase", kinds: list[str], max_length: int,
    definitions: Mapping[str, str] | None = None, examples: Sequence[tuple[str, str]] = (),
) -> Prompt:  # fmt: skip
    """Build the prompt with the base's chat template, or as plain text where it has none.

    A kind is answered with its label where the labels' first tokens differ, else all are answered with letters.
    `max_length` is that of instruction, note and answer in tokens; `definitions` {kind: meaning} and `examples` (text,
    kind) come on top of it, so that they do not shorten the note. Raises UserError where `max_length` leaves no room
    for notes, and for more kinds than there are letters.
    """
    labels, letters = {kind: kind for kind in kinds}, dict(zip(kinds, LETTERS, strict=False))
    for names in (labels, letters):
        answers = _tokenize_answers(tokenizer, names)
        if len({answer[0] for answer in answers.values()}) == len(kinds):
            break
    else:
        raise UserError(f"kinds: expected at most {len(LETTERS)}, each with a token of its own, found {len(kinds)}")
    before, after = _render(tokenizer, [_request(names, {})], [])
    prompt = Prompt(tokenizer, before, after, answers, 0)
    around = len(prompt.before_ids) + len(prompt.after_ids) + prompt.longest_answer
    budget = max_length - around
    if budget < MIN_NOTE_TOKENS:
        raise UserError(
            f"max_length: expected at least {around + MIN_NOTE_TOKENS} tokens (instruction, answer and "
            f"{MIN_NOTE_TOKENS} of the note), found {max_length}"
        )
    if definitions or examples:
        requests = [_request(names, definitions or {}), *[_request(names, {})] * len(examples)]
        before, *turns, after = _render(tokenizer, requests, [names[kind] for _, kind in examples])
        for (text, _), following in zip(examples, turns, strict=True):
            before += prompt._fit(text, MAX_EXAMPLE_TOKENS)[0] + following
    return Prompt(tokenizer, before, after, answers, budget)


def question(kinds: list[str], definitions: Mapping[str, str], text: str) -> str:
    """Write the question to a chat model about one note."""
    return _request({kind: kind for kind in kinds}, definitions).replace(_NOTE_MARK, text)


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


def _request(names: Mapping[str, str], definitions: Mapping[str, str]) -> str:
    """The question, with a mark where the note goes; `names` are the kinds' answers, labels or letters."""
    by_label = all(name == kind for kind, name in names.items())
    kinds = ", ".join(kind if by_label else f"{name}: {kind}" for kind, name in names.items())
    request = INSTRUCTION.format(kinds=kinds, answer="kind" if by_label else "letter", note=_NOTE_MARK)
    meanings = "\n".join(f"- {kind}: {meaning}" for kind, meaning in definitions.items())
    return DEFINED.format(definitions=meanings) + request if meanings else request


def _render(tokenizer: "PreTrainedTokenizerBase", requests: list[str], answers: list[str]) -> list[str]:
    """The conversation, cut where the notes go. With one answer fewer than requests it ends where that is due."""
    due = len(answers) < len(requests)
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": request} for request in requests]
        for place, answer in enumerate(answers):
            turns.insert(2 * place + 1, {"role": "assistant", "content": answer})
        options = {"chat_template": FIXED_DATE + tokenizer.get_chat_template(), "add_generation_prompt": due}
        text = tokenizer.apply_chat_template(turns, tokenize=False, **options)
    else:
        turns = [f"{request}{PLAIN_END} {answer}\n\n" for request, answer in zip(requests, answers, strict=False)]
        text = (tokenizer.bos_token or "") + "".join(turns) + (requests[-1] + PLAIN_END if due else "")
    return text.split(_NOTE_MARK)


def _tokenize_answers(tokenizer: "PreTrainedTokenizerBase", names: dict[str, str]) -> dict[str, list[int]]:
    """The tokens of each kind's answer, with the end token; none where a first token is not a text of its own."""

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    request, answers = _request(names, {}), {}
    prompt = "".join(_render(tokenizer, [request], []))
    for kind, name in names.items():
        answered = "".join(_render(tokenizer, [request], [name]))
        # Some templates put a space before an answer; what else they put there, such as empty thoughts, is left out.
        gap = answered[len(prompt) :].partition(name)[0] if answered.startswith(prompt) else ""
        gap = "" if gap.strip() else gap
        asked, whole = ids(prompt), ids(prompt + gap + name)
        answer = whole[len(asked) :]
        # Half a character is a token, but nothing that a chat program could show.
        if whole[: len(asked)] != asked or not tokenizer.decode(answer[:1]).strip(" \ufffd"):
            return {}
        answers[kind] = [*answer, tokenizer.eos_token_id]
    return answers
