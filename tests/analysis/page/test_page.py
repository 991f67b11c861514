"""The page in a real browser: table, filters, selection, run, comparison, address, changes, sizes, hostile texts."""
from __future__ import annotations

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
ERROR = "document.getElementById('filtererror').textContent"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    built = make_document(RUNS, epochs=6)
    built["details"] = {built["runs"]["key"][6]: make_details()}
    built["runs"]["state"][13], built["runs"]["why"][13] = "failed", "RuntimeError: CUDA out of memory"
    built["batches"][0]["failures"] = [{"state": "failed", "error": "RuntimeError: CUDA out of memory", "count": 1, "runs": [13],
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


def column(tab: Tab, name: str) -> list[Any]:
    """The cells of a column that are drawn, as values of the document."""
    return list(tab.js(f"{ROWS}.map(row => gridiron.store.column({json.dumps(name)})[row.dataset.run])"))


def click_heading(tab: Tab, name: str) -> str | None:
    """Click a heading, and return how the column is sorted then."""
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


def test_headings_sort(page: Tab) -> None:
    assert click_heading(page, "base_lr") == "ascending"
    assert (rates := column(page, "base_lr")) == sorted(rates)
    assert click_heading(page, "base_lr") == "descending"
    assert (rates := column(page, "base_lr")) == sorted(rates, reverse=True) and rates[0] == 1.0
    assert click_heading(page, "base_lr") is None
    assert column(page, "index")[:3] == [0, 1, 2]
    assert click_heading(page, "value") == "descending"  # more is better: the best first
    best = [value for value in column(page, "value") if value is not None]
    assert best == sorted(best, reverse=True)


@pytest.mark.parametrize(("text", "condition"), [
    ("base_lr>0.1", "p.base_lr[i] > 0.1"),
    ("base_lr>=0.1 model=linear", "p.base_lr[i] >= 0.1 && p.model[i] === 'linear'"),
    ("model=linear|tiny/lenet", "['linear', 'tiny/lenet'].includes(p.model[i])"),
    ("model!=linear", "p.model[i] !== 'linear'"),
    ("model~LENET", "p.model[i].includes('lenet')"),
    ("state=done", "r.state[i] === 'done'"),
    ('"MOD=linear+bas=1.0"', "r.name[i].includes('mod=linear+bas=1.0')"),
    ("linear !see=0", "true"),
    ("!linear", "!r.name[i].includes('linear')"),
    ("epochs<6 !state=done", "r.epochs[i] < 6 && r.state[i] !== 'done'"),
    ("  ", "true")])
def test_filter_selects_runs(page: Tab, text: str, condition: str) -> None:
    if text == "linear !see=0":  # see is no column: the mistake leaves the earlier filter in force
        type_filter(page, text)
        assert "no column see" in page.js(ERROR)
        return
    type_filter(page, text)
    expected = page.js(f"(() => {{ const r = gridiron.store.runs, p = r.parameters; "
                       f"return r.key.filter((_, i) => {condition}).length; }})()")
    assert 0 < expected <= RUNS and page.js(ERROR) == ""
    assert page.js(SHOWN) == (f"{RUNS} runs" if expected == RUNS else f"{expected} of {RUNS} runs")


@pytest.mark.parametrize(("text", "message"), [
    ("base_rl>0.1", "no column base_rl: did you mean base_lr?"),
    ("base_lr>high", "base_lr>high: high is not a number"),
    ("model>3", "model is not a number: use model=linear, or model~text for a part of it"),
    ("base_lr=", "base_lr= needs a value, as base_lr=1"),
    ('"open', 'the quote in "open is not closed: add "'),
    ("accuracy>0.5", "accuracy may be train/accuracy, val/last/accuracy"),
    ("state=fail", "no run has state=fail; state is diverged, done"),
    ("lenet+bas=0.25", "put a text to search for in quotes")])
def test_filter_mistakes_say_what_to_type(page: Tab, text: str, message: str) -> None:
    type_filter(page, text)
    assert message in page.js(ERROR)
    if "state" not in text:  # nothing is hidden by a filter that is not understood
        assert page.js("gridiron.store.visibleCount") == RUNS
        assert page.js("document.getElementById('filter').getAttribute('aria-invalid')") == "true"


def test_states_filter_by_chips_with_a_sign_and_a_word(page: Tab) -> None:
    chips = page.js("[...document.querySelectorAll('.chip')].map(chip => chip.textContent)")
    assert sum(int(chip.split()[-1]) for chip in chips) == RUNS
    assert any(chip.startswith("✓ done") for chip in chips) and any(chip.startswith("✕ diverged") for chip in chips)
    page.js("document.querySelector('.chip[data-state=diverged]').click()")
    assert set(column(page, "state")) == {"diverged"}
    assert page.js("document.querySelector('.chip[data-state=diverged]').getAttribute('aria-pressed')") == "true"
    page.js("document.querySelector('.chip[data-state=diverged]').click()")
    assert page.js("gridiron.store.visibleCount") == RUNS


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


def test_keyboard_moves_selects_and_opens(page: Tab) -> None:
    page.press("/")
    assert page.js("document.activeElement.id") == "filter"
    page.js("document.querySelector('.scroll').focus()")
    for key in ("ArrowDown", "ArrowDown", " "):
        page.press(key)
    assert page.js("[...gridiron.store.selected]") == [1]
    page.press("ArrowDown", shift=True)
    assert page.js("[...gridiron.store.selected]") == [1, 2]
    page.press("Escape")
    assert page.js("gridiron.store.selected.size") == 0
    page.press("End")
    assert page.js(f"document.querySelector('#runs tr.active').dataset.run === '{RUNS - 1}'")
    page.press("Enter")
    assert page.js("gridiron.store.settings.run") == page.js("gridiron.store.runs.key.at(-1)")
    assert page.js("document.activeElement.className") == "title"


def test_run_page_shows_differences_log_and_command(page: Tab) -> None:
    page.js(f"{ROWS}[6].querySelector('a').click()")
    text = str(page.wait("!document.getElementById('run').innerText.includes('Loading') && document.getElementById('run').innerText"))
    assert text.index("Difference to the other runs") < text.index("Config")
    for part in ("python experiments.py reproduce", "Failure", "End of the log", "stats.csv", "host", "base_lr"):
        assert part in text
    page.js("document.querySelector('#run .actions a').click()")
    assert page.js("document.getElementById('overview').hidden") is False
    page.js("gridiron.store.open(0)")
    assert "details of 1 of 210 runs are in this file" in page.wait(
        "document.getElementById('run').innerText.includes('Log and config') && document.getElementById('run').innerText")
    page.js("history.back()")
    page.wait("!document.getElementById('overview').hidden")


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


def test_two_groups_are_compared(page: Tab, document: dict[str, Any]) -> None:
    page.js("gridiron.store.select([0, 1, 2])")
    press = "[...document.querySelectorAll('#selection button')].find(b => b.textContent.includes({})).click()"
    page.js(press.format("'A'"))
    page.js("gridiron.store.select([3, 4, 5])")
    page.js(press.format("'B'"))
    page.js(press.format("'Compare A and B'"))
    rows = page.js("[...document.querySelectorAll('#compare tbody tr')].map(row => [...row.cells].map(c => c.textContent))")
    assert rows[0] == ["model", "linear", "tiny/lenet"]
    values = document["runs"]["metrics"]["val/last/accuracy"]
    row = next(row for row in rows if row[0] in ("val/last/accuracy", "val accuracy (last)"))
    assert float(row[1].split()[0]) == pytest.approx(sum(values[:3]) / 3, rel=1e-3) and row[2] == row[4] == "3"
    assert row[-1] == ("B" if sum(values[3:6]) > sum(values[:3]) else "A")
    page.js("gridiron.store.set({a: '0', b: '0'})")
    assert "same settings" in page.js("document.getElementById('compare').innerText")


def test_address_restores_the_view(tab: Tab, path: str) -> None:
    open_page(tab, path)
    type_filter(tab, 'model=linear "bas=1.0"')
    tab.js("gridiron.store.set({sort: '-base_lr', states: 'done', metric: 'val/last/loss'}); gridiron.store.select([0, 1, 9])")
    address = tab.js("location.hash")
    wanted = tab.js("JSON.stringify([gridiron.store.settings, [...gridiron.store.selected], [...gridiron.store.visible]])")
    open_page(tab, path, address)
    assert tab.js("JSON.stringify([gridiron.store.settings, [...gridiron.store.selected], [...gridiron.store.visible]])") == wanted
    assert tab.js("document.getElementById('filter').value") == 'model=linear "bas=1.0"'
    open_page(tab, path, "#view=run&run=nowhere&sort=%00&selected=7-99999999999&columns=[&unknown=1&only=perhaps")
    assert "There is no run nowhere" in tab.js("document.getElementById('run').innerText")
    assert tab.js(PROBLEMS) == ""


def test_changes_keep_scroll_selection_and_input(page: Tab) -> None:
    page.js("gridiron.store.select([40, 41]); document.querySelector('.scroll').scrollTop = 900; window.scrollTo(0, 300)")
    page.js("document.getElementById('filter').focus(); document.getElementById('filter').value = 'base_'")
    before = page.js("[document.querySelector('.scroll').scrollTop, window.scrollY]")
    page.js("""gridiron.store.apply({version: '2', runs: {indices: [6, 210], key: ['x6', 'new'], name: ['changed', 'a new run'],
        state: ['running', 'running'], batch: [0, 0], epochs: [4, 1], parameters: {base_lr: [0.5, 0.25], __proto__: [1, 2]},
        metrics: {'val/last/accuracy': [0.5, 0.6]}}, curves: [{run: 210, after: -1,
        epoch: btoa(String.fromCharCode(1, 0, 0, 0)), of: {'val/last/accuracy': btoa(String.fromCharCode(0, 0, 0, 63))}}]})""")
    assert page.js("[document.querySelector('.scroll').scrollTop, window.scrollY]") == before
    assert page.js("[...gridiron.store.selected]") == [40, 41]
    assert page.js("[document.activeElement.id, document.getElementById('filter').value]") == ["filter", "base_"]
    assert page.js(SHOWN) == f"{RUNS + 1} runs"
    assert page.js("gridiron.store.column('base_lr')[210]") == 0.25
    assert page.js("({...gridiron.store.curve('val/last/accuracy', 210).value})") == {"0": 0.5}


@pytest.mark.parametrize("width", [390, 1280, 2560])
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


def test_hostile_texts_are_inert(tab: Tab, tmp_path: Path) -> None:
    hostile = make_document(35, epochs=4, hostile=True)
    hostile["details"] = {hostile["runs"]["key"][0]: make_details(hostile=True)}
    path = write_page(tmp_path, hostile)
    open_page(tab, path)
    tab.js("gridiron.store.open(0)")
    tab.wait("document.getElementById('run').innerText.includes('End of the log')")
    tab.js("gridiron.store.set({view: 'compare', run: '', a: '0-4', b: '5-9', all: true})")
    tab.js("gridiron.store.set({view: 'runs', columns: JSON.stringify(['name', 'why', '__proto__', 'constructor'])})")
    assert tab.js("[window.hostile, document.querySelectorAll('body img, body iframe, body script[src]').length]") == [None, 0]
    assert "<script>window.hostile = 1</script>" in tab.js("document.body.textContent")
    shown = tab.js("document.body.innerText + [...document.querySelectorAll('[title]')].map(e => e.title).join()")
    assert not {"\x1b", "\u202e"} & set(shown)
    assert tab.js(PROBLEMS) == ""


def test_control_characters_are_shown(page: Tab) -> None:
    page.js("gridiron.store.apply({runs: {indices: [0], name: ['a\\u202e\\u0007\\u200bb\\ud800']}})")
    assert page.js(f"{ROWS}[0].querySelector('a').textContent") == "a\\u202e\\u0007\\u200bb\\ud800"


def test_policy_stops_foreign_scripts(tab: Tab, path: str) -> None:
    open_page(tab, path)
    tab.js("const s = document.createElement('script'); s.textContent = 'window.foreign = 1'; document.head.append(s)")
    tab.js("const i = document.createElement('div'); i.innerHTML = '<img src=x onerror=\"window.foreign = 1\">'; document.body.append(i)")
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


def test_paper_has_the_rows_and_no_controls(page: Tab) -> None:
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    assert page.js(f"{ROWS}.length") == RUNS
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.js("getComputedStyle(document.getElementById('toolbar')).display") == "none"
    page.call("Emulation.setEmulatedMedia", media="")
    page.js("window.dispatchEvent(new Event('afterprint'))")
    assert page.js(f"{ROWS}.length") < RUNS
