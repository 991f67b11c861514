"""The HTML file: self-contained; its policy allows its own scripts alone; no text of a document leaves its place."""
from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

from src.analysis.page import write
from tests.analysis.page.make_document import HOSTILE, make_document


class Page(HTMLParser):
    """Tags with their attributes, and the text of each script by its id."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.title = ""
        self._open = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[self.tags[-1][1].get("id")] = self.scripts.get(self.tags[-1][1].get("id"), "") + data
        elif self._open == "title":
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def unpacked(text: str) -> str:
    return gzip.decompress(base64.b64decode(text)).decode()


def read_document(source: str) -> dict[str, Any]:
    """The document of a page."""
    return dict(json.loads(unpacked(Page(source).scripts["document"])))


def test_page_is_self_contained() -> None:
    source = write.page(make_document(4, 2))
    for tag, attributes in Page(source).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not {"src", "href", "style", "action"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", source)


def test_policy_has_the_hashes_of_the_scripts_alone() -> None:
    page = Page(write.page(make_document(4, 2)))
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
              for text in (page.scripts[None], write.library())}
    assert unpacked(page.scripts["library"]) == write.library()
    assert set(re.findall("'sha256-(.*?)'", write.policy())) == hashes
    assert [attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes] == [write.policy()]
    directives = dict(part.strip().split(" ", 1) for part in write.policy().split(";"))
    assert directives["default-src"] == directives["base-uri"] == directives["form-action"] == "'none'"
    assert "unsafe" not in directives["script-src"] and directives["connect-src"] == "'self'"


def test_texts_stay_in_their_place() -> None:
    document = make_document(10, 2, hostile=True)
    document["title"] = f"</title>{HOSTILE}{{{{script}}}}"
    source = write.page(document)
    assert HOSTILE not in source and Page(source).title == document["title"]
    assert read_document(source) == json.loads(json.dumps(document))
    assert len(Page(source).scripts) == 3


def test_live_page_has_no_document() -> None:
    page = Page(write.page(None))
    assert "document" not in page.scripts and page.scripts["library"] and page.title == "Gridiron"
