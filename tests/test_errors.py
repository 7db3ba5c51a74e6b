"""What messages hold can be printed, whatever it is."""

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refscale_codec.errors import counted, printable, reason

ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.binary().map(os.fsdecode)  # surrogates, too


@given(ANY_TEXT)
def test_printable_text_is_one_line_of_utf_8_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    assert shown.encode().decode() == shown
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text


def test_one_is_no_plural() -> None:
    assert [counted(number, "picture") for number in range(3)] == ["0 pictures", "1 picture", "2 pictures"]


def test_bytes_of_file_names_and_control_characters_are_escaped() -> None:
    name = os.fsdecode(b"caf\xe9") if os.name == "posix" else "caf\udce9"
    assert printable(name) == "caf\\xe9"
    assert printable("é\n\x1b[31m\u202e\ud800") == "é\\n\\x1b[31m\\u202e\\ud800"


@pytest.mark.parametrize(
    "error",
    [
        KeyError("__metadata__"),
        KeyError(320),
        IndexError("list index out of range"),
        struct.error("x"),
        ZeroDivisionError("integer division or modulo by zero"),
        ValueError("cannot reshape array of size 7 into shape (3,256)"),
    ],
)
def test_what_only_a_programmer_understands_is_not_told(error: Exception) -> None:
    assert reason(error) == "it is not laid out as such a file must be"


def test_what_a_foreign_error_says_is_told() -> None:
    assert reason(OSError(errno.EACCES, "Permission denied")) == "Permission denied"
    unpacked = ValueError("not enough values to unpack (expected 2, got 1)")
    assert reason(unpacked) == "it is not laid out as such a file must be"
    assert reason(ValueError("no such colour")) == "no such colour"
    assert reason(MemoryError()) == "MemoryError"
    assert reason(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")) == "it is not text in UTF-8"
