"use strict";
// The document, decoded, with what the reader has chosen: filters, selection and settings, which are kept in the address.
(gridiron => {
  const {el, format, fromBase64} = gridiron.dom;
  const BASE = ["name", "batch", "index", "state", "end", "why", "epochs", "epochs_planned", "left", "seconds", "started",
    "ended", "seed", "value", "value_epoch", "value_column", "repeat_of"];
  const DEFAULTS = {view: "runs", run: "", filter: "", states: "", only: false, metric: "", sort: "", columns: "",
    selected: "", a: "", b: "", all: false, at: ""};

  const EMPTY = {batches: [], runs: {count: 0, key: [], batch: [], name: [], state: [], parameters: {}, metrics: {}},
    curves: {metrics: [], others: [], grids: [], of: {}}};

  // Names of columns are foreign texts, such as __proto__: keep them in an object without a prototype
  const named = object => Object.assign(Object.create(null), object);
  const decode = {int: text => new Int32Array(fromBase64(text).buffer), float: text => new Float32Array(fromBase64(text).buffer),
    double: text => new Float64Array(fromBase64(text).buffer)};

  // Runs as text, 0-4,9, and back
  function toRanges(runs) {
    const parts = [], sorted = [...runs].sort((a, b) => a - b);
    for (let i = 0; i < sorted.length; i++) {
      const first = sorted[i];
      while (sorted[i + 1] === sorted[i] + 1) i++;
      parts.push(first === sorted[i] ? first : `${first}-${sorted[i]}`);
    }
    return parts.join(",");
  }
  function fromRanges(text, size) {
    const runs = new Set();
    for (const [, first, last] of text.matchAll(/(\d+)(?:-(\d+))?/g))
      for (let run = Number(first); run <= Math.min(Number(last ?? first), size - 1); run++) runs.add(run);
    return runs;
  }

  class Store {
    constructor() {
      this.listeners = {};
      this.defaults = {...DEFAULTS};
      this.settings = {...DEFAULTS};
      this.selected = new Set();
      this.failed = () => {};  // called with the error of a listener
      this.load(EMPTY);
    }

    // Events: data, filter, selection, settings, theme. Returns a function that removes the listener.
    on(event, listener) {
      (this.listeners[event] ??= new Set()).add(listener);
      return () => this.listeners[event].delete(listener);
    }

    emit(event, detail) {
      for (const listener of this.listeners[event] ?? []) {
        try { listener(detail); } catch (error) { this.failed(error); }
      }
    }

    load(document) {
      this.document = document;
      this.runs = {...document.runs, parameters: named(document.runs.parameters), metrics: named(document.runs.metrics)};
      this.labels = named(document.labels);
      this.goals = named(document.goals);
      this.constant = named(this.runs.constant);
      this.grids = document.curves.grids.map(grid => ({offset: decode.int(grid.offset), epoch: decode.int(grid.epoch)}));
      this.curves = named(document.curves.of);
      this._values = new Map();  // of curves, decoded
      this._newer = new Map();  // by metric and run: curves that have changed since
      this._details = new Map(Object.entries(document.details ?? {}).map(([key, value]) => [key, Promise.resolve(value)]));
      this._changed();
    }

    _changed() {
      this.count = this.runs.count = this.runs.key.length;
      this.parameters = Object.keys(this.runs.parameters);
      this.metrics = Object.keys(this.runs.metrics);
      this.index = new Map(this.runs.key.map((key, run) => [key, run]));
      this._columns = new Map();
      this._numeric = new Map();
      this._cached = new Map();
      this._texts = [];
      this._filter(true);
    }

    // ---- columns

    columnNames() {
      return [...BASE.filter(name => this.runs[name]), ...this.parameters, ...this.metrics, ...Object.keys(this.constant)];
    }

    // The values of all runs: of a parameter, a metric, a constant, or a column such as state
    column(name) {
      if (!this._columns.has(name)) this._columns.set(name, this._column(name));
      return this._columns.get(name);
    }

    _column(name) {
      const {parameters, metrics} = this.runs;
      if (Object.hasOwn(parameters, name)) return parameters[name];
      if (Object.hasOwn(metrics, name)) return metrics[name];
      if (name === "batch") return this.runs.batch.map(at => this.document.batches[at]?.name ?? "");
      if (BASE.includes(name)) return this.runs[name] ?? Array(this.count).fill(null);
      return Array(this.count).fill(this.constant[name] ?? null);
    }

    isNumeric(name) {
      if (!this._numeric.has(name)) {
        const values = this.column(name).filter(value => value !== null && value !== undefined);
        this._numeric.set(name, values.length > 0 && values.every(value => typeof value === "number"));
      }
      return this._numeric.get(name);
    }

    // What is computed of the data under a name, once until they change
    cached(name, compute) {
      if (!this._cached.has(name)) this._cached.set(name, compute());
      return this._cached.get(name);
    }

    label(name) { return this.labels[name] ?? name; }

    // What a text in the filter is searched in
    text(run) {
      return this._texts[run] ??= [this.runs.name[run], this.column("batch")[run], this.runs.state[run], this.runs.end?.[run],
        this.runs.why?.[run], ...this.parameters.map(name => format(this.runs.parameters[name][run]))].join("\n").toLowerCase();
    }

    get metric() {
      const chosen = this.settings.metric;
      return this.metrics.includes(chosen) ? chosen : this.rankingColumns()[0] ?? this.metrics[0] ?? null;
    }

    // The columns that rank runs, in order of preference: those of averaged weights before those of the last ones
    rankingColumns() {
      return this.cached("ranking columns", () => [...new Set(this.document.batches.flatMap(batch =>
        batch.metric?.columns ?? []))].filter(name => this.metrics.includes(name)));
    }

    goal(metric) {
      return this.goals[metric] ?? this.document.batches.map(batch => batch.metric)
        .find(one => one?.columns.includes(metric))?.goal ?? null;
    }

    // ---- curves and details

    // {epoch: Int32Array, value: Float32Array} of a run, evaluated epochs only
    curve(metric, run) {
      const newer = this._newer.get(metric)?.get(run);
      if (newer) return newer;
      const packed = this.curves[metric], grid = packed && this.grids[packed.grid];
      if (!grid || run + 1 >= grid.offset.length) return {epoch: new Int32Array(0), value: new Float32Array(0)};
      if (!this._values.has(metric)) this._values.set(metric, decode.float(packed.value));
      const [first, end] = [grid.offset[run], grid.offset[run + 1]];
      return {epoch: grid.epoch.subarray(first, end), value: this._values.get(metric).subarray(first, end)};
    }

    // The points of a series of the details, or of `epochSeries`
    series({x, value}) {
      return typeof x === "string" ? {x: decode.double(x), value: decode.float(value)} : {x, value};
    }

    // The curves of a run as a series of details
    epochSeries(run) {
      const curves = this.document.curves.metrics.map(metric => [metric, this.curve(metric, run)]).filter(([, {epoch}]) => epoch.length);
      return {x: "epoch", columns: curves.map(([metric]) => metric),
        of: Object.fromEntries(curves.map(([metric, {epoch, value}]) => [metric, {x: Float64Array.from(epoch), value}]))};
    }

    // The details of a run; null where the file has none
    details(run) {
      const key = this.runs.key[run];
      if (!this._details.has(key)) this._details.set(key, this.fetchDetails ? this.fetchDetails(key).catch(error => {
        this._details.delete(key);
        throw error;
      }) : Promise.resolve(null));
      return this._details.get(key);
    }

    forgetDetails(run) { if (this.fetchDetails) this._details.delete(this.runs.key[run]); }

    // Take over what has changed: {document} as a whole, or {runs, curves, batches, together} in part
    apply(change) {
      if (change.document) this._replace(change.document);
      if (change.runs) this._applyRuns(change.runs);
      for (const points of change.curves ?? []) this._applyPoints(points);
      for (const part of ["batches", "together"]) if (change[part]) this.document[part] = change[part];
      this._changed();
      this.emit("data", change);
    }

    // Load another document; the same runs stay selected, wherever they are in it
    _replace(document) {
      const moved = text => toRanges(keys(text).map(key => this.index.get(key)).filter(run => run !== undefined));
      const before = this.runs.key, keys = text => [...fromRanges(text, before.length)].map(run => before[run]);
      const {selected, a, b} = this.settings;
      this.load(document);
      this._put({selected: moved(selected), a: moved(a), b: moved(b)});
      this.selected = fromRanges(this.settings.selected, this.count);
    }

    _applyRuns({indices, ...columns}) {
      const put = (target, source) => indices.forEach((run, at) => { target[run] = source[at]; });
      for (const [name, values] of Object.entries(columns)) {
        if (Array.isArray(values)) put(this.runs[name] ??= Array(this.count).fill(null), values);
        else if (name === "parameters" || name === "metrics") for (const [column, cells] of Object.entries(values))
          put(this.runs[name][column] ??= Array(this.count).fill(null), cells);
      }
      indices.forEach(run => this.forgetDetails(run));
    }

    // Points of a run that are new: they follow those up to the epoch `after`
    _applyPoints({run, after, epoch, of}) {
      const epochs = decode.int(epoch);
      for (const [metric, packed] of Object.entries(of)) {
        const before = this.curve(metric, run), values = decode.float(packed);
        const kept = before.epoch.filter(earlier => earlier <= after).length;
        const evaluated = [...values.keys()].filter(at => !Number.isNaN(values[at]));
        if (!this._newer.has(metric)) this._newer.set(metric, new Map());
        this._newer.get(metric).set(run, {
          epoch: Int32Array.from([...before.epoch.subarray(0, kept), ...evaluated.map(at => epochs[at])]),
          value: Float32Array.from([...before.value.subarray(0, kept), ...evaluated.map(at => values[at])])});
        if (!this.document.curves.metrics.includes(metric)) this.document.curves.metrics.push(metric);
      }
    }

    // ---- what is chosen

    filter(text) { this.set({filter: text}); }

    // The runs that pass the filters; a filter with a mistake leaves the earlier one in force
    _filter(keep = false) {
      const {filter, states, only} = this.settings;
      const compiled = gridiron.filter.compile(filter, this);
      this.filterError = compiled.error;
      if (compiled.test) this._test = compiled.test;
      else if (keep || !this._test) this._test = () => true;
      const wanted = new Set(states.split(",").filter(Boolean));
      this.visible = Uint8Array.from({length: this.count}, (_, run) => Number((!wanted.size || wanted.has(this.runs.state[run]))
        && (!only || !this.selected.size || this.selected.has(run)) && this._test(run)));
      this.visibleCount = this.visible.reduce((sum, shown) => sum + shown, 0);
      this.filterHint = !compiled.error && !this.visibleCount && this.count && filter ? gridiron.filter.hint(filter, this) : null;
    }

    // Select runs. add: keep those selected before; source: who selects, for listeners
    select(runs, {add = false, source = null} = {}) {
      this.selected = new Set([...(add ? this.selected : []), ...runs]);
      this._put({selected: toRanges(this.selected)});
      if (this.settings.only) this._filter();
      this.emit("selection", {source});
      if (this.settings.only) this.emit("filter");
    }

    // Show the page of a run
    open(run) { this.set({view: "run", run: this.runs.key[run]}); }

    // Change settings. view, run: a new entry of the browser's history
    set(changes) {
      const changed = Object.keys(changes).filter(name => this.settings[name] !== changes[name]);
      if (!changed.length) return;
      this._put(changes, changed.some(name => name === "view" || name === "run"));
      this._announce(changed);
    }

    _announce(changed) {
      if (changed.some(name => ["filter", "states", "only"].includes(name))) {
        this._filter();
        this.emit("filter");
      }
      if (changed.includes("selected")) {
        this.selected = fromRanges(this.settings.selected, this.count);
        this.emit("selection", {source: "address"});
      }
      this.emit("settings", changed);
    }

    _put(changes, remember = false) {
      Object.assign(this.settings, changes);
      try {
        history[remember ? "pushState" : "replaceState"](null, "", this.address());
      } catch { /* a frame without an address of its own, as in a notebook */ }
    }

    address(changes = {}) {
      const all = {...this.settings, ...changes};
      const changed = Object.entries(all).filter(([name, value]) => value !== this.defaults[name]);
      const texts = changed.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]);
      return `#${new URLSearchParams(texts)}`;
    }

    // Take over the settings of the address; one that is not understood keeps its default
    readAddress() {
      const before = {...this.settings}, given = new URLSearchParams(location.hash.slice(1));
      for (const [name, fallback] of Object.entries(this.defaults)) {
        const text = given.get(name);
        this.settings[name] = text === null ? fallback : read(text, fallback);
      }
      this._announce(Object.keys(this.settings).filter(name => before[name] !== this.settings[name]));
    }
  }

  function read(text, fallback) {
    if (typeof fallback === "string") return text;
    if (typeof fallback === "boolean") return text === "true";
    if (typeof fallback === "number") return Number.isFinite(Number(text)) ? Number(text) : fallback;
    try { return JSON.parse(text); } catch { return fallback; }
  }

  // Which of some runs count in means, as in docs/statistics.md: without diverged ones and exact repeats; those that have
  // ended, or all while none has
  function counted(store, runs) {
    const {end = [], repeat_of: repeats = []} = store.runs, names = new Set(runs.map(run => store.runs.name[run]));
    const candidates = runs.filter(run => end[run] !== "diverged" && !names.has(repeats[run] ?? null));
    const ended = candidates.filter(run => end[run]);
    return ended.length ? ended : candidates;
  }

  // A link that changes settings, so that it can be opened in another tab or sent too
  const store = new Store();
  const link = (changes, attributes, ...children) => el("a", {href: store.address(changes), data: {set: JSON.stringify(changes)},
    ...attributes}, ...children);
  document.addEventListener("click", event => {
    const target = event.target.closest("a[data-set]");
    if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    store.set(JSON.parse(target.dataset.set));
  });

  Object.assign(gridiron, {Store, counted, toRanges, fromRanges, store, link});
})(window.gridiron);
