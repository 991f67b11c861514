"use strict";
// The sections of the page beside charts and runs: search, best settings and runs, failures, parameters, resources,
// notes, messages, what was left out. Each is drawn again only if its part of the document has changed.
(gridiron => {
  const {el, format, count, time, table, comparer, stateLabel, command} = gridiron.dom;
  const OPEN = 3;  // failures that are unfolded
  const LEVELS = 12;  // values of a parameter that are listed

  const heading = (store, batch) => store.document.batches.length > 1 ? el("h3", {}, batch.name) : null;
  const perBatch = (store, content) => store.document.batches.map(batch => {
    const parts = [content(batch)].flat(Infinity).filter(Boolean);
    return parts.length ? [heading(store, batch), ...parts] : null;
  });
  const titled = (title, ...parts) => parts.flat(Infinity).filter(Boolean).length ? [el("h3", {}, title), ...parts] : null;
  const tableOf = (one, title) => one && one.rows.length ? table(one, {label: title}) : null;

  // ---- one function each: what it shows, from the store

  function best(store) {
    const {together, batches} = store.document;
    const several = together ? [["All batches", together]] : [];
    return [...several, ...batches.map(batch => [batch.name, batch])].map(([name, part]) => {
      const tables = [["Best settings", part.best], ["Best runs", part.best_runs]].filter(([, one]) => one);
      if (!tables.length) return null;
      return tables.map(([title, one]) => titled(together ? `${title}: ${name}` : title, tableOf(one, title) ?? one.notes.map(note => el("p", {class: "note"}, note))));
    });
  }

  const runLink = (store, run, name) => run === undefined || run === null ? el("code", {}, name)
    : gridiron.link({view: "run", run: store.runs.key[run]}, {}, name ?? store.runs.name[run]);

  function failures(store) {
    return perBatch(store, batch => batch.failures.map((group, at) => el("details", {class: "failure", open: at < OPEN},
      el("summary", {}, el("b", {}, group.count.toLocaleString("en")), " ", stateLabel(group.state), group.error ? [": ", el("code", {}, group.error)] : null),
      el("p", {class: "names"}, group.runs.slice(0, 10).map((run, i) => [i ? ", " : "", runLink(store, run, group.names[i])]),
        group.runs.length ? "" : group.names.join(", "), group.count > 10 ? ` … and ${(group.count - 10).toLocaleString("en")} more` : "", " ",
        group.runs.length ? el("button", {type: "button", on: {click: () => {
          store.select(group.runs, {source: "failures"});
          document.getElementById("runs").scrollIntoView();
        }}}, `Select ${group.count === 1 ? "this run" : "these runs"}`) : null),
      group.log ? [el("p", {class: "path"}, el("code", {}, group.path ?? "")), el("pre", {tabindex: "0"}, group.log)] : el("p", {class: "note"}, "No log."))));
  }

  function parameters(store) {
    const rows = store.parameters.map(name => {
      const levels = new Map(store.column(name).map(value => [format(value), value]));
      const values = [...levels.values()].sort(comparer(false));
      return [name, values.length, values.slice(0, LEVELS).map(format).join(", ") + (values.length > LEVELS ? " …" : "")];
    });
    const constant = Object.entries(store.constant).map(([name, value]) => [name, format(value)]);
    return [rows.length ? table({columns: ["parameter", "values", "which"], rows, code: ["parameter", "which"]}, {label: "parameters that vary"})
      : el("p", {class: "note"}, "No parameter varies."),
    constant.length ? el("details", {}, el("summary", {}, `${count(constant.length, "parameter")} with the same value in all runs`),
      table({columns: ["parameter", "value"], rows: constant, code: ["parameter", "value"]}, {label: "constant parameters"})) : null];
  }

  function noteItems(notes) {
    return notes.length ? el("ul", {class: "notes"}, notes.map(note => el("li", {}, el("span", {class: "when"},
      `${time(note.time)} UTC · ${note.commit ?? "no commit"}`), el("span", {}, note.text)))) : null;
  }

  const notes = store => perBatch(store, batch => [noteItems(batch.notes ?? []), store.document.live ? null
    : [el("p", {class: "note"}, "Add a note:"), command(`python experiments.py note ${batch.folder_quoted ?? batch.path} "…"`)]]);

  const resources = store => perBatch(store, batch => tableOf(batch.resources, "resources"));
  const active = store => perBatch(store, batch => tableOf(batch.active, "runs that have not ended"));
  const skipped = store => perBatch(store, batch => tableOf(batch.skipped, "left out"));
  const rungs = store => perBatch(store, batch => batch.search ? [el("p", {}, batch.search.headline), tableOf(batch.search.rungs, "rungs"),
    batch.search.error ? el("p", {class: "bad"}, batch.search.error) : null] : null);
  const message = ({title, lines}) => [el("h4", {}, title), el("ul", {}, lines.map(line => el("li", {}, line)))];
  const messages = store => [store.document.together?.messages?.map(message), perBatch(store, batch => [
    batch.messages.map(message), batch.changed_code ? [el("h4", {}, "Code changed since submission"), tableOf(batch.changed_code, "changed code")] : null])];

  const has = (store, name) => store.document.batches.some(batch => batch[name]?.rows ? batch[name].rows.length : batch[name]?.length || batch[name]?.rungs);
  const total = (store, name) => store.document.batches.reduce((sum, batch) => sum + (batch[name]?.rows ?? batch[name] ?? []).length, 0);

  // id, title, content, whether there is any, number beside the title, charts that are drawn below
  const SECTIONS = [
    {id: "messages", title: "Messages", content: messages, shown: store => has(store, "messages") || has(store, "changed_code") || store.document.together?.messages?.length},
    {id: "search", title: "Search", content: rungs, shown: store => has(store, "search"), charts: ["best_so_far", "rungs"]},
    {id: "best", title: "Best", content: best, shown: store => Boolean(store.document.together) || store.document.batches.some(batch => batch.best || batch.best_runs)},
    {id: "failures", title: "Failed runs", content: failures, shown: store => has(store, "failures"),
      number: store => store.document.batches.flatMap(batch => batch.failures).reduce((sum, group) => sum + group.count, 0)},
    {id: "active", title: "Not ended", content: active, shown: store => has(store, "active"), number: store => total(store, "active")},
    {id: "parameters", title: "Parameters", content: parameters, shown: store => store.count > 0},
    {id: "resources", title: "Resources used and requested", content: resources, shown: store => has(store, "resources")},
    {id: "notes", title: "Notes", content: notes, shown: store => store.document.batches.length > 0, number: store => total(store, "notes")},
    {id: "skipped", title: "Left out", content: skipped, shown: store => has(store, "skipped"), number: store => total(store, "skipped")},
  ];

  const allRuns = () => gridiron.link({view: "runs", run: ""}, {class: "button"}, "← All runs");

  Object.assign(gridiron, {allRuns, sections: SECTIONS, noteItems, runLink});
})(window.gridiron);
