"""What figures can be written in."""

from onelap.verdict import figures


def test_names_that_any_machine_can_write():
    assert figures.without_glyphs(["lesson", "Wert", "décision"]) == ""


def test_names_that_no_font_can_write_come_with_advice():
    """A private-use character, which stands for Japanese on a machine without such a font."""
    assert "characters of \ue0f0: figures show boxes" in figures.without_glyphs(["lesson", "\ue0f0"])
