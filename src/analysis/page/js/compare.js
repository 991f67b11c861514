"use strict";
// Compare two runs or two groups of runs: settings that differ, metrics with their spread over runs.
(gridiron => {
  const {el, note, card, format, number, count, table, comparer} = gridiron.dom;
  const VALUES = 6;  // of a parameter in a group
  const NAMES = 3;  // runs named in the title of a group
  const OTHER = new Set(["step", "timestamp"]);  // columns of stats.csv that are no metrics
  const EXPLANATION = "Last values, unless it says best epoch: mean ± standard deviation of n runs (lowest to highest). "
    + "Whether a difference is more than the noise of seeds: see the intervals of Best settings.";

  const digits = (value, n) => String(Number(value.toPrecision(n)));

  function values(store, runs, name) {
    const column = store.column(name), counts = new Map();
    for (const run of runs) counts.set(format(column[run]), (counts.get(format(column[run])) ?? 0) + 1);
    const sorted = [...counts].sort((a, b) => comparer(false)(a[0], b[0]));
    const listed = sorted.slice(0, VALUES).map(([value, n]) => counts.size > 1 ? `${value} (${n})` : value).join(", ");
    return listed + (sorted.length > VALUES ? ` … ${sorted.length} values` : "");
  }

  // {n, mean, s, low, high} of the finite values of a metric; s: standard deviation of the runs
  function summary(store, runs, name) {
    const column = store.column(name), finite = runs.map(run => column[run]).filter(Number.isFinite), n = finite.length;
    const mean = finite.reduce((sum, value) => sum + value, 0) / n;
    const s = Math.sqrt(finite.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
    return {n, mean, s, low: Math.min(...finite), high: Math.max(...finite)};
  }

  function spread({n, mean, s, low, high}) {
    if (!n) return "none";
    return n === 1 ? number(mean) : `${digits(mean, 4)} ± ${digits(s, 2)} (${digits(low, 4)} to ${digits(high, 4)})`;
  }

  function metricRow(store, a, b, name) {
    const [one, two] = [summary(store, a, name), summary(store, b, name)];
    const goal = store.goal(name === "value" ? store.rankingColumns()[0] : name);
    const difference = one.n && two.n ? two.mean - one.mean : null;
    const better = !difference || !goal ? "" : (difference > 0) === (goal === "maximize") ? "B" : "A";
    const label = name === "value" ? gridiron.RunTable.heading(store, name) : store.label(name);
    return [label, spread(one), one.n, spread(two), two.n, difference === null ? null : Number(digits(difference, 4)), better];
  }

  function metrics(store, a, b) {
    const ranking = store.rankingColumns();
    const names = new Set(["value", ...ranking, ...store.metrics.filter(name => !OTHER.has(name))]);
    if (ranking.length === 1) names.delete(`best/${ranking[0]}`);  // the same as "value"
    const rows = [...names].map(name => metricRow(store, a, b, name)).filter(row => row[2] || row[4]);
    const columns = ["metric", "A", "n of A", "B", "n of B", "B − A", "better"];
    return rows.length ? table({columns, rows, notes: [EXPLANATION]}, {label: "metrics of A and B"})
      : note("None of these runs has a value yet.");
  }

  function settings(store, a, b) {
    const {all} = store.settings, names = all ? [...store.parameters, ...Object.keys(store.constant)] : store.parameters;
    const rows = names.map(name => [name, values(store, a, name), values(store, b, name)]).filter(row => all || row[1] !== row[2]);
    const columns = ["parameter", "A", "B"];
    const box = el("input", {type: "checkbox", on: {change: event => store.set({all: event.target.checked})}});
    box.checked = all;
    return [rows.length ? table({columns, rows, code: columns}, {label: "settings of A and B"}) : note("A and B have the same settings."),
      el("label", {class: "check"}, box, " also those that do not differ")];
  }

  function group(store, letter, runs, counted) {
    const left = runs.length - counted.length;
    return el("div", {class: `group ${letter.toLowerCase()}`}, el("b", {}, letter), ` ${count(runs.length, "run")}: `,
      runs.slice(0, NAMES).map((run, at) => [at ? ", " : "", gridiron.runLink(store, run)]),
      runs.length > NAMES ? ` … and ${runs.length - NAMES} more` : "",
      left ? note(`${count(left, "run")} not counted: diverged, not ended or exact repeats (docs/statistics.md)`) : null);
  }

  function show(element, store) {
    const [a, b] = ["a", "b"].map(name => [...gridiron.fromRanges(store.settings[name], store.count)]);
    const counted = [gridiron.counted(store, a), gridiron.counted(store, b)], isComplete = a.length && b.length;
    const button = (label, click) => el("button", {type: "button", on: {click}}, label);
    const selectBoth = () => {
      store.select([...a, ...b], {source: "compare"});
      store.set({view: "runs"});
    };
    element.replaceChildren(
      el("div", {class: "actions"}, gridiron.allRuns(), isComplete ? [
        button("Swap A and B", () => store.set({a: store.settings.b, b: store.settings.a})), button("Select both", selectBoth)] : null),
      el("section", {class: "card"}, el("h2", {class: "title", tabindex: "-1"}, "Compare"),
        isComplete ? [group(store, "A", a, counted[0]), group(store, "B", b, counted[1])]
          : el("p", {}, `${a.length ? "B" : "A"} has no runs. Select two runs in the table and press "Compare the two"; `
            + "or select some runs, press A, select others, press B, then \"Compare A and B\".")),
      ...(isComplete ? [card("Settings that differ", settings(store, a, b)), card("Metrics", metrics(store, ...counted))] : []));
  }

  gridiron.comparePage = {show};
})(window.gridiron);
