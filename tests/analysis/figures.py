"""Helpers for tests of figures: their texts, and whether all of them are inside."""
from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]


def has_text(figure: Figure, words: str) -> bool:
    """Whether a text of the picture has these words, wherever its lines break."""
    return any(words in " ".join(text.split()) for text in texts(figure))


def assert_nothing_is_cut_off(figure: Figure) -> None:
    """Every visible text lies within the picture, to a pixel; no panel has collapsed."""
    figure.draw_without_rendering()
    width, height = figure.bbox.size
    not_drawn = _ticks_beyond_limits(figure)
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip() and text not in not_drawn:
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
            assert inside, f"{text.get_text()!r} at {box}"
    bars = {axes for axes in figure.axes if axes.get_label() == "<colorbar>"}
    assert all(axes.bbox.width > 60 and axes.bbox.height > 60 for axes in figure.axes if axes not in bars)


def _ticks_beyond_limits(figure: Figure) -> set[Text]:
    """The labels of ticks that matplotlib keeps, and does not draw."""
    labels = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low <= tick.get_loc() <= high or not axes.axison:
                    labels |= {tick.label1, tick.label2}
    return labels


def assert_words_do_not_overlap(figure: Figure) -> None:
    """Of a table: no two words touch."""
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts if text.get_text()]
    for number, (one, box) in enumerate(boxes):
        for other, second in boxes[number + 1:]:
            assert not box.overlaps(second), (one, other)
