"""A note as the model sees it.

The prompt is put together from token ids, not from text: the instruction before the note,
the note, the words after it, the answer. So the note alone is shortened when it is too
long, the answer never; and chat tokens that somebody wrote into a note stay plain text.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from onelap import UserError

INSTRUCTION = "Which kind of note is this: {kinds}? Answer with the kind only.\n\n{note}"
PLAIN_END = "\n\nKind:"  # for a base without a chat template
HEAD_SHARE = 2 / 3  # of a note that is too long: what is kept of its beginning, the rest of its end
MIN_NOTE_TOKENS = 16
_NOTE_MARK = "\u2402note\u2403"  # control pictures: no template and no kind contains them


@dataclass(frozen=True)
class Prompt:
    """The prompt of one base model for one set of kinds."""

    tokenizer: PreTrainedTokenizerBase
    before: list[int]
    after: list[int]
    answers: dict[str, list[int]]
    max_length: int
    """Tokens of prompt and answer together, at most."""

    @property
    def note_budget(self) -> int:
        """Tokens of a note that fit."""
        longest_answer = max(len(answer) for answer in self.answers.values())
        return self.max_length - len(self.before) - len(self.after) - longest_answer

    def note_tokens(self, text: str) -> list[int]:
        """All token ids of a note, special tokens in it split like any other text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]

    def encode(self, text: str) -> list[int]:
        """Token ids of the whole prompt, ready for the answer. A long note loses its middle."""
        note = self.note_tokens(text)
        if len(note) > self.note_budget:
            head = round(self.note_budget * HEAD_SHARE)
            note = note[:head] + note[len(note) - (self.note_budget - head) :]
        return self.before + note + self.after

    def training_example(self, text: str, kind: str) -> dict[str, list[int]]:
        """`input_ids` and `labels`; the loss is on the answer only (-100 elsewhere)."""
        prompt, answer = self.encode(text), self.answers[kind]
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def build_prompt(tokenizer: PreTrainedTokenizerBase, kinds: list[str], max_length: int) -> Prompt:
    """Lay out the prompt with the base's chat template, or plainly where it has none.

    An answer is the kind's name and the end-of-turn token, so that no answer is the beginning
    of another. Raises UserError where `max_length` leaves no room for notes.
    """
    request = INSTRUCTION.format(kinds=", ".join(kinds), note=_NOTE_MARK)
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": request}]
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        gap = ""
    else:
        rendered = (tokenizer.bos_token or "") + request + PLAIN_END
        gap = " "
    before, after = rendered.split(_NOTE_MARK)

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    answers = {kind: [*ids(gap + kind), tokenizer.eos_token_id] for kind in kinds}
    prompt = Prompt(tokenizer, ids(before), ids(after), answers, max_length)
    if prompt.note_budget < MIN_NOTE_TOKENS:
        needed = max_length - prompt.note_budget + MIN_NOTE_TOKENS
        raise UserError(
            f"max_length: expected at least {needed} tokens (instruction, answer and {MIN_NOTE_TOKENS} of the note), "
            f"found {max_length}"
        )
    return prompt
