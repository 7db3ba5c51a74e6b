"""What messages hold can be printed, whatever it is."""

import os

from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import printable

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.binary().map(os.fsdecode)  # surrogates, too


@given(ANY_TEXT)
def test_printable_text_is_one_line_of_utf_8_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_bytes_of_file_names_and_control_characters_are_escaped() -> None:
    name = os.fsdecode(b"caf\xe9") if os.name == "posix" else "caf\udce9"
    assert printable(name) == "caf\\xe9"
    assert printable("é\n\x1b[31m\u202e\ud800") == "é\\n\\x1b[31m\\u202e\\ud800"
