"""How the notes of a person are written: the kinds, the fields that hold a note's values, folders, encoding."""

import dataclasses
from dataclasses import dataclass

from onelap import UserError
from onelap.machine.names import normalize

TAG_FIELDS = ("tags", "tag")
AT_LEAST = {"kinds": 2, "styles": 1, "template_folders": 0}  # names in each list


@dataclass(frozen=True)
class Fields:
    """The kinds, and the names of fields in front matter, JSON or CSV."""

    kinds: tuple[str, ...]
    text: str = "text"
    kind: str = "kind"
    source: str = "source"
    style: str = "style"
    styles: tuple[str, ...] = ("raw", "tidied")  # that folders may name; a field may name any; the first will be sorted
    template_folders: tuple[str, ...] = ("template", "templates")  # are passed over
    encoding: str = ""  # of all files, by its name in Python; empty where it is found for each

    @classmethod
    def of(cls, parameters: dict) -> "Fields":
        """Make them from parameters. Raises UserError for fewer than two kinds, no style, or an unknown encoding."""
        names = [field.name for field in dataclasses.fields(cls)]
        wanted = {name: parameters.get(f"{name}_field", parameters.get(name)) for name in names}
        wanted |= {name: _split_names(name, wanted[name], least) for name, least in AT_LEAST.items()}
        try:
            "a".encode(wanted["encoding"] or "utf-8")
        except (LookupError, UnicodeError):
            raise UserError(f"encoding: expected a name such as cp1251, found {wanted['encoding']!r}") from None
        return cls(**wanted)

    @classmethod
    def from_json(cls, stored: dict) -> "Fields":
        """Make them from `dataclasses.asdict` after JSON; names that an earlier version had are ignored."""
        names = {field.name for field in dataclasses.fields(cls)} & stored.keys()
        return cls(**{name: tuple(v) if isinstance(v := stored[name], list) else v for name in names})


def _split_names(parameter: str, text: str, at_least: int) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for part in text.split(",") if (name := normalize(part))))
    if len(names) < at_least:
        raise UserError(f"{parameter}: expected {at_least} or more names separated by commas, found {text!r}")
    return names
