"use strict";
// The sections of the page beside charts and runs: search, best settings and runs, failures, parameters, resources,
// notes, messages, what was left out.
(gridiron => {
  const {el, note, format, count, time, table, comparer, stateLabel, command, quote} = gridiron.dom;
  const OPEN = 3;  // failures that are unfolded
  const NAMES = 10;  // runs of a failure that are named
  const LEVELS = 12;  // values of a parameter that are listed

  // The content of each batch, below its name if there are several
  const perBatch = (store, content) => store.document.batches.map(batch => {
    const parts = [content(batch)].flat(Infinity).filter(Boolean);
    return parts.length ? [store.document.batches.length > 1 ? el("h3", {}, batch.name) : null, ...parts] : null;
  });
  const tableOf = one => one && one.rows.length ? table(one, {label: one.title}) : one?.notes.map(note);

  // ---- links

  const runLink = (store, run, name) => run === undefined || run === null ? el("code", {}, name)
    : gridiron.link({view: "run", run: store.runs.key[run]}, {}, name ?? store.runs.name[run]);
  const allRuns = () => gridiron.link({view: "runs", run: ""}, {class: "button"}, "← All runs");

  // ---- one function for each section: its content

  function best(store) {
    const {together, batches} = store.document;
    const parts = [...(together ? [["all batches", together]] : []), ...batches.map(batch => [batch.name, batch])];
    return parts.map(([name, part]) => [part.best, part.best_runs].filter(Boolean)
      .map(one => [el("h3", {}, together ? `${one.title}: ${name}` : one.title), tableOf(one)]));
  }

  const failures = store => perBatch(store, batch => batch.failures.map((group, at) => failure(store, group, at < OPEN)));

  function failure(store, group, open) {
    const {runs, names, state, error, log, path} = group, more = group.count - Math.min(group.count, NAMES);
    const select = () => {
      store.select(runs, {source: "failures"});
      document.getElementById("runs").scrollIntoView();
    };
    return el("details", {class: "failure", open},
      el("summary", {}, el("b", {}, group.count.toLocaleString("en")), " ", stateLabel(state), error ? [": ", el("code", {}, error)] : null),
      el("p", {}, names.map((name, i) => [i ? ", " : "", runLink(store, runs[i], name)]), more ? ` … and ${more.toLocaleString("en")} more` : "",
        runs.length ? [" ", el("button", {type: "button", on: {click: select}}, runs.length === 1 ? "Select this run" : "Select these runs")] : null),
      log ? [el("p", {class: "path"}, el("code", {}, path)), el("pre", {tabindex: "0"}, log)] : note("No log."));
  }

  function parameters(store) {
    const rows = store.parameters.map(name => {
      const values = [...new Map(store.column(name).map(value => [format(value), value])).values()].sort(comparer(false));
      return [name, values.length, values.slice(0, LEVELS).map(format).join(", ") + (values.length > LEVELS ? " …" : "")];
    });
    const constant = Object.entries(store.constant).map(([name, value]) => [name, format(value)]);
    const varying = {columns: ["parameter", "values", "which"], rows, code: ["parameter", "which"]};
    return [rows.length ? table(varying, {label: "parameters that vary"}) : note("No parameter varies."),
      constant.length ? el("details", {}, el("summary", {}, `${count(constant.length, "parameter")} with the same value in all runs`),
        table({columns: ["parameter", "value"], rows: constant, code: ["parameter", "value"]}, {label: "constant parameters"})) : null];
  }

  const noteItems = notes => notes.length ? el("ul", {class: "notes"}, notes.map(({time: at, commit, text}) => el("li", {},
    el("span", {class: "when"}, `${time(at)} UTC · ${commit ?? "no commit"}`), el("span", {}, text)))) : null;

  const notes = store => perBatch(store, batch => [noteItems(batch.notes ?? []),
    store.document.live ? null : [note("Add a note:"), command(`python experiments.py note ${quote(batch.path)} "…"`)]]);

  const search = store => perBatch(store, ({search: one}) => one ? [el("p", {}, one.headline), tableOf(one.rungs),
    one.error ? el("p", {class: "bad"}, one.error) : null] : null);

  const message = ({title, lines}) => el("div", {class: "message"}, el("b", {}, title),
    el("ul", {}, lines.map(line => el("li", {}, line))));
  const changedCode = one => one ? [el("h4", {}, one.title), tableOf(one)] : null;
  const messages = store => [store.document.together?.messages.map(message),
    perBatch(store, batch => [batch.messages.map(message), changedCode(batch.changed_code)])];

  const tables = name => store => perBatch(store, batch => tableOf(batch[name]));

  // ---- whether there is any, and how many

  const entries = (store, name) => store.document.batches.flatMap(batch => batch[name]?.rows ?? batch[name] ?? []);
  const has = (...names) => store => names.some(name => entries(store, name).length > 0);
  const number = name => store => entries(store, name).length;

  const SECTIONS = [
    {id: "messages", title: "Messages", content: messages,
      shown: store => has("messages", "changed_code")(store) || store.document.together?.messages.length > 0},
    {id: "search", title: "Search", content: search, shown: has("search")},
    {id: "best", title: "Best", content: best, shown: has("best", "best_runs")},
    {id: "failures", title: "Failed runs", content: failures, shown: has("failures"),
      number: store => entries(store, "failures").reduce((sum, group) => sum + group.count, 0)},
    {id: "active", title: "Not ended", content: tables("active"), shown: has("active"), number: number("active")},
    {id: "parameters", title: "Parameters", content: parameters, shown: store => store.count > 0},
    {id: "resources", title: "Resources used and requested", content: tables("resources"), shown: has("resources")},
    {id: "notes", title: "Notes", content: notes, shown: store => store.document.batches.length > 0, number: number("notes")},
    {id: "skipped", title: "Left out", content: tables("skipped"), shown: has("skipped"), number: number("skipped")},
  ];

  Object.assign(gridiron, {sections: SECTIONS, noteItems, runLink, allRuns});
})(window.gridiron);
