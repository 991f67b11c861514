"""The charts of the page in a real browser: linked selection, hover, scales, means, themes, sizes, hostile names."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.analysis.page import details, write
from tests.analysis.chromium import Tab
from tests.analysis.page.make_document import make_details, make_document

METRIC = "val/last/accuracy"
# mount charts one below the other at the top of the page; `chart` is the first
SETUP = """
(() => {
  const errors = [], {store, charts} = gridiron, box = document.createElement("div");
  document.body.prepend(box);
  store.failed = error => errors.push(String(error.stack || error));
  const mount = async (kinds, settings, options, width) => {
    window.test.all.forEach(chart => chart.destroy());
    store.select([]);
    store.set({...charts.defaults, metric: "", filter: "", ...settings});
    Object.assign(box.style, {width: `${width}px`, display: "grid"});
    box.replaceChildren();
    window.test.all = kinds.map(kind => {
      const element = document.createElement("div");
      element.className = "chart";
      box.append(element);
      return charts.mount(element, kind, store, options);
    });
    window.chart = window.test.all[0];
    scrollTo(0, 0);
    await charts.idle();
    await Promise.all(window.test.all.map(chart => chart.inView && chart.shown));
    await charts.idle();
    return errors;
  };
  window.test = {errors, mount, settle: charts.idle, all: []};
})()
"""


class Page:
    """A page in a browser, at whose top charts are mounted."""

    def __init__(self, tab: Tab, document: dict[str, Any], path: Path) -> None:
        self.tab, self.document = tab, document
        path.write_text(write.page(document))
        tab.resize(1280, 900)
        tab.open(str(path))
        tab.wait("window.gridiron?.store?.count && window.Bokeh && true")
        tab.js(SETUP)

    def show(self, *kinds: str, width: int = 900, options: dict[str, Any] | None = None, **settings: Any) -> None:
        """Draw charts with default settings but for some."""
        arguments = ", ".join(map(json.dumps, (kinds, settings, options or {}, width)))
        assert self.js(f"test.mount({arguments})") == []

    def js(self, expression: str) -> Any:
        return self.tab.js(expression)

    def set(self, **settings: Any) -> None:
        self.js(f"gridiron.store.set({json.dumps(settings)}), test.settle()")
        assert self.js("test.errors") == []

    def pixel(self, x: object, y: object) -> list[float]:
        """The position in the window of a point of the first chart, given as expressions in its coordinates."""
        return list(self.js(f"""(() => {{ const frame = chart.frame(), box = chart.plot.getBoundingClientRect();
            return [box.left + frame.x({x}), box.top + frame.y({y})]; }})()"""))

    def corners(self) -> tuple[list[float], list[float]]:
        """The upper left and lower right corner of the frame of the first chart, in the window."""
        left, top, width, height = self.js("""(() => { const f = chart.frame(), b = chart.plot.getBoundingClientRect();
            return [b.left + f.left, b.top + f.top, f.width, f.height]; })()""")
        return [left + 1, top + 1], [left + width - 2, top + height - 2]

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0, modifiers: int = 0) -> None:
        button = "none" if kind == "mouseMoved" and not buttons else "left"
        self.tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, buttons=buttons, modifiers=modifiers,
                      button=button, clickCount=1)

    def drag(self, start: list[float], end: list[float], modifiers: int = 0) -> None:
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, buttons=1, modifiers=modifiers)
        for share in (0.3, 0.7, 1.0):
            x, y = (a + share * (b - a) for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y, buttons=1, modifiers=modifiers)
        self.mouse("mouseReleased", *end, modifiers=modifiers)
        self.js("test.settle()")

    def click(self, x: float, y: float, modifiers: int = 0) -> None:
        self.mouse("mousePressed", x, y, buttons=1, modifiers=modifiers)
        self.mouse("mouseReleased", x, y, modifiers=modifiers)
        self.js("test.settle()")

    def press(self, key: str) -> None:
        self.js(f"chart.plot.dispatchEvent(new KeyboardEvent('keydown', {{key: {key!r}}})), test.settle()")

    def hover(self, x: object, y: object) -> str:
        """Point at a place of the first chart. Return the text that is shown."""
        self.mouse("mouseMoved", *self.pixel(x, y))
        self.js("test.settle()")
        return str(self.js("chart.tip.hidden ? '' : chart.tip.innerText"))

    def selected(self) -> list[int]:
        return sorted(self.js("[...gridiron.store.selected]"))

    def column(self, name: str) -> list[Any]:
        return list(self.js(f"[...gridiron.store.column({name!r})]"))

    def curve(self, metric: str, run: int) -> np.ndarray:
        return np.array(self.js(f"[...gridiron.store.curve({metric!r}, {run}).value]"))


@pytest.fixture(scope="module")
def page(tab: Tab, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(tab, make_document(81, 12, search=True), tmp_path_factory.mktemp("page") / "page.html")


def test_brush_in_one_chart_selects_in_all(page: Page) -> None:
    page.tab.resize(1280, 2600)  # charts out of view wait
    page.show("scatter", "curves", "parallel", "heatmap", metric=METRIC)
    overlays = "test.all.map(chart => chart.overlay.toDataURL())"
    before, values = page.js(overlays), page.column(METRIC)
    middle = float(np.median([value for value in values if value is not None]))
    (left, top), (right, _) = page.corners()
    page.drag([left, top], [right, page.pixel(0.5, middle)[1]])
    assert page.selected() == [run for run, value in enumerate(values) if value is not None and value > middle]
    assert all(old != new for old, new in zip(before, page.js(overlays), strict=True)), "each chart shows the selection"
    assert "selected=" in page.js("location.hash")
    page.press("Escape")
    assert page.selected() == []
    assert page.js(overlays)[2:] == before[2:]
    page.tab.resize(1280, 900)


def test_click_on_a_curve_selects_its_run_and_hover_names_it(page: Page) -> None:
    page.show("curves", metric=METRIC, mean="no")
    text = page.hover(12, "chart.lines[0].y[11]")
    run = page.js("chart.lines[chart.hovered].runs[0]")
    value = page.curve(METRIC, run)[11]
    assert page.document["runs"]["name"][run][:20] in text
    assert f"epoch 12: {value:.6g}" in text
    assert f"base_lr = {page.column('base_lr')[run]:g}" in text
    page.click(*page.pixel(12, "chart.lines[0].y[11]"))
    assert page.selected() == [run]
    other = page.js("chart.lines.find(line => Math.abs(line.y[11] - chart.lines[0].y[11]) > 0.1).y[11]")
    page.hover(12, other)
    page.click(*page.pixel(12, other), modifiers=8)  # shift
    assert len(page.selected()) == 2 and run in page.selected()


def test_brush_over_curves_selects_those_that_pass(page: Page) -> None:
    page.show("curves", metric=METRIC, mean="no")
    bounds = page.js("""(() => { const at = chart.lines.map(line => line.y[5]).filter(Number.isFinite).sort();
        return [at[at.length >> 1], at.at(-1) + 0.01]; })()""")
    page.drag(page.pixel(5.9, bounds[1]), page.pixel(6.1, bounds[0]))
    inside = [run for run in range(81) if len(page.curve(METRIC, run)) > 5
              and bounds[0] <= page.curve(METRIC, run)[5] <= bounds[1]]
    assert set(inside) <= set(page.selected()) and len(page.selected()) < 60


def test_means_and_bands_are_those_of_the_seeds(page: Page) -> None:
    page.show("curves", metric=METRIC, spread="95% confidence")
    line = page.js("""(() => { const line = chart.lines.find(line => line.runs.length === 3);
        const {low, high} = chart.band(line);
        return {runs: line.runs, y: [...line.y], low: [...low], high: [...high]}; })()""")
    curves = np.array([page.curve(METRIC, run) for run in line["runs"]])
    half = 4.303 * curves.std(axis=0, ddof=1) / np.sqrt(3)  # Student's t with two degrees of freedom
    np.testing.assert_allclose(line["y"], curves.mean(axis=0))
    np.testing.assert_allclose(line["high"], curves.mean(axis=0) + half, rtol=1e-5)
    np.testing.assert_allclose(line["low"], curves.mean(axis=0) - half, rtol=1e-5)
    assert page.js("chart.caption.textContent").startswith("mean of the runs of each of 27 settings")
    assert len({page.column("seed_training")[run] for run in line["runs"]}) == 3
    page.set(spread="range")
    assert page.js("Math.max(...chart.band(chart.lines[0]).high)") == pytest.approx(
        max(page.curve(METRIC, run).max() for run in page.js("chart.lines[0].runs")))


def test_smoothing_and_logarithmic_axes(page: Page) -> None:
    page.show("curves", metric="val/last/loss", mean="no", smoothing=0.6, logy=True, logx=True)
    raw, weight, total = page.curve("val/last/loss", page.js("chart.lines[0].runs[0]")), 0.0, 0.0
    for value in raw:
        total, weight = 0.6 * total + 0.4 * value, 0.6 * weight + 0.4
    assert page.js("chart.lines[0].y.at(-1)") == pytest.approx(total / weight)
    for axis, values in (("x", (1, 3, 9)), ("y", (0.1, 1, 10))):
        places = [page.js(f"chart.frame().{axis}({value})") for value in values]
        assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    assert "smoothed by 0.6" in page.js("chart.caption.textContent")


def test_keys_zoom_and_step_through_runs(page: Page) -> None:
    page.show("curves", metric=METRIC, mean="no")
    size = "chart.figure.y_range.end - chart.figure.y_range.start"
    whole = page.js(size)
    page.press("+")
    assert page.js(size) == pytest.approx(0.8 * whole)
    page.press("0")
    assert page.js(size) == pytest.approx(whole)
    page.press("]")
    page.press("]")
    page.press("Enter")
    assert page.selected() == page.js("chart.lines[1].runs")
    assert page.document["runs"]["name"][page.selected()[0]][:20] in page.js("chart.tip.innerText")


def test_filter_redraws_and_keeps_axes_of_zoom_tools(page: Page) -> None:
    page.show("curves", metric=METRIC, mean="no")
    everything = page.js("chart.lines.length")
    page.set(filter="model=linear")
    assert 0 < page.js("chart.lines.length") < everything
    page.set(filter="base_lr>1e9")
    assert "No run passes the filter." in page.js("chart.plot.innerText")
    page.set(filter="")
    assert page.js("chart.lines.length") == everything


def test_categories_are_strips_and_many_numbers_a_color_bar(page: Page) -> None:
    page.show("scatter", x="model", group="model", metric=METRIC)
    places = page.js("[...chart.px]")
    assert len(set(places)) == len(places) and all(abs(place - round(place)) <= 0.26 for place in places)
    assert page.js("[...chart.legend.querySelectorAll('button')].map(one => one.innerText.trim())") == [
        "linear", "tiny/lenet", "tiny/resnet_18"]
    page.js("chart.legend.querySelectorAll('button')[1].click()")
    assert {page.column("model")[run] for run in page.selected()} == {"tiny/lenet"}
    page.set(x="base_lr", group="base_lr")
    assert len(set(page.column("base_lr"))) > 8
    assert page.js("chart.legend.querySelectorAll('button').length") == 0
    assert page.js("chart.legend.querySelector('.chart-bar').style.background").startswith("linear-gradient")
    assert page.js("chart.legend.innerText").startswith("base_lr (log)")


def test_brushes_of_parallel_axes_narrow_the_selection(page: Page) -> None:
    page.show("parallel", metric=METRIC)
    names = page.js("chart.axes.map(axis => axis.name)")
    assert names[-1] == METRIC
    model, metric = names.index("model"), len(names) - 1
    page.drag(page.pixel(model - 0.1, 0.62), page.pixel(model + 0.1, 0.4))
    first = page.selected()
    assert {page.column("model")[run] for run in first} == {"tiny/lenet"}
    page.drag(page.pixel(metric - 0.1, 1.03), page.pixel(metric + 0.1, 0.5))
    assert 0 < len(page.selected()) < len(first)
    assert set(page.selected()) < set(first)
    page.js("gridiron.store.select([3]), test.settle()")
    assert page.js("chart.brushes.size") == 0


def test_heat_map_has_means_and_counts(page: Page) -> None:
    page.show("heatmap", hx="base_lr", hy="model", metric=METRIC)
    cells = page.js("chart.cells.map(({runs, mean}) => ({runs, mean}))")
    values = page.column(METRIC)
    for cell in cells:
        assert cell["mean"] == pytest.approx(np.mean([values[run] for run in cell["runs"]]))
        assert len({(page.column("model")[run], page.column("base_lr")[run]) for run in cell["runs"]}) == 1
        break
    assert f"mean of {sum(len(cell['runs']) for cell in cells)} runs" in page.js("chart.caption.textContent")
    assert f"{len(cells[0]['runs'])} run" in page.hover("chart.cells[0].i", "chart.cells[0].j")
    page.click(*page.pixel("chart.cells[0].i", "chart.cells[0].j"))
    assert page.selected() == sorted(cells[0]["runs"])


def test_searches_show_rungs_and_best_so_far(page: Page) -> None:
    search = page.document["batches"][0]["search"]
    page.show("rungs", "best_so_far", options={"batch": 0})
    rungs = page.js("chart.points.map(point => [point.rung, point.value])")
    assert {rung for rung, _ in rungs} == {0, 1, 2}
    labels = page.js("[...chart.figure.below[0].major_label_overrides.values()].map(label => label.text)")
    for rung, (label, epochs) in enumerate(zip(labels, search["levels"], strict=True)):
        best = max(value for number, value in rungs if number == rung)
        assert label.split("\n")[:2] == [str(epochs), f"n={sum(number == rung for number, _ in rungs)}"]
        assert label.split("\n")[2] == f"best {best:.4g}"
    expected = np.maximum.accumulate(search["results"]["value"])
    assert page.js("test.all[1].steps.y.at(-1)") == expected[-1]
    assert set(page.js("test.all[1].steps.y")) == set(expected)
    page.set(budget="epochs")
    assert page.js("test.all[1].steps.x.at(-1)") == search["results"]["epochs"][-1]


def test_series_of_a_run_are_drawn(page: Page) -> None:
    page.show("details_curves", options={"details": make_details()})
    assert page.js("[...chart.charts].map(one => one.options.label).sort()") == [
        "cpu", "grad_norm, by step", "loss, by step", "memory"]
    page.js("Promise.all(chart.charts.map(one => one.shown)).then(() => test.settle())")
    assert page.js("document.querySelectorAll('.chart-grid .chart-figure').length") == 4
    page.js("window.chart = chart.charts[0], true")
    ends = page.js("[chart.figure.x_range.start, chart.figure.x_range.end]")
    page.drag(page.pixel(100, "chart.auto.y.start + 0.1"), page.pixel(200, "chart.auto.y.end - 0.1"))
    assert page.js("[chart.figure.x_range.start, chart.figure.x_range.end]") == pytest.approx([100, 200], abs=5)
    page.js("chart.plot.dispatchEvent(new MouseEvent('dblclick')), test.settle()")
    assert page.js("[chart.figure.x_range.start, chart.figure.x_range.end]") == ends


def test_series_of_another_run_are_drawn_in_the_same_charts(page: Page) -> None:
    page.show("details_curves", options={"run": 0, "details": make_details()})
    page.js("Promise.all(chart.charts.map(one => one.shown)).then(() => test.settle())")
    page.js("test.figure = chart.charts[0].figure, test.documents = Bokeh.documents.length, "
            "test.figure.x_range.setv({start: 10, end: 20})")
    x = np.arange(0, 30, 0.5)
    other = {"series": {"system": details.series("seconds", x, {"memory": x * 2, "cpu": x})}}
    for run, view in ((1, [0, 29.5]), (1, [3, 4]), (0, [0, 29.5])):
        page.js(f"chart.show({json.dumps({'run': run, 'details': other})}), test.settle()")
        assert page.js("chart.charts.map(one => one.options.label)") == ["memory", "cpu"]
        assert page.js("[...chart.charts[0].sources[0].data.y]") == (x * 2).tolist()
        assert page.js("chart.charts[0].figure === test.figure && test.figure.left[0].axis_label.text === 'memory'")
        assert page.js("document.querySelectorAll('.chart-grid .chart-figure').length") == 2
        if view == [0, 29.5]:
            assert page.js("[test.figure.x_range.start, test.figure.x_range.end]") == view, "of another run"
            page.js("test.figure.x_range.setv({start: 3, end: 4}), test.settle()")
        else:
            assert page.js("[test.figure.x_range.start, test.figure.x_range.end]") == view, "zoomed by the reader"
    page.js("chart.show({run: 2, details: {series: {}}}), test.settle()")
    assert "No steps" in page.js("document.querySelector('.chart-empty:not([hidden])').textContent")
    assert page.js("test.documents - Bokeh.documents.length") == 4, "the library has forgotten all of them"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_themes_change_colors(page: Page, theme: str) -> None:
    page.show("curves", group="model", metric=METRIC)
    page.js(f"document.documentElement.dataset.theme = {theme!r}, gridiron.store.emit('theme'), test.settle()")
    background = page.js("chart.figure.background_fill_color")
    assert background == page.js("gridiron.charts.palette.back")
    luminance = page.js("""(() => { const c = document.createElement("canvas").getContext("2d");
        c.fillStyle = gridiron.charts.palette.back;
        c.fillRect(0, 0, 1, 1);
        return c.getImageData(0, 0, 1, 1).data[1]; })()""")
    assert luminance > 200 if theme == "light" else luminance < 80
    kinds = page.js("chart.lines.map(line => `${line.color} ${gridiron.charts.palette.dash(line.index)}`)")
    assert len(set(kinds)) == 3
    before = page.js("Bokeh.documents.length")
    page.js("document.documentElement.dataset.theme = 'light', gridiron.store.emit('theme'), test.settle()")
    page.set(logy=True)
    assert page.js("Bokeh.documents.length") == before, "figures that were replaced are forgotten"


# Machado, Oliveira and Fernandes (2009): how linear RGB is seen without red, green and blue cones
COLOR_BLIND = {"protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                              [-0.003882, -0.048116, 1.051998]],
               "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                                [-0.011820, 0.042940, 0.968881]],
               "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                              [0.004733, 0.691367, 0.303900]]}


def lab(linear: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB, with the white of D65."""
    to_xyz = np.array([[0.4124, 0.2126, 0.0193], [0.3576, 0.7152, 0.1192], [0.1805, 0.0722, 0.9505]])
    scaled = np.clip(linear, 0, 1) @ to_xyz / [0.9505, 1.0, 1.089]
    f = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_groups_are_told_apart_without_full_color_vision(page: Page, theme: str) -> None:
    page.js(f"document.documentElement.dataset.theme = {theme!r}")
    colors = page.js("Array.from({length: 8}, (_, at) => gridiron.charts.palette.category(at))")
    dashes = page.js("Array.from({length: 8}, (_, at) => `${gridiron.charts.palette.dash(at)}`)")
    assert page.js("new Set(Array.from({length: 8}, (_, at) => gridiron.charts.palette.marker(at))).size") == 8
    page.js("document.documentElement.dataset.theme = 'light'")
    srgb = np.array([[int(color[at:at + 2], 16) / 255 for at in (1, 3, 5)] for color in colors])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    for matrix in (np.eye(3), *map(np.array, COLOR_BLIND.values())):
        seen = lab(linear @ np.transpose(matrix))
        for a in range(8):
            for b in range(a):
                if dashes[a] == dashes[b]:  # others differ by their dash
                    assert np.linalg.norm(seen[a] - seen[b]) > 15, (colors[a], colors[b], matrix)


@pytest.mark.parametrize(("window", "width"), [(390, 340), (2560, 1200)])
def test_charts_fit_narrow_and_wide_screens(page: Page, window: int, width: int) -> None:
    page.tab.resize(window, 1200)
    try:
        page.show("curves", "scatter", "heatmap", width=width, x="model", metric=METRIC)
        for chart in page.js("""test.all.map(chart => {
                const box = chart.element.getBoundingClientRect(), parts = [...chart.element.querySelectorAll("*")];
                return {box: box.width, frame: chart.frame().width,
                    inner: Math.max(...parts.map(part => part.getBoundingClientRect().right)) - box.left}; })"""):
            assert chart["box"] <= width + 1 and chart["inner"] <= width + 1, chart
            assert chart["frame"] > 0.5 * width
    finally:
        page.tab.resize(1280, 900)


def test_new_points_extend_a_curve_and_keep_the_zoom(page: Page) -> None:
    page.show("curves", metric=METRIC, mean="no")
    page.press("+")
    zoomed = page.js("chart.figure.x_range.end")
    run = page.js("chart.lines[0].runs[0]")
    page.js(f"""(() => {{ const pack = array => btoa(String.fromCharCode(...new Uint8Array(array.buffer)));
        gridiron.store.apply({{curves: [{{run: {run}, after: 12, epoch: pack(Int32Array.of(13)),
            of: {{{METRIC!r}: pack(Float32Array.of(0.5))}}}}]}}); }})(), test.settle()""")
    assert page.js("[chart.lines[0].x.at(-1), chart.lines[0].y.at(-1)]") == [13, 0.5]
    assert page.js("chart.figure.x_range.end") == zoomed
    page.press("0")
    assert page.js("chart.figure.x_range.end") > 13


def test_hostile_names_are_inert(tab: Tab, tmp_path_factory: pytest.TempPathFactory) -> None:
    page = Page(tab, make_document(24, 4, hostile=True), tmp_path_factory.mktemp("hostile") / "page.html")
    hostile = next(name for name in page.js("gridiron.store.parameters") if name not in ("model", "base_lr"))
    page.tab.resize(1280, 2600)
    page.show("scatter", "curves", "parallel", "heatmap", group=hostile, x=hostile, axes=hostile)
    page.hover("chart.px[0]", "chart.py[0]")
    page.js("test.all.forEach(chart => chart.showTip(chart.describe(chart.items()[0], chart.frame())))")
    assert any("<script>" in text for text in page.js("test.all.map(chart => chart.tip.textContent)"))
    assert page.js("test.all.flatMap(chart => [...chart.element.querySelectorAll('img, script')]).length") == 0
    assert page.js("typeof window.hostile") == "undefined"
    assert page.js("test.all.some(chart => /[\\u001b\\u202e]/.test(chart.element.innerText))") is False
    loaded = [event["request"]["url"] for event in page.tab.of("Network.requestWillBeSent")]
    assert [url for url in loaded if not url.startswith(("file:", "data:", "blob:"))] == []
