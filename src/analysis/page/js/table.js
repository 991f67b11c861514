"use strict";
// The table of runs: only the rows in view exist. Sorted by a heading; selected by mouse or keyboard.
(gridiron => {
  const {el, format, comparer, shorten, stateLabel, duration, time} = gridiron.dom;
  const MOST = 40;  // characters of a cell
  const NARROW = 600;  // pixels
  const DIGITS = 5;  // of a metric
  const PRINTED = 1000;  // rows on paper
  const LABELS = {__proto__: null, index: "#", name: "run", seconds: "time", epochs_planned: "planned epochs", left: "time left",
    value_epoch: "best epoch", value_column: "by column", repeat_of: "repeats"};
  const cells = {
    __proto__: null,  // a column may be named constructor
    state: value => stateLabel(value ?? "unknown"),
    epochs: (value, run, {runs}) => value === null ? "" : runs.epochs_planned?.[run] ? `${value} / ${runs.epochs_planned[run]}` : String(value),
    seconds: duration, left: duration, started: value => value ? time(value) : "", ended: value => value ? time(value) : "",
  };

  class RunTable {
    constructor(element, store) {
      this.store = store;
      this.active = null;  // the run that the keyboard is at
      this.widths = new Map();  // of columns, until the data change
      this.body = el("tbody");
      this.head = el("tr");
      this.columnWidths = el("colgroup");
      this.table = el("table", {class: "runs", "aria-multiselectable": "true", role: "grid", "aria-label": "runs"},
        this.columnWidths, el("thead", {}, this.head), this.body);
      this.box = el("div", {class: "wide scroll", tabindex: "0", role: "region",
        "aria-label": "Runs: arrow keys move, Space selects, Enter opens a run, Escape clears the selection",
        on: {scroll: () => this.draw(), keydown: event => this.onKey(event)}}, this.table);
      this.body.addEventListener("click", event => this.onClick(event));
      this.body.addEventListener("dblclick", event => {
        if (this.runOf(event) !== null) store.open(this.runOf(event));
      });
      this.empty = el("p", {class: "empty", role: "status", hidden: true}, "No run passes the filters. ", el("button", {type: "button",
        on: {click: () => store.set({filter: "", states: "", only: false})}}, "Clear the filters"));
      element.append(this.box, this.empty);
      store.on("data", () => { this.widths = new Map(); this.update(); });
      store.on("filter", () => this.update());
      store.on("selection", () => this.draw(true));
      store.on("settings", names => { if (names.some(name => ["sort", "columns", "metric"].includes(name))) this.update(); });
      new ResizeObserver(() => this.draw()).observe(this.box);
      window.addEventListener("beforeprint", () => this.draw(true, PRINTED));
      window.addEventListener("afterprint", () => this.draw(true));
      this.update();
    }

    // ---- columns

    static allColumns(store) {
      return store.columnNames().filter(name => !Object.hasOwn(store.constant, name));
    }

    static defaultColumns(store) {
      const has = name => store.column(name).some(value => value !== null && value !== undefined && value !== "");
      const named = new Set(store.rankingColumns());
      return ["name", ...(store.document.batches.length > 1 ? ["batch"] : []), "state", "epochs", "value", ...store.parameters,
        ...store.metrics.filter(name => named.has(name) || name === store.metric), "seconds", "why", "repeat_of"].filter(has);
    }

    static columns(store) {
      const all = RunTable.allColumns(store);
      let chosen = [];
      try { chosen = JSON.parse(store.settings.columns || "[]"); } catch { /* an address that was cut off */ }
      chosen = Array.isArray(chosen) ? chosen.filter(name => all.includes(name)) : [];
      return chosen.length ? chosen : RunTable.defaultColumns(store);
    }

    static label(store, name) {
      if (name === "value") return store.document.batches.find(batch => batch.metric)?.metric.label ?? "best value";
      return LABELS[name] ?? store.label(name);
    }

    // ---- rows

    update() {
      const {store} = this, {sort} = store.settings, descending = sort.startsWith("-"), name = sort.replace(/^-/, "");
      this.columns = RunTable.columns(store);
      this.order = [...store.visible.keys()].filter(run => store.visible[run]);
      if (store.columnNames().includes(name)) {
        const column = store.column(name), compare = comparer(descending);
        this.order.sort((a, b) => compare(column[a], column[b]) || a - b);
      }
      this.position = new Map(this.order.map((run, at) => [run, at]));
      this.drawHead(name, descending);
      this.draw(true);
    }

    drawHead(sorted, descending) {
      const {store} = this, focused = this.head.contains(document.activeElement) ? document.activeElement.dataset.column : null;
      this.columnWidths.replaceChildren(...[3, ...this.columns.map(name => this.width(name))].map(width => {
        const column = el("col");
        column.style.width = `${width}ch`;
        return column;
      }));
      const all = el("input", {type: "checkbox", "aria-label": "select all runs shown",
        on: {change: event => store.select(event.target.checked ? this.order : [], {source: "table"})}});
      all.checked = this.order.length > 0 && this.order.every(run => store.selected.has(run));
      const heads = this.columns.map(name => el("th", {scope: "col", class: name === "name" ? "name" : store.isNumeric(name) ? "number" : null,
        "aria-sort": name === sorted ? (descending ? "descending" : "ascending") : null},
      el("button", {type: "button", title: name, data: {column: name}, on: {click: () => this.sortBy(name)}}, RunTable.label(store, name))));
      this.head.replaceChildren(el("th", {scope: "col", class: "check"}, all), ...heads);
      if (focused) [...this.head.querySelectorAll("button")].find(button => button.dataset.column === focused)?.focus();
    }

    width(name) {
      if (!this.widths.has(name)) this.widths.set(name, this.measureColumn(name));
      return this.widths.get(name);
    }

    // The width of a column in characters, by some of its cells
    measureColumn(name) {
      const {store} = this, column = store.column(name), step = Math.max(1, Math.floor(store.count / 300));
      let longest = RunTable.label(store, name).length + 3;
      for (let run = 0; run < store.count; run += step) longest = Math.max(longest, this.text(name, column[run], run).length);
      return Math.min(Math.max(longest, 5), this.most(name)) * .93 + 3;
    }

    // Characters of a cell; names leave room for other columns on a phone
    most(name) { return name === "name" && this.box.clientWidth < NARROW ? MOST / 2 : MOST; }

    // The best first of a metric, else ascending; again: the other way round; once more: as submitted
    sortBy(name) {
      const {sort} = this.store.settings, goal = name === "value" ? this.store.goal(this.store.rankingColumns()[0]) : this.store.goal(name);
      const [first, second] = goal === "maximize" ? [`-${name}`, name] : [name, `-${name}`];
      this.store.set({sort: sort === first ? second : sort === second ? "" : first});
    }

    text(name, value, run) {
      if (cells[name]) {
        const made = cells[name](value ?? null, run, this.store);
        return typeof made === "string" ? made : made.textContent;
      }
      if (this.store.parameters.includes(name)) return format(value);
      if (value === null || value === undefined) return "";
      return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(DIGITS))) : format(value);
    }

    // Draw the rows in view. always: even if they are the same as before
    draw(always = false, most = 0) {
      const height = this.rowHeight ??= this.measure();
      const first = most ? 0 : Math.max(0, Math.floor(this.box.scrollTop / height) - 6);
      const last = Math.min(this.order.length, most || first + Math.ceil(this.box.clientHeight / height) + 14);
      if (!always && first === this.first && last === this.last) return;
      [this.first, this.last] = [first, last];
      const spacer = rows => {
        const row = el("tr", {class: "spacer", "aria-hidden": "true"});
        row.style.height = `${rows * height}px`;
        return row;
      };
      const focused = this.body.contains(document.activeElement);
      this.empty.hidden = this.order.length > 0;
      this.table.setAttribute("aria-rowcount", this.order.length + 1);
      const more = most && last < this.order.length ? `… and ${this.order.length - last} more runs` : null;
      this.body.replaceChildren(spacer(first), ...this.order.slice(first, last).map((run, at) => this.row(run, first + at)),
        more ? el("tr", {}, el("td", {colspan: this.columns.length + 1}, more)) : spacer(this.order.length - last));
      if (focused) this.box.focus({preventScroll: true});
      const check = this.head.querySelector("input");
      if (check) check.indeterminate = !check.checked && this.store.selected.size > 0;
    }

    measure() {
      this.body.replaceChildren(this.order.length ? this.row(this.order[0], 0) : el("tr", {}, el("td", {}, "x")));
      return this.body.firstChild.getBoundingClientRect().height || 30;
    }

    row(run, at) {
      const {store} = this, selected = store.selected.has(run);
      const box = el("input", {type: "checkbox", tabindex: "-1", "aria-label": `select ${store.runs.name[run]}`});
      box.checked = selected;
      return el("tr", {class: run === this.active ? "active" : null, "aria-selected": String(selected), "aria-rowindex": at + 2,
        id: `row-${run}`, data: {run}}, el("td", {class: "check"}, box), this.columns.map(name => this.cell(name, run)));
    }

    cell(name, run) {
      const {store} = this, value = store.column(name)[run] ?? null;
      if (name === "state") return el("td", {title: store.runs.why?.[run] || null}, stateLabel(value ?? "unknown"));
      const text = this.text(name, value, run);
      if (name === "name") return el("th", {scope: "row", class: "name", title: text}, gridiron.link(
        {view: "run", run: store.runs.key[run]}, {tabindex: "-1"}, shorten(text, this.most(name))));
      return el("td", {class: typeof value === "number" ? "number" : null, title: text.length > MOST ? text : null}, shorten(text, MOST));
    }

    // ---- mouse and keyboard

    runOf(event) {
      const row = event.target.closest("tr[data-run]");
      return row ? Number(row.dataset.run) : null;
    }

    onClick(event) {
      const run = this.runOf(event);
      if (run === null || event.target.closest("a")) return;
      const toggles = event.target.closest(".check") || event.ctrlKey || event.metaKey;
      if (event.shiftKey && this.anchor !== undefined) this.selectRange(run);
      else if (toggles) this.toggle(run);
      else this.store.select(this.store.selected.size === 1 && this.store.selected.has(run) ? [] : [run], {source: "table"});
      if (!event.shiftKey) this.anchor = run;
      this.active = run;
      this.draw(true);
      this.box.focus({preventScroll: true});
    }

    toggle(run) {
      const chosen = new Set(this.store.selected);
      if (!chosen.delete(run)) chosen.add(run);
      this.store.select(chosen, {source: "table"});
    }

    selectRange(run) {
      const [from, to] = [this.position.get(this.anchor) ?? 0, this.position.get(run)].sort((a, b) => a - b);
      this.store.select(this.order.slice(from, to + 1), {source: "table"});
    }

    onKey(event) {
      if (event.target.closest("thead")) return;
      const page = Math.max(1, Math.floor(this.box.clientHeight / this.rowHeight) - 2), at = this.position.get(this.active) ?? -1;
      const last = this.order.length - 1;
      const target = {ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: last}[event.key];
      if (target !== undefined) this.moveTo(Math.min(Math.max(target, 0), last), event.shiftKey);
      else if (event.key === " " && this.active !== null) { this.toggle(this.active); this.anchor = this.active; }
      else if (event.key === "Enter" && this.active !== null) this.store.open(this.active);
      else if (event.key === "Escape") this.store.select([], {source: "table"});
      else if (event.key === "a" && (event.ctrlKey || event.metaKey)) this.store.select(this.order, {source: "table"});
      else return;
      event.preventDefault();
    }

    moveTo(at, extend) {
      if (!this.order.length) return;
      if (extend) this.anchor ??= this.active ?? this.order[0];
      else this.anchor = this.order[at];
      this.active = this.order[at];
      if (extend) this.selectRange(this.active);
      const head = this.head.getBoundingClientRect().height, top = at * this.rowHeight, {scrollTop, clientHeight} = this.box;
      if (top < scrollTop) this.box.scrollTop = top;
      else if (top + this.rowHeight > scrollTop + clientHeight - head) this.box.scrollTop = top + this.rowHeight + head - clientHeight;
      this.draw(true);
      this.box.setAttribute("aria-activedescendant", `row-${this.active}`);
    }
  }

  gridiron.RunTable = RunTable;
})(window.gridiron);
