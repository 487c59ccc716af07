"""What a lap would read: counts of kinds, sources, languages, of what is taken out, and of what is passed over."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

from onelap.notes.fields import Fields
from onelap.notes.read import Note, Skip
from onelap.notes.vault import check_kinds, guess_languages, refuse_unknown_kinds

NO_KIND = "(no kind)"
MAX_SOURCES = 5  # that are named
MIN_SHARE = 0.02  # of a language; below it most are short notes, guessed wrong
MAX_GUESSED = 1_000  # notes whose language is guessed, which takes 2 ms each


def as_json(item: Note | Skip) -> str:
    """Write a note as it is learnt from, or what is skipped, on one line."""
    if isinstance(item, Skip):
        row = {"skipped": str(item.place), "reason": item.reason, "count": item.count}
    else:
        row = {"id": item.id, "kind": item.kind or None, "source": item.source, "text": item.text}
    return json.dumps(row, ensure_ascii=False)


class Overview:
    """Counts over notes and skips, added one after the other."""

    def __init__(self) -> None:
        self.ids: dict[str, list[str]] = defaultdict(list)  # of the notes of each kind
        self.sources: dict[str, Counter[str]] = defaultdict(Counter)  # of each kind
        self.removed, self.texts = Counter(), []
        self.left, self.first = Counter(), {}  # by reason: what is passed over, and notes without a kind

    def add(self, item: Note | Skip) -> None:
        """Count an item."""
        if isinstance(item, Note):
            kind = item.kind or NO_KIND
            self.ids[kind].append(item.id)
            self.sources[kind][item.source] += 1
            self.removed += item.removed
            self.texts.append(item.text[:400])
        if isinstance(item, Skip) or not item.kind:
            reason = item.reason if isinstance(item, Skip) else f"a note, but {item.why_no_kind}"
            self.left[reason] += getattr(item, "count", 1)
            self.first.setdefault(reason, str(item.place))

    def lines(self) -> Iterator[str]:
        """Write the counts as a table."""
        yield f"{'notes':>9}  {'sources':>9}  kind"
        for kind, ids in sorted(self.ids.items(), key=lambda pair: -len(pair[1])):
            yield f"{len(ids):9,}  {len(self.sources[kind]):9,}  {kind}"
        sources = sum(self.sources.values(), Counter())
        largest = ", ".join(f"{name or '(none)'} ({count:,})" for name, count in sources.most_common(MAX_SOURCES))
        yield f"\n{len(sources):9,}  sources; the largest: {largest}"
        sample = self.texts[:: len(self.texts) // MAX_GUESSED + 1]
        shares = {code: count / len(sample) for code, count in Counter(guess_languages(sample)).most_common()}
        guessed = ", ".join(f"{code} {share:.0%}" for code, share in shares.items() if share >= MIN_SHARE)
        yield f"{'':9}  languages, guessed from {len(sample):,} notes: {guessed}"
        yield f"\n{'times':>9}  taken out of the texts"
        yield from [f"{count:9,}  {what}" for what, count in self.removed.most_common()] or [f"{0:9}"]
        yield f"\n{'count':>9}  not learnt from: why, and the first"
        yield from [f"{count:9,}  {why}: {self.first[why]}" for why, count in self.left.most_common()] or [f"{0:9}"]

    def refuse(self, fields: Fields, few: bool) -> None:
        """Raise UserError where a lap would: for unknown kinds, and for kinds of `few` notes."""
        known = {kind: ids for kind, ids in self.ids.items() if kind != NO_KIND}
        refuse_unknown_kinds(known, fields)
        if few:
            check_kinds(kind for kind, ids in known.items() for _ in ids)
