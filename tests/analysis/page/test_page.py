"""The page in a real browser: table, filters, selection, run, comparison, address, changes, sizes, hostile texts."""
from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src.analysis.page import write
from tests.analysis.chromium import Tab
from tests.analysis.page.make_document import make_details, make_document

RUNS = 210
READY = "window.gridiron && gridiron.ready === true"
PROBLEMS = "document.getElementById('problems').innerText"
ROWS = "[...document.querySelectorAll('#runs tr[data-run]')]"
SHOWN = "document.getElementById('shown').textContent"
RUN = "document.getElementById('run').innerText"
ERROR = "document.getElementById('filtererror').textContent"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    built = make_document(RUNS, epochs=6)
    built["details"] = {built["runs"]["key"][6]: make_details()}
    built["runs"]["state"][13], built["runs"]["why"][13] = "failed", "RuntimeError: CUDA out of memory"
    built["batches"][0]["failures"] = [{
        "state": "failed", "error": "RuntimeError: CUDA out of memory", "count": 1, "runs": [13],
        "names": [built["runs"]["name"][13]], "path": "0013/local.out", "log": "epoch 3\nTraceback"}]
    built["details_note"] = "details of 1 of 210 runs are in this file"
    return built


@pytest.fixture(scope="module")
def path(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_page(tmp_path_factory.mktemp("page"), document)


@pytest.fixture
def page(tab: Tab, path: str) -> Iterator[Tab]:
    """The page as it is when it is opened; no test may leave an error in it."""
    open_page(tab, path)
    yield from without_complaints(tab)


@pytest.fixture
def opened(tab: Tab, path: str) -> Iterator[Tab]:
    """The same for tests that change only settings: it is opened once, and reset."""
    if tab.js(f"{READY} && gridiron.intact") is not True:
        open_page(tab, path)
    tab.js("gridiron.intact = true; gridiron.store.select([]); gridiron.store.set({...gridiron.store.defaults})")
    yield from without_complaints(tab)


def without_complaints(tab: Tab) -> Iterator[Tab]:
    yield tab
    assert tab.js(PROBLEMS) == ""
    assert tab.complaints() == []


def write_page(folder: Path, document: dict[str, Any]) -> str:
    (folder / "page.html").write_text(write.page(document), encoding="utf-8")
    return str(folder / "page.html")


def open_page(tab: Tab, path: str, fragment: str = "") -> None:
    tab.open(path, fragment)
    tab.wait(READY)


def type_filter(tab: Tab, text: str) -> None:
    tab.js(f"""(text => {{ const box = document.getElementById('filter'); box.value = text;
               box.dispatchEvent(new Event('input')); }})({json.dumps(text)})""")
    tab.wait(f"gridiron.store.settings.filter === {json.dumps(text)}")


def show_table(tab: Tab) -> None:
    """Scroll to the table, which is drawn when it is in view."""
    scroll(tab, "document.querySelector('.scroll').scrollIntoView()")


def scroll(tab: Tab, action: str) -> None:
    """Scroll, and wait until the table has been told whether it is in view: observers are told in their order."""
    tab.js(f"""{action}, new Promise(done => {{
        const told = (_, observer) => {{ observer.disconnect(); done(); }};
        new IntersectionObserver(told, {{rootMargin: '100px'}}).observe(document.querySelector('.scroll')); }})""")


def column(tab: Tab, name: str) -> list[Any]:
    """The cells of a column that are drawn, as values of the document."""
    show_table(tab)
    return list(tab.js(f"{ROWS}.map(row => gridiron.store.column({json.dumps(name)})[row.dataset.run])"))


def click_heading(tab: Tab, name: str) -> str | None:
    """Click a heading, and return how the column is sorted then."""
    show_table(tab)
    find = f"[...document.querySelectorAll('#runs thead button')].find(b => b.dataset.column === {json.dumps(name)})"
    tab.js(f"{find}.click()")
    sort = tab.js(f"{find}.parentNode.getAttribute('aria-sort')")
    return None if sort is None else str(sort)


def test_page_loads_nothing(page: Tab) -> None:
    page.wait("document.querySelector('.chart:not([aria-busy])')")
    urls = [event["request"]["url"] for event in page.of("Network.requestWillBeSent")]
    assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.js("document.title") == "26-11-20-digits"
    for text in ("Best settings", "95 % interval", "Failed runs", "CUDA out of memory", "learning rate 0.1 is best",
                 "config.yaml is empty", "--sbatch mem=1300M", "less than 20 % of their GPU", "ranked by"):
        assert text.lower() in page.js("document.body.textContent").lower()


def test_table_draws_only_rows_in_view(page: Tab) -> None:
    assert 5 < page.js(f"{ROWS}.length") < 60
    assert page.js("document.querySelector('.runs').getAttribute('aria-rowcount')") == str(RUNS + 1)
    page.js("document.querySelector('.scroll').scrollTop = 1e9")
    assert page.wait(f"{ROWS}.at(-1).dataset.run === '{RUNS - 1}'")


def test_no_two_headings_are_the_same(opened: Tab) -> None:
    """The value that ranks the runs is of their best epoch, the metric of the same name of the last one."""
    headings = opened.js("[...document.querySelectorAll('#runs thead button')].map(button => button.textContent)")
    assert "val accuracy (last), best epoch" in headings
    assert len({*headings}) == len(headings)


def test_headings_sort(opened: Tab) -> None:
    assert click_heading(opened, "base_lr") == "ascending"
    assert (rates := column(opened, "base_lr")) == sorted(rates)
    assert click_heading(opened, "base_lr") == "descending"
    assert (rates := column(opened, "base_lr")) == sorted(rates, reverse=True) and rates[0] == 1.0
    assert click_heading(opened, "base_lr") is None
    assert column(opened, "index")[:3] == [0, 1, 2]
    assert click_heading(opened, "value") == "descending"  # more is better: the best first
    best = [value for value in column(opened, "value") if value is not None]
    assert best == sorted(best, reverse=True)


def test_table_out_of_view_is_drawn_when_it_comes_into_view(opened: Tab) -> None:
    scroll(opened, "scrollTo(0, 0)")
    opened.js("gridiron.store.set({sort: '-index'})")
    assert opened.js("gridiron.overview.order()[0]") == RUNS - 1, "its order is that of the settings"
    assert column(opened, "index")[:2] == [RUNS - 1, RUNS - 2]


@pytest.mark.parametrize(("text", "condition"), [
    ("base_lr>0.1", "p.base_lr[i] > 0.1"),
    ("base_lr>=0.1 model=linear", "p.base_lr[i] >= 0.1 && p.model[i] === 'linear'"),
    ("model=linear|tiny/lenet", "['linear', 'tiny/lenet'].includes(p.model[i])"),
    ("model!=linear", "p.model[i] !== 'linear'"),
    ("model~LENET", "p.model[i].includes('lenet')"),
    ("state=done", "r.state[i] === 'done'"),
    ('"MOD=linear+bas=1.0"', "r.name[i].includes('mod=linear+bas=1.0')"),
    ("!linear", "!r.name[i].includes('linear')"),
    ("epochs<6 !state=done", "r.epochs[i] < 6 && r.state[i] !== 'done'"),
    ("  ", "true")])
def test_filter_selects_runs(opened: Tab, text: str, condition: str) -> None:
    type_filter(opened, text)
    expected = opened.js(f"(() => {{ const r = gridiron.store.runs, p = r.parameters; "
                       f"return r.key.filter((_, i) => {condition}).length; }})()")
    assert 0 < expected <= RUNS and opened.js(ERROR) == ""
    assert opened.js(SHOWN) == (f"{RUNS} runs" if expected == RUNS else f"{expected} of {RUNS} runs")


@pytest.mark.parametrize(("text", "message"), [
    ("base_rl>0.1", "no column base_rl: did you mean base_lr?"),
    ("base_lr>high", "base_lr>high: high is not a number"),
    ("model>3", "model is not a number: use model=linear, or model~text for a part of it"),
    ("base_lr=", "base_lr= needs a value, as base_lr=1"),
    ('"open', 'the quote in "open is not closed: add "'),
    ("accuracy>0.5", "accuracy may be train/accuracy, val/last/accuracy"),
    ("state=fail", "no run has state=fail; state is diverged, done"),
    ("lenet+bas=0.25", "put a text to search for in quotes")])
def test_filter_mistakes_say_what_to_type(opened: Tab, text: str, message: str) -> None:
    type_filter(opened, text)
    assert message in opened.js(ERROR)
    if "state" not in text:  # nothing is hidden by a filter that is not understood
        assert opened.js("gridiron.store.visibleCount") == RUNS
        assert opened.js("document.getElementById('filter').getAttribute('aria-invalid')") == "true"


def test_states_filter_by_chips_with_a_sign_and_a_word(opened: Tab) -> None:
    chips = opened.js("[...document.querySelectorAll('.chip')].map(chip => chip.textContent)")
    assert sum(int(chip.split()[-1]) for chip in chips) == RUNS
    assert any(chip.startswith("✓ done") for chip in chips) and any(chip.startswith("✕ diverged") for chip in chips)
    opened.js("document.querySelector('.chip[data-state=diverged]').click()")
    assert set(column(opened, "state")) == {"diverged"}
    assert opened.js("document.querySelector('.chip[data-state=diverged]').getAttribute('aria-pressed')") == "true"
    opened.js("document.querySelector('.chip[data-state=diverged]').click()")
    assert opened.js("gridiron.store.visibleCount") == RUNS


def test_selection_is_shared(page: Tab) -> None:
    chosen = f"{ROWS}.filter(row => row.getAttribute('aria-selected') === 'true').map(row => Number(row.dataset.run))"
    page.js("gridiron.store.select([1, 3], {source: 'scatter'})")  # as a chart does
    assert page.js(chosen) == [1, 3]
    page.js("window.heard = []; gridiron.store.on('selection', event => heard.push(event.source))")
    page.js(f"{ROWS}[5].querySelector('td.check').click()")
    assert page.js("[...gridiron.store.selected]") == [1, 3, 5] and page.js("heard") == ["table"]
    page.js(f"{ROWS}[2].children[2].click()")
    page.js(f"{ROWS}[4].children[2].dispatchEvent(new MouseEvent('click', {{bubbles: true, shiftKey: true}}))")
    assert page.js("[...gridiron.store.selected]") == [2, 3, 4]
    page.js("[...document.querySelectorAll('#selection button')].find(b => b.textContent === 'Only these').click()")
    assert column(page, "index") == [2, 3, 4]


def test_keyboard_moves_selects_and_opens(opened: Tab) -> None:
    opened.press("/")
    assert opened.js("document.activeElement.id") == "filter"
    opened.js("document.querySelector('.scroll').focus()")
    for key in ("ArrowDown", "ArrowDown", " "):
        opened.press(key)
    assert opened.js("[...gridiron.store.selected]") == [1]
    opened.press("ArrowDown", shift=True)
    assert opened.js("[...gridiron.store.selected]") == [1, 2]
    opened.press("Escape")
    assert opened.js("gridiron.store.selected.size") == 0
    opened.press("End")
    assert opened.js(f"document.querySelector('#runs tr.active').dataset.run === '{RUNS - 1}'")
    opened.press("Enter")
    assert opened.js("gridiron.store.settings.run") == opened.js("gridiron.store.runs.key.at(-1)")
    assert opened.js("document.activeElement.className") == "title"


def test_run_page_shows_differences_log_and_command(page: Tab) -> None:
    page.js(f"{ROWS}[6].querySelector('a').click()")
    text = str(page.wait(f"!{RUN}.includes('Loading') && {RUN}"))
    assert text.index("Difference to the other runs") < text.index("Config")
    page.wait("document.querySelector('#run .chart.mounted')")
    for part in ("python experiments.py reproduce", "Learning curves", "Steps and system", "Failure",
                 "End of the log", "stats.csv", "host", "base_lr"):
        assert part in text
    page.js("document.querySelector('#run .actions a').click()")
    assert page.js("document.getElementById('overview').hidden") is False
    page.js("gridiron.store.open(0)")
    assert "details of 1 of 210 runs are in this file" in page.wait(f"{RUN}.includes('Log and config') && {RUN}")
    page.js("history.back()")
    page.wait("!document.getElementById('overview').hidden")


def test_charts_of_the_first_run_are_made_before_it_is_opened(page: Tab) -> None:
    page.wait("gridiron.prepared && true")
    page.js("gridiron.prepared.then(() => null)")
    assert page.js("document.querySelector('.prepared')") is None
    page.js("window.made = 0; const show = Bokeh.Plotting.show;"
            "Bokeh.Plotting.show = (...all) => { made += 1; return show(...all); }; gridiron.store.open(3)")
    page.js("gridiron.charts.idle()")
    assert page.js("document.querySelectorAll('#run .chart-figure').length") > 0
    assert page.js("window.made") == 0


@pytest.mark.parametrize("permission", [True, False])
def test_copy_button_copies_exactly_the_command(page: Tab, permission: bool) -> None:
    if not permission:
        page.js("navigator.clipboard.writeText = () => Promise.reject(new Error('denied'))")
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    button = "document.querySelector('#best .command button')"
    page.call("Runtime.evaluate", expression=f"{button}.click()", userGesture=True)
    page.wait(f"{button}.textContent === 'Copied'")
    command = page.js("gridiron.store.document.batches[0].best_runs.rows[0].at(-1)")
    assert page.js("navigator.clipboard.readText()") == command and command.startswith("python experiments.py")


def test_two_groups_are_compared(opened: Tab, document: dict[str, Any]) -> None:
    opened.js("gridiron.store.select([0, 1, 2])")
    press = "[...document.querySelectorAll('#selection button')].find(b => b.textContent.includes({})).click()"
    opened.js(press.format("'A'"))
    opened.js("gridiron.store.select([3, 4, 5])")
    opened.js(press.format("'B'"))
    opened.js(press.format("'Compare A and B'"))
    rows = opened.js("[...document.querySelectorAll('#compare tbody tr')].map("
                     "row => [...row.cells].map(cell => cell.textContent))")
    assert rows[0] == ["model", "linear", "tiny/lenet"]
    values = document["runs"]["metrics"]["val/last/accuracy"]
    row = next(row for row in rows if row[0] in ("val/last/accuracy", "val accuracy (last)"))
    assert float(row[1].split()[0]) == pytest.approx(sum(values[:3]) / 3, rel=1e-3) and row[2] == row[4] == "3"
    assert row[-1] == ("B" if sum(values[3:6]) > sum(values[:3]) else "A")
    assert [row[0] for row in rows if "best" in row[0]] == ["val accuracy (last), best epoch"], "each value once"
    opened.js("gridiron.store.set({a: '0', b: '0'})")
    assert "same settings" in opened.js("document.getElementById('compare').innerText")


def test_address_restores_the_view(tab: Tab, path: str) -> None:
    open_page(tab, path)
    type_filter(tab, 'model=linear "bas=1.0"')
    tab.js("gridiron.store.set({sort: '-base_lr', states: 'done', metric: 'val/last/loss'})")
    tab.js("gridiron.store.select([0, 1, 9])")
    view = "(store => JSON.stringify([store.settings, [...store.selected], [...store.visible]]))(gridiron.store)"
    wanted = tab.js(view)
    open_page(tab, path, tab.js("location.hash"))
    assert tab.js(view) == wanted
    assert tab.js("document.getElementById('filter').value") == 'model=linear "bas=1.0"'
    open_page(tab, path, "#view=run&run=nowhere&sort=%00&selected=7-99999999999&columns=[&unknown=1&only=perhaps")
    assert "There is no run nowhere" in tab.js("document.getElementById('run').innerText")
    assert tab.js(PROBLEMS) == ""


def test_another_document_keeps_the_selection(page: Tab) -> None:
    page.js("gridiron.store.select([1, 4]); gridiron.store.filter('model=linear')")
    page.js("""const other = structuredClone(gridiron.store.document), runs = other.runs;
        for (const column of Object.values({...runs, ...runs.parameters, ...runs.metrics}))
          if (Array.isArray(column)) column.unshift(column === runs.key ? 'new' : column[0]);
        gridiron.store.apply({document: other})""")
    assert page.js("[...gridiron.store.selected]") == [2, 5] and page.js("gridiron.store.settings.selected") == "2,5"
    assert page.js("gridiron.store.settings.filter") == "model=linear"


def test_changes_keep_scroll_selection_and_input(page: Tab) -> None:
    page.js("gridiron.store.select([40, 41]); window.scrollTo(0, 300)")
    page.js("document.querySelector('.scroll').scrollTop = 900")
    page.js("document.getElementById('filter').focus(); document.getElementById('filter').value = 'base_'")
    before = page.js("[document.querySelector('.scroll').scrollTop, window.scrollY]")
    point, value = (base64.b64encode(array).decode() for array in (b"\1\0\0\0", b"\0\0\0\x3f"))
    change = {"runs": {
        "indices": [6, RUNS], "key": ["x6", "new"], "name": ["changed", "a new run"], "state": ["running", "running"],
        "batch": [0, 0], "epochs": [4, 1], "metrics": {"val/last/accuracy": [0.5, 0.6]},
        "parameters": {"base_lr": [0.5, 0.25]}}, "curves": [
        {"run": RUNS, "after": -1, "epoch": point, "of": {"val/last/accuracy": value}}]}
    page.js(f"gridiron.store.apply({json.dumps(change)})")
    assert page.js("[document.querySelector('.scroll').scrollTop, window.scrollY]") == before
    assert page.js("[...gridiron.store.selected]") == [40, 41]
    assert page.js("[document.activeElement.id, document.getElementById('filter').value]") == ["filter", "base_"]
    assert page.js(SHOWN) == f"{RUNS + 1} runs"
    assert page.js("gridiron.store.column('base_lr').at(-1)") == 0.25
    assert page.js("({...gridiron.store.curve('val/last/accuracy', 210).value})") == {"0": 0.5}


@pytest.mark.parametrize("width", [390, 1280, 3840])
def test_page_fits_the_window(tab: Tab, path: str, width: int) -> None:
    tab.resize(width, 900, scale=2 if width < 600 else 1)
    open_page(tab, path)
    tab.wait("document.querySelector('.chart:not([aria-busy])')")
    assert tab.js("document.documentElement.scrollWidth") <= width  # wide tables scroll in themselves
    tab.js("gridiron.store.open(6)")
    tab.wait("!document.getElementById('run').innerText.includes('Loading')")
    assert tab.js("document.documentElement.scrollWidth") <= width
    tab.resize(1280, 900)


def test_theme_follows_the_system_and_the_switch(page: Tab) -> None:
    back = "getComputedStyle(document.body).backgroundColor"
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.wait("document.documentElement.dataset.theme === 'dark'")
    dark = page.js(back)
    page.js("document.getElementById('theme').click()")
    assert page.js("document.documentElement.dataset.theme") == "light" and page.js(back) != dark
    page.js("document.getElementById('theme').click(); document.getElementById('theme').click()")
    page.call("Emulation.setEmulatedMedia", features=[])


# texts whose contrast with their background is less than WCAG's 4.5, 3 if they are large
FAINT = """(() => {
  const context = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgb = (...colors) => { context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return context.getImageData(0, 0, 1, 1).data; };
  const light = color => [...color].slice(0, 3).map(value => value / 255).map(value =>
    value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4).reduce((sum, value, at) =>
    sum + [0.2126, 0.7152, 0.0722][at] * value, 0);
  const behind = element => { const colors = [];
    for (; element; element = element.parentElement) colors.unshift(getComputedStyle(element).backgroundColor);
    return colors; };
  return [...document.querySelectorAll("body *:not([aria-disabled=true])")].filter(one => one.checkVisibility()
    && [...one.childNodes].some(child => child.nodeType === 3 && child.data.trim())).flatMap(one => {
      const style = getComputedStyle(one), back = behind(one), size = parseFloat(style.fontSize),
        [a, b] = [light(rgb(...back)), light(rgb(...back, style.color))].sort((a, b) => b - a),
        contrast = (a + 0.05) / (b + 0.05), least = size >= 24 || size >= 18.6 && style.fontWeight >= 600 ? 3 : 4.5;
      return contrast < least ? [`${one.tagName} ${one.className} ${one.textContent.slice(0, 30)}: ${contrast}`] : [];
    });
})()"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_their_background(opened: Tab, theme: str) -> None:
    opened.js(f"document.documentElement.dataset.theme = {theme!r}, gridiron.store.emit('theme')")
    opened.js("gridiron.store.select([1, 2]), gridiron.charts.idle()")
    assert opened.js("document.querySelectorAll('body *').length") > 300
    assert opened.js(FAINT) == []
    opened.js("gridiron.store.open(6), gridiron.store.details(6).then(() => gridiron.charts.idle())")
    assert opened.js(FAINT) == []
    opened.js("document.documentElement.dataset.theme = 'light', gridiron.store.emit('theme')")


def test_hostile_texts_are_inert(tab: Tab, tmp_path: Path) -> None:
    hostile = make_document(35, epochs=4, hostile=True)
    hostile["details"] = {hostile["runs"]["key"][0]: make_details(hostile=True)}
    path = write_page(tmp_path, hostile)
    open_page(tab, path)
    tab.js("gridiron.store.open(0)")
    tab.wait("document.getElementById('run').innerText.includes('End of the log')")
    tab.js("gridiron.store.set({view: 'compare', run: '', a: '0-4', b: '5-9', all: true})")
    tab.js("gridiron.store.set({view: 'runs', columns: JSON.stringify(['name', '__proto__', 'constructor'])})")
    assert tab.js("[window.hostile, document.querySelectorAll('body img, iframe, script[src]').length]") == [None, 0]
    assert "<script>window.hostile = 1</script>" in tab.js("document.body.textContent")
    shown = tab.js("document.body.innerText + [...document.querySelectorAll('[title]')].map(e => e.title).join()")
    assert not {"\x1b", "\u202e"} & set(shown)
    assert tab.js(PROBLEMS) == ""


def test_control_characters_are_shown(page: Tab) -> None:
    show_table(page)
    page.js("gridiron.store.apply({runs: {indices: [0], name: ['a\\u202e\\u0007\\u200bb\\ud800']}})")
    assert page.js(f"{ROWS}[0].querySelector('a').textContent") == "a\\u202e\\u0007\\u200bb\\ud800"


def test_policy_stops_foreign_scripts(tab: Tab, path: str) -> None:
    open_page(tab, path)
    tab.js("document.head.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))")
    tab.js("document.body.append(Object.assign(document.createElement('div'), "
           "{innerHTML: '<img src=x onerror=\"window.foreign = 1\">'}))")
    assert tab.js("window.foreign === undefined")
    assert tab.js("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == "stopped"


def test_a_part_that_fails_leaves_the_rest(tab: Tab, path: str, document: dict[str, Any], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "_packed_library", lambda: "")  # no charts
    broken = {**document, "batches": [{**document["batches"][0], "resources": {"rows": [[1]]}}]}
    path = write_page(tmp_path, broken)
    open_page(tab, path)
    tab.wait("document.querySelector('.chart.failed')")
    assert "could not be drawn" in tab.js("document.querySelector('.chart').textContent")
    assert "The section Resources used and requested failed, the rest works" in tab.js(PROBLEMS)
    type_filter(tab, "model=linear")
    assert tab.js("gridiron.store.visibleCount") < RUNS
    assert tab.js("document.getElementById('best').innerText.includes('95 % interval')")


def test_paper_has_the_rows_and_no_controls(opened: Tab) -> None:
    opened.js("window.dispatchEvent(new Event('beforeprint'))")
    assert opened.js(f"{ROWS}.length") == RUNS
    opened.call("Emulation.setEmulatedMedia", media="print")
    assert opened.js("getComputedStyle(document.getElementById('toolbar')).display") == "none"
    opened.call("Emulation.setEmulatedMedia", media="")
    opened.js("window.dispatchEvent(new Event('afterprint'))")
    assert opened.js(f"{ROWS}.length") < RUNS
