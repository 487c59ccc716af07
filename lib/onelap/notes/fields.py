"""Names of the fields that hold a note's text, kind, source and style."""

import dataclasses
from dataclasses import dataclass

from onelap import UserError
from onelap.machine.names import normalize

FIELD_PARAMETERS = ("kinds", "text_field", "kind_field", "source_field", "style_field", "styles")


@dataclass(frozen=True)
class Fields:
    """The kinds, and the names of fields in front matter, JSON or CSV."""

    kinds: tuple[str, ...]
    text: str = "text"
    kind: str = "kind"
    source: str = "source"
    style: str = "style"
    styles: tuple[str, ...] = ("raw", "tidied")
    """Names of folders that say how their notes are written; a field may say anything. The first will be sorted."""

    @classmethod
    def parse(
        cls, kinds: str, text_field: str, kind_field: str, source_field: str, style_field: str, styles: str
    ) -> "Fields":
        """Make them from FIELD_PARAMETERS. Raises UserError for fewer than two kinds, or no style."""
        return cls(
            _split_names("kinds", kinds, at_least=2),
            *(text_field, kind_field, source_field, style_field),
            _split_names("styles", styles, at_least=1),
        )

    @classmethod
    def from_json(cls, stored: dict) -> "Fields":
        """Make them from `dataclasses.asdict` after JSON; names that an earlier version had are ignored."""
        names = {field.name for field in dataclasses.fields(cls)} & stored.keys()
        return cls(**{name: tuple(v) if isinstance(v := stored[name], list) else v for name in names})


def _split_names(parameter: str, text: str, at_least: int) -> tuple[str, ...]:
    """Split a parameter such as kinds="lesson, value"."""
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := normalize(part))))
    if len(names) < at_least:
        raise UserError(f"{parameter}: expected {at_least} or more names separated by commas, found {text!r}")
    return names
