"use strict";
// The page of one run: what failed, what distinguishes it, curves, system, log, config, notes, how to repeat it.
(gridiron => {
  const {el, format, number, count, duration, time, table, command, stateLabel, copyButton} = gridiron.dom;

  // The values that the other runs of the batch have, the most frequent first
  function others(store, run, name) {
    const counts = new Map(), batch = store.runs.batch[run];
    store.column(name).forEach((value, at) => {
      if (at !== run && store.runs.batch[at] === batch) counts.set(format(value), (counts.get(format(value)) ?? 0) + 1);
    });
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    return sorted.slice(0, 4).map(([value, n]) => `${value} (${n})`).join(", ") + (sorted.length > 4 ? ` … ${sorted.length} values` : "");
  }

  const section = (title, ...content) => content.flat(Infinity).filter(Boolean).length
    ? el("section", {class: "card"}, el("h2", {}, title), ...content) : null;
  const pairs = (object, label) => Object.keys(object ?? {}).length ? table({columns: ["name", "value"], code: ["name", "value"],
    rows: Object.entries(object).map(([name, value]) => [name, format(value)])}, {label}) : null;

  function differences(store, run) {
    const rows = store.parameters.map(name => [name, format(store.column(name)[run]), others(store, run, name)]);
    return rows.length ? table({columns: ["parameter", "this run", "the other runs (how many)"], rows, code: ["parameter", "this run", "the other runs (how many)"]},
      {label: "differences"}) : el("p", {class: "note"}, "Its parameters are those of all other runs.");
  }

  function facts(store, run) {
    const {runs} = store, value = name => runs[name]?.[run] ?? null;
    const items = [["state", stateLabel(runs.state[run])], ["why", value("why")], ["batch", store.column("batch")[run]],
      ["epochs", value("epochs") === null ? null : `${value("epochs")}${value("epochs_planned") ? ` of ${value("epochs_planned")}` : ""}`],
      ["time", duration(value("seconds"))], ["time left", duration(value("left"))],
      ["started", value("started") ? `${time(value("started"))} UTC` : null],
      [gridiron.RunTable.label(store, "value"), value("value") === null ? null
        : `${number(value("value"))} at epoch ${value("value_epoch")}${value("value_column") ? ` (${store.label(value("value_column"))})` : ""}`]];
    return el("dl", {class: "facts"}, items.filter(([, content]) => content !== null && content !== "").map(([name, content]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, content))));
  }

  function metrics(store, run) {
    const rows = store.metrics.map(name => [store.label(name), store.column(name)[run]]).filter(([, value]) => value !== null && value !== undefined);
    return rows.length ? el("details", {}, el("summary", {}, `${count(rows.length, "metric")}: last values`), table({columns: ["metric", "last value"], rows}, {label: "metrics"})) : null;
  }

  // The parts that need the run's details. charts: where the curves are drawn
  function detailed(store, run, details, draw) {
    if (!details) return [section("Curves", draw("details_curves", {run, details: null})), section("Log and config", el("p", {class: "note"}, store.document.details_note
      ?? "The log and the whole config of this run are not in this file."), store.document.live ? null : command(`python experiments.py dashboard ${store.document.batches[store.runs.batch[run]]?.path ?? ""}`))];
    return [
      details.failure ? section("Failure", el("pre", {class: "bad", tabindex: "0"}, details.failure)) : null,
      section("Curves", draw("details_curves", {run, details})),
      details.log ? section("End of the log", el("p", {class: "path"}, el("code", {}, details.log.path), copyButton(details.log.text, "Copy the lines")),
        el("pre", {tabindex: "0"}, details.log.text)) : null,
      section("Config", pairs(details.config, "config")),
      section("Facts", pairs(details.facts, "facts")),
      details.notes?.length ? section("Notes", gridiron.noteItems(details.notes)) : null,
      details.files?.length ? section("Files", el("p", {class: "path"}, el("code", {}, details.folder), copyButton(details.folder)), table({columns: ["file", "bytes"],
        rows: details.files.map(file => [file.name, file.size]), code: ["file"]}, {label: "files"})) : null,
    ];
  }

  function header(store, run, order) {
    const at = order.indexOf(run), step = (by, label) => {
      const other = at < 0 ? undefined : order[at + by];
      return other === undefined ? el("span", {class: "button", "aria-disabled": "true"}, label)
        : gridiron.link({view: "run", run: store.runs.key[other]}, {class: "button"}, label);
    };
    const rest = order.filter(other => other !== run);
    return el("div", {class: "actions"}, gridiron.allRuns(), step(-1, "Previous"), step(1, "Next"), rest.length
      ? gridiron.link({view: "compare", run: "", a: String(run), b: gridiron.toRanges(rest)}, {class: "button"}, "Compare with the others") : null);
  }

  // Draw the page of a run into an element. draw(kind, options): a chart; returns a Promise that ends when details are shown
  async function show(element, store, run, order, draw) {
    const loading = el("p", {class: "note", role: "status"}, "Loading the log and the config …");
    const later = el("div", {}, loading), repeat = el("div");
    element.replaceChildren(header(store, run, order), el("section", {class: "card"}, el("h2", {class: "title", tabindex: "-1"}, store.runs.name[run]), facts(store, run), repeat, metrics(store, run)),
      section("Difference to the other runs", differences(store, run)), later);
    try {
      const details = await store.details(run);
      if (details?.command) repeat.replaceChildren(el("p", {class: "note"}, "Repeat it, in a new folder, with the code that it ran with, and compare the results:"), command(details.command));
      later.replaceChildren(...detailed(store, run, details, draw).filter(Boolean));
    } catch (error) {
      loading.className = "bad";
      loading.textContent = `The details of this run could not be read: ${error.message}`;
    }
  }

  gridiron.runPage = {show};
})(window.gridiron);
