"use strict";
// The page of one run: what failed, what distinguishes it, curves, system, log, config, notes, how to repeat it.
(gridiron => {
  const {el, note, card, format, number, count, duration, time, table, command, quote, stateLabel, copyButton} = gridiron.dom;
  const VALUES = 4;  // of the other runs that are listed

  // The values that the other runs of the batch have, the most frequent first
  function others(store, run, name) {
    const counts = new Map(), batch = store.runs.batch[run];
    store.column(name).forEach((value, at) => {
      if (at !== run && store.runs.batch[at] === batch) counts.set(format(value), (counts.get(format(value)) ?? 0) + 1);
    });
    const sorted = [...counts].sort((a, b) => b[1] - a[1]);
    const listed = sorted.slice(0, VALUES).map(([value, n]) => `${value} (${n})`).join(", ");
    return listed + (sorted.length > VALUES ? ` … ${sorted.length} values` : "");
  }

  function differences(store, run) {
    const columns = ["parameter", "this run", "the other runs (how many)"];
    const rows = store.parameters.map(name => [name, format(store.column(name)[run]), others(store, run, name)]);
    return rows.length ? table({columns, rows, code: columns}, {label: "differences"}) : note("Its parameters are those of all other runs.");
  }

  function facts(store, run) {
    const {runs} = store, value = name => runs[name]?.[run] ?? null;
    const label = gridiron.RunTable.label(store, "value"), byColumn = store.label(value("value_column"));
    const planned = value("epochs_planned") ? ` of ${value("epochs_planned")}` : "";
    const items = [["state", stateLabel(runs.state[run])], ["why", value("why")], ["batch", store.column("batch")[run]],
      ["epochs", value("epochs") === null ? null : `${value("epochs")}${planned}`],
      ["time", duration(value("seconds"))], ["time left", duration(value("left"))],
      ["started", value("started") ? `${time(value("started"))} UTC` : null],
      [label, value("value") === null ? null
        : `${number(value("value"))} at epoch ${value("value_epoch")}${label === byColumn ? "" : `, ${byColumn}`}`]];
    return el("dl", {class: "facts"}, items.filter(([, content]) => content !== null && content !== "")
      .map(([name, content]) => el("div", {}, el("dt", {}, name), el("dd", {}, content))));
  }

  function metrics(store, run) {
    const rows = store.metrics.map(name => [store.label(name), store.column(name)[run] ?? null]).filter(([, value]) => value !== null);
    return rows.length ? el("details", {}, el("summary", {}, `${count(rows.length, "metric")}: last values`),
      table({columns: ["metric", "last value"], rows}, {label: "metrics"})) : null;
  }

  function pairs(object, label) {
    const rows = Object.entries(object ?? {}).map(([name, value]) => [name, format(value)]);
    return rows.length ? table({columns: ["name", "value"], code: ["name", "value"], rows}, {label}) : null;
  }

  // What is shown of a run whose details are not in the file
  function withoutDetails(store, run) {
    const {details_note: why, live, batches} = store.document;
    return [card("Log and config", note(why ?? "The log and the whole config of this run are not in this file."),
        live ? null : command(`python experiments.py dashboard ${quote(batches[store.runs.batch[run]].path)}`))];
  }

  // The parts that need the run's details. draw(kind, options): a chart
  function withDetails(run, details, draw) {
    const {failure, log, notes, files, folder} = details;
    return [
      failure && card("Failure", el("pre", {class: "bad", tabindex: "0"}, failure)),
      card("Steps and system", draw("details_curves", {run, details}, "details")),
      log && card("End of the log", el("p", {class: "path"}, el("code", {}, log.path), copyButton(log.text, "Copy the lines")),
        el("pre", {tabindex: "0"}, log.text)),
      card("Config", pairs(details.config, "config")),
      card("Facts", pairs(details.facts, "facts")),
      notes?.length && card("Notes", gridiron.noteItems(notes)),
      files?.length && card("Files", el("p", {class: "path"}, el("code", {}, folder), copyButton(folder)),
        table({columns: ["file", "bytes"], rows: files.map(({name, size}) => [name, size]), code: ["file"]}, {label: "files"})),
    ].filter(Boolean);
  }

  function actions(store, run, order) {
    const at = order.indexOf(run), rest = order.filter(other => other !== run);
    const step = (by, label) => {
      const other = at < 0 ? undefined : order[at + by];
      return other === undefined ? el("span", {class: "button", "aria-disabled": "true"}, label)
        : gridiron.link({view: "run", run: store.runs.key[other]}, {class: "button"}, label);
    };
    const compare = {view: "compare", run: "", a: String(run), b: gridiron.toRanges(rest)};
    return el("div", {class: "actions"}, gridiron.allRuns(), step(-1, "Previous"), step(1, "Next"),
      rest.length ? gridiron.link(compare, {class: "button"}, "Compare with the others") : null);
  }

  const curves = (store, run) => ["details_curves", {run, details: {series: {epochs: store.epochSeries(run)}}}, "epochs"];

  // Draw the page of a run into an element. order: of the runs in the table. Ends when the details are shown
  async function show(element, store, run, order, draw) {
    const loading = el("p", {class: "note", role: "status"}, "Loading the log and the config …");
    const later = el("div", {}, loading), repeat = el("div"), epochs = curves(store, run);
    element.replaceChildren(actions(store, run, order),
      el("section", {class: "card"}, el("h2", {class: "title", tabindex: "-1"}, store.runs.name[run]), facts(store, run), repeat,
        metrics(store, run)),
      card("Difference to the other runs", differences(store, run)),
      ...(epochs[1].details.series.epochs.columns.length ? [card("Learning curves", draw(...epochs))] : []), later);
    try {
      const details = await store.details(run);
      if (details) repeat.append(note("Repeat it in a new folder, with the code that it ran with, and compare the results:"),
        command(details.command));
      later.replaceChildren(...(details ? withDetails(run, details, draw) : withoutDetails(store, run)));
    } catch (error) {
      loading.className = "bad";
      loading.textContent = `The details of this run could not be read: ${gridiron.dom.clean(error.message)}`;
    }
  }

  // Make the charts of the curves while the browser has nothing else to do, for the first run that is opened
  async function prepare(store, prepareBox) {
    await new Promise(window.requestIdleCallback ?? (done => setTimeout(done, 500)));  // Safari has none
    if (store.runs.name.length) await prepareBox(...curves(store, 0));
  }

  gridiron.runPage = {show, prepare};
})(window.gridiron);
