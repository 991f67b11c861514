"""Keys from the bytes that a terminal sends."""
from __future__ import annotations

import codecs
import re

UP, DOWN, LEFT, RIGHT = "up", "down", "left", "right"
PAGE_UP, PAGE_DOWN, HOME, END = "page up", "page down", "home", "end"
ENTER, ESCAPE, BACKSPACE, TAB, BACKTAB = "enter", "escape", "backspace", "tab", "backtab"
# a whole sequence, or the beginning of one
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*(?P<csi>[@-~])|O(?P<ss3>[@-~]))")
_INCOMPLETE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
_LETTERS = {"A": UP, "B": DOWN, "C": RIGHT, "D": LEFT, "H": HOME, "F": END, "Z": BACKTAB}
_NUMBERS = {"1": HOME, "7": HOME, "4": END, "8": END, "5": PAGE_UP, "6": PAGE_DOWN}
_CHARACTERS = {"\r": ENTER, "\n": ENTER, "\t": TAB, "\x7f": BACKSPACE, "\x08": BACKSPACE}


class KeyReader:
    """Decodes keys: printable characters as they are, others by their names above. Unknown sequences are left out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def is_incomplete(self) -> bool:
        """Whether the end of the last data may begin a sequence: it is Escape if nothing follows at once."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys in the next data; none means that nothing followed for a while."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        if data and (match := _INCOMPLETE.search(text)):
            text, self._rest = text[:match.start()], match[0]
        keys, position = [], 0
        while position < len(text):
            if match := _SEQUENCE.match(text, position):
                letter = match["csi"] or match["ss3"]
                keys.append(_NUMBERS.get(match[0][2:-1], "") if letter == "~" else _LETTERS.get(letter, ""))
                position = match.end()
                continue
            character = text[position]
            position += 1
            if character == "\x1b":
                keys.append(ESCAPE)
            elif character in _CHARACTERS or character.isprintable():
                keys.append(_CHARACTERS.get(character, character))
        return list(filter(None, keys))
