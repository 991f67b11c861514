"use strict";
// Compare two runs or two groups of runs: settings that differ, metrics with their spread over runs.
(gridiron => {
  const {el, format, number, count, table, comparer} = gridiron.dom;
  const VALUES = 6;  // of a parameter in a group
  const OTHER = new Set(["step", "timestamp"]);  // columns of stats.csv that are no metrics
  const NAMES = 6;  // runs named in the title of a group

  function values(store, runs, name) {
    const column = store.column(name), counts = new Map();
    for (const run of runs) counts.set(format(column[run]), (counts.get(format(column[run])) ?? 0) + 1);
    const sorted = [...counts].sort((a, b) => comparer(false)(a[0], b[0]));
    return sorted.slice(0, VALUES).map(([value, n]) => counts.size > 1 ? `${value} (${n})` : value).join(", ") + (sorted.length > VALUES ? ` … ${sorted.length} values` : "");
  }

  // {n, mean, s, low, high} of the finite values of a metric; s: standard deviation of runs
  function summary(store, runs, name) {
    const column = store.column(name), found = runs.map(run => column[run]).filter(value => typeof value === "number" && Number.isFinite(value));
    const mean = found.reduce((sum, value) => sum + value, 0) / found.length;
    const s = found.length > 1 ? Math.sqrt(found.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (found.length - 1)) : NaN;
    return {n: found.length, mean, s, low: Math.min(...found), high: Math.max(...found)};
  }

  function spread({n, mean, s, low, high}) {
    if (!n) return "none";
    return n === 1 ? number(mean) : `${Number(mean.toPrecision(4))} ± ${Number(s.toPrecision(2))} (${Number(low.toPrecision(4))} to ${Number(high.toPrecision(4))})`;
  }

  function metricRow(store, a, b, name) {
    const [one, two] = [summary(store, a, name), summary(store, b, name)], goal = name === "value" ? store.goal(store.rankingColumns()[0]) : store.goal(name);
    const difference = one.n && two.n ? two.mean - one.mean : null;
    const better = difference === null || !goal || difference === 0 ? "" : (difference > 0) === (goal === "maximize") ? "B" : "A";
    return [name === "value" ? `${gridiron.RunTable.label(store, name)}, best epoch` : store.label(name), spread(one), one.n, spread(two), two.n, difference === null ? null : Number(difference.toPrecision(4)), better];
  }

  function metricsTable(store, a, b) {
    const names = ["value", ...store.rankingColumns(), ...store.metrics.filter(name => !store.rankingColumns().includes(name) && !OTHER.has(name))];
    const rows = names.map(name => metricRow(store, a, b, name)).filter(row => row[2] || row[4]);
    return rows.length ? table({columns: ["metric", "A", "n of A", "B", "n of B", "B − A", "better"], rows,
      notes: ["Last values, unless it says best epoch: mean ± standard deviation of n runs (lowest to highest). Whether a difference is more than noise of seeds: see the intervals of Best settings."]}, {label: "metrics of A and B"})
      : el("p", {class: "note"}, "None of these runs has a value yet.");
  }

  function differing(store, a, b) {
    const names = store.settings.all ? [...store.parameters, ...Object.keys(store.constant)] : store.parameters;
    const rows = names.map(name => [name, values(store, a, name), values(store, b, name)]).filter(row => store.settings.all || row[1] !== row[2]);
    const box = el("input", {type: "checkbox", on: {change: event => store.set({all: event.target.checked})}});
    box.checked = store.settings.all;
    return [rows.length ? table({columns: ["parameter", "A", "B"], rows, code: ["parameter", "A", "B"]}, {label: "settings of A and B"})
      : el("p", {class: "note"}, "A and B have the same settings."), el("label", {class: "check"}, box, " also those that do not differ")];
  }

  function group(store, letter, runs, kept) {
    const left = runs.length - kept.length;
    return el("div", {class: `group ${letter.toLowerCase()}`}, el("b", {}, letter), ` ${count(runs.length, "run")}: `,
      runs.slice(0, NAMES).map((run, at) => [at ? ", " : "", gridiron.runLink(store, run)]), runs.length > NAMES ? ` … and ${runs.length - NAMES} more` : "",
      left ? el("p", {class: "note"}, `${count(left, "run")} not counted: diverged, not ended or exact repeats (docs/statistics.md)`) : null);
  }

  function show(element, store) {
    const [a, b] = ["a", "b"].map(name => [...gridiron.fromRanges(store.settings[name], store.count)]);
    if (!a.length || !b.length) {
      element.replaceChildren(el("div", {class: "actions"}, gridiron.allRuns()), el("section", {class: "card"}, el("h2", {class: "title", tabindex: "-1"}, "Compare"),
        el("p", {}, `${a.length ? "B" : "A"} has no runs. Select two runs in the table and press Compare; or select some runs, press A, select others, press B, then Compare.`)));
      return;
    }
    const kept = [gridiron.counted(store, a), gridiron.counted(store, b)];
    const swap = el("button", {type: "button", on: {click: () => store.set({a: store.settings.b, b: store.settings.a})}}, "Swap A and B");
    const select = el("button", {type: "button", on: {click: () => { store.select([...a, ...b], {source: "compare"}); store.set({view: "runs"}); }}}, "Select both");
    element.replaceChildren(el("div", {class: "actions"}, gridiron.allRuns(), swap, select),
      el("section", {class: "card"}, el("h2", {class: "title", tabindex: "-1"}, "Compare"), group(store, "A", a, kept[0]), group(store, "B", b, kept[1])),
      el("section", {class: "card"}, el("h2", {}, "Settings that differ"), differing(store, a, b)),
      el("section", {class: "card"}, el("h2", {}, "Metrics"), metricsTable(store, ...kept)));
  }

  gridiron.comparePage = {show, summary};
})(window.gridiron);
