"""How the notes of a person are written: the kinds, the fields that hold a note's values, folders, encoding."""

import dataclasses

from onelap import UserError
from onelap.machine.names import normalize

TAG_FIELDS = ("tags", "tag")


@dataclasses.dataclass(frozen=True)
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
        for name, least in {"kinds": 2, "styles": 1, "template_folders": 0}.items():
            text = wanted[name]
            wanted[name] = tuple(dict.fromkeys(filter(None, map(normalize, text.split(",")))))
            if len(wanted[name]) < least:
                raise UserError(f"{name}: expected {least} or more names separated by commas, found {text!r}")
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
