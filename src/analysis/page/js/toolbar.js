"use strict";
// What stands above everything: title, states, filter, metric, selection.
(gridiron => {
  const {el, clean, format, count, stateLabel, isBad, replace} = gridiron.dom, {store} = gridiron;
  const at = id => document.getElementById(id);
  const DIGITS = 5;  // of the best value
  const PARAMETERS = 6;  // of the best run
  const PAUSE = 30;  // milliseconds after a key until the filter is applied
  const HELP = [
    ["base_lr>0.1", "numbers: < <= > >="], ["optim_alg=sgd|adam", "one of these values; != none of them"],
    ["averaging=none", "no value"], ["model~lenet", "part of a value"], ["metric>0.9", "last value of the chosen metric"],
    ["state=failed", "also name, batch, end, why, epochs, seconds, value"],
    ["lenet \"two words\"", "text in name, state, why and parameters"], ["!text", "not"]];

  // ---- header

  function drawHeader() {
    const {title, live, written, sampled} = store.document;
    at("title").textContent = document.title = clean(title ?? "Gridiron");
    const when = `${live ? "served" : "written"} ${String(written).slice(0, 16).replace("T", " ")} UTC`;
    at("subtitle").textContent = clean([count(store.count, "run"), when, ...(sampled ? [sampled.why] : [])].join(" · "));
    replace(at("bar"), stateCounts().map(([state, n]) => {
      const part = stateLabel(state, "i");
      part.style.flexGrow = n;
      part.replaceChildren();
      return part;
    }));
    drawBest();
  }

  // Runs in each state: those that failed last
  function stateCounts() {
    const counts = store.cached("state counts", () => {
      const numbers = new Map();
      for (const state of store.runs.state) numbers.set(state, (numbers.get(state) ?? 0) + 1);
      return numbers;
    });
    return [...counts].sort((a, b) => isBad(a[0]) - isBad(b[0]) || b[1] - a[1]);
  }

  // The best run, if all batches are ranked by the same metric
  function drawBest() {
    const goals = new Set(store.document.batches.map(batch => `${batch.metric?.name} ${batch.metric?.goal}`));
    const {value = []} = store.runs, sign = store.goal(store.rankingColumns()[0]) === "minimize" ? -1 : 1;
    const runs = goals.size === 1 ? [...value.keys()].filter(run => typeof value[run] === "number") : [];
    if (!runs.length) return replace(at("hero"));
    const best = runs.reduce((a, b) => sign * value[b] > sign * value[a] ? b : a);
    const settings = store.parameters.filter(name => !name.startsWith("seed")).slice(0, PARAMETERS)
      .map(name => `${name} ${format(store.column(name)[best])}`).join(" · ");
    return replace(at("hero"), el("span", {class: "note"}, `best ${gridiron.RunTable.label(store, "value").replace(/^best /, "")} `),
      el("b", {}, String(Number(value[best].toPrecision(DIGITS)))), " ", gridiron.runLink(store, best, settings || store.runs.name[best]));
  }

  // ---- filter

  // Whether what an element shows has changed: it is not drawn again otherwise
  const shown = new WeakMap();
  function isNew(element, ...values) {
    const text = JSON.stringify(values), isSame = shown.get(element) === text;
    shown.set(element, text);
    return !isSame;
  }

  function drawChips() {
    const counts = stateCounts(), chosen = new Set(store.settings.states.split(",").filter(Boolean));
    if (!isNew(at("chips"), counts, [...chosen])) return;
    const focused = document.activeElement?.dataset?.state;
    const toggle = state => {
      if (!chosen.delete(state)) chosen.add(state);
      store.set({states: [...chosen].join(",")});
    };
    replace(at("chips"), counts.map(([state, n]) => el("button", {type: "button", class: "chip", data: {state},
      "aria-pressed": String(chosen.has(state)), on: {click: () => toggle(state)}}, stateLabel(state), " ", el("b", {}, n.toLocaleString("en")))));
    if (focused) [...at("chips").children].find(chip => chip.dataset.state === focused)?.focus();
  }

  function drawShown() {
    const {count: all, visibleCount: shown, filterError, filterHint, settings} = store;
    at("shown").textContent = shown === all ? count(all, "run") : `${shown.toLocaleString("en")} of ${count(all, "run")}`;
    at("filtererror").textContent = clean(filterError ?? filterHint ?? "");
    at("filter").setAttribute("aria-invalid", String(Boolean(filterError)));
    if (document.activeElement !== at("filter")) at("filter").value = settings.filter;
  }

  function drawHelp() {
    replace(at("filterhelp"), el("p", {}, "All terms between blanks must hold."),
      el("dl", {}, HELP.map(([term, meaning]) => [el("dt", {}, el("code", {}, term)), el("dd", {}, meaning)])));
  }

  // ---- metric and selection

  function drawMetrics() {
    const ranking = store.rankingColumns(), names = [...ranking, ...store.metrics.filter(name => !ranking.includes(name))];
    const notes = [...new Set(store.document.batches.map(batch => batch.metric?.note).filter(Boolean))];
    if ([...at("metric").options].map(option => option.value).join("\n") !== names.join("\n"))
      replace(at("metric"), names.map(name => el("option", {value: name}, store.label(name))));
    at("metric").value = store.metric ?? "";
    at("metricbox").hidden = !names.length;
    at("metricbox").title = clean(notes.join("; "));
    for (const element of isNew(at("metricbox"), notes) ? document.querySelectorAll(".counts") : [])
      element.textContent = clean(notes.map(note => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" "));
  }

  function drawSelection() {
    const runs = [...store.selected], {a, b, only} = store.settings;
    if (!isNew(at("selection"), store.settings.selected, a, b, only)) return;
    const button = (label, click, attributes = {}) => el("button", {type: "button", on: {click}, ...attributes}, label);
    const group = name => button(`${store.settings[name] ? "✓ " : ""}${name.toUpperCase()}`,
      () => store.set({[name]: gridiron.toRanges(runs)}), {title: `compare these runs as group ${name.toUpperCase()}`});
    const compare = () => store.set({...(runs.length === 2 ? {a: String(runs[0]), b: String(runs[1])} : {}), view: "compare", run: ""});
    const clear = () => {
      store.set({a: "", b: "", only: false});
      store.select([]);
    };
    replace(at("selection"),
      runs.length ? [el("span", {role: "status"}, el("b", {}, runs.length.toLocaleString("en")), " selected"),
        button("Only these", () => store.set({only: !only}), {"aria-pressed": String(only)}), group("a"), group("b")] : null,
      runs.length === 2 || a && b ? button(runs.length === 2 ? "Compare the two" : "Compare A and B", compare, {class: "primary"}) : null,
      runs.length || a || b ? button("Clear", clear) : null);
  }

  function listen() {
    let timer;
    at("filter").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => store.filter(at("filter").value), PAUSE);
    });
    at("filter").addEventListener("keydown", event => {
      if (event.key !== "Escape") return;
      at("filter").value = "";
      store.filter("");
    });
    at("metric").addEventListener("change", () => store.set({metric: at("metric").value}));
    document.addEventListener("keydown", event => {
      if (event.key !== "/" || event.target.closest("input, textarea, select")) return;
      event.preventDefault();
      at("filter").focus();
    });
    const {style} = document.documentElement;
    new ResizeObserver(() => style.setProperty("--toolbar", `${at("toolbar").offsetHeight}px`)).observe(at("toolbar"));
    for (const draw of [drawHeader, drawChips, drawShown, drawMetrics, drawSelection])
      store.on("data", () => gridiron.boxes.guarded("The toolbar", draw));
    store.on("filter", () => { drawChips(); drawShown(); });
    store.on("selection", drawSelection);
    store.on("settings", () => { drawMetrics(); drawSelection(); });
  }

  function build() {
    drawHelp();
    listen();
  }

  gridiron.toolbar = {build};
})(window.gridiron);
