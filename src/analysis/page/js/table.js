"use strict";
// The table of runs: only the rows in view exist, and while the table is out of view they wait. Sorted by a heading;
// selected by mouse or keyboard.
(gridiron => {
  const {el, clean, format, comparer, replace, shorten, stateLabel, duration, time} = gridiron.dom;
  const MOST = 40;  // characters of a cell
  const NARROW = 600;  // pixels
  const DIGITS = 5;  // of a metric
  const ABOVE = 5;  // rows above those in view, and below
  const PRINTED = 1000;  // rows on paper
  const LABELS = {__proto__: null, index: "#", name: "run", seconds: "time", epochs_planned: "planned epochs", left: "time left",
    value_epoch: "best epoch", value_column: "by column", repeat_of: "repeats"};
  const cells = {
    __proto__: null,  // a column may be named constructor
    state: value => stateLabel(value ?? "unknown"),
    epochs: (value, run, {runs}) => value === null ? "" : runs.epochs_planned?.[run] ? `${value} / ${runs.epochs_planned[run]}` : String(value),
    seconds: duration, left: duration, started: value => value ? time(value) : "", ended: value => value ? time(value) : "",
  };

  function showSelected({element, box}, isSelected) {
    if (box.checked === isSelected && element.ariaSelected === String(isSelected)) return;
    box.checked = isSelected;
    element.ariaSelected = String(isSelected);
  }

  class RunTable {
    constructor(element, store) {
      this.store = store;
      this.active = null;  // the run that the keyboard is at
      this.widths = new Map();  // of columns, until the data change
      this.rows = [];  // elements, which show other runs when the table is scrolled
      this.isStale = false;  // it has changed while it was out of view
      this.inView = true;
      this.body = el("tbody");
      this.head = el("tr");
      this.columnWidths = el("colgroup");
      [this.above, this.below] = [0, 1].map(() => el("tr", {class: "spacer", "aria-hidden": "true"}));
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
      this.isNarrow = this.box.clientWidth < NARROW;  // asked for each cell, it would lay out the page each time
      store.on("data", () => { this.widths = new Map(); this.update(); });
      store.on("filter", () => this.update());
      store.on("selection", () => this.drawChecks());
      store.on("settings", names => { if (names.some(name => ["sort", "columns", "metric"].includes(name))) this.update(); });
      new ResizeObserver(() => { this.isNarrow = this.box.clientWidth < NARROW; this.draw(); }).observe(this.box);
      new IntersectionObserver(entries => {
        this.inView = entries.at(-1).isIntersecting;
        if (this.inView && this.isStale) this.drawAll();
      }, {rootMargin: "100px"}).observe(this.box);
      window.addEventListener("beforeprint", () => this.drawAll(PRINTED));
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

    // The label, which for the value that ranks the runs says that it is not the last one
    static heading(store, name) {
      return name === "value" ? `${RunTable.label(store, name)}, best epoch` : RunTable.label(store, name);
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
      this.empty.hidden = this.order.length > 0;
      if (this.inView) this.drawAll();
      else this.isStale = true;
    }

    drawAll(most = 0) {
      this.isStale = false;
      this.drawHead();
      this.draw(true, most);
    }

    // Draw the headings if they have changed
    drawHead() {
      const {sort} = this.store.settings, shown = JSON.stringify([this.columns, sort, this.columns.map(name =>
        [this.width(name), RunTable.label(this.store, name), this.store.isNumeric(name)])]);
      if (shown !== this.headShown) this.makeHead(sort.replace(/^-/, ""), sort.startsWith("-"));
      this.headShown = shown;
      this.drawChecks();
    }

    makeHead(sorted, descending) {
      const {store} = this, focused = this.head.contains(document.activeElement) ? document.activeElement.dataset.column : null;
      this.columnWidths.replaceChildren(...[3, ...this.columns.map(name => this.width(name))].map(width => {
        const column = el("col");
        column.style.width = `${width}ch`;
        return column;
      }));
      const all = el("input", {type: "checkbox", "aria-label": "select all runs shown",
        on: {change: event => store.select(event.target.checked ? this.order : [], {source: "table"})}});
      const heads = this.columns.map(name => el("th", {scope: "col", class: name === "name" ? "name" : store.isNumeric(name) ? "number" : null,
        "aria-sort": name === sorted ? (descending ? "descending" : "ascending") : null},
      el("button", {type: "button", title: name, data: {column: name}, on: {click: () => this.sortBy(name)}}, RunTable.heading(store, name))));
      this.head.replaceChildren(el("th", {scope: "col", class: "check"}, all), ...heads);
      if (focused) [...this.head.querySelectorAll("button")].find(button => button.dataset.column === focused)?.focus();
    }

    // Check and color the rows that are selected
    drawChecks() {
      const {store, rows, head} = this, all = head.querySelector("input");
      for (const row of rows) showSelected(row, store.selected.has(row.run));
      if (!all) return;
      all.checked = this.order.length > 0 && this.order.every(run => store.selected.has(run));
      all.indeterminate = !all.checked && store.selected.size > 0;
    }

    width(name) {
      if (!this.widths.has(name)) this.widths.set(name, this.measureColumn(name));
      return this.widths.get(name);
    }

    // The width of a column in characters, by some of its cells
    measureColumn(name) {
      const {store} = this, column = store.column(name), step = Math.max(1, Math.floor(store.count / 300));
      let longest = RunTable.heading(store, name).length + 3;
      for (let run = 0; run < store.count; run += step) longest = Math.max(longest, this.text(name, column[run], run).length);
      return Math.min(Math.max(longest, 5), this.most(name)) * .93 + 3;
    }

    // Characters of a cell; names leave room for other columns on a phone
    most(name) { return name === "name" && this.isNarrow ? MOST / 2 : MOST; }

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

    // Draw the rows in view. always: even if they are the same as before; most: so many from the first on
    draw(always = false, most = 0) {
      const height = this.rowHeight ??= this.measure();
      const first = most ? 0 : Math.max(0, Math.floor(this.box.scrollTop / height) - ABOVE);
      const last = Math.min(this.order.length, most || first + Math.ceil(this.box.clientHeight / height) + 2 * ABOVE);
      if (!always && first === this.first && last === this.last) return;
      [this.first, this.last] = [first, last];
      this.table.setAttribute("aria-rowcount", this.order.length + 1);
      this.showRows(this.order.slice(first, last), first);
      const left = this.order.length - last, isPrinted = most > 0 && left > 0;
      this.above.style.height = `${first * height}px`;
      this.below.style.height = isPrinted ? "" : `${left * height}px`;
      this.below.className = isPrinted ? "" : "spacer";
      replace(this.below, isPrinted ? el("td", {colspan: this.columns.length + 1}, `… and ${left} more runs`) : null);
    }

    // Show runs in the rows, of which some are made or removed
    showRows(runs, first) {
      const columns = this.columns.join("\n"), base = this.store.address({view: "run", run: ""});
      if (columns !== this.columnsShown) this.rows = [];
      this.columnsShown = columns;
      if (this.body.contains(document.activeElement)) this.box.focus({preventScroll: true});
      const isLonger = this.rows.length < runs.length;
      while (this.rows.length < runs.length) this.rows.push(this.makeRow());
      const removed = this.rows.splice(runs.length);
      if (isLonger || !this.above.isConnected || this.body.childElementCount !== this.rows.length + removed.length + 2)
        this.body.replaceChildren(this.above, ...this.rows.map(row => row.element), this.below);
      else removed.forEach(row => row.element.remove());
      runs.forEach((run, at) => this.showRun(this.rows[at], run, first + at, base));
    }

    measure() {
      const row = this.makeRow();
      if (this.order.length) this.showRun(row, this.order[0], 0, "#");
      this.body.replaceChildren(row.element);
      return this.body.firstChild.getBoundingClientRect().height || 30;
    }

    // A row without a run: {element, box, cells}
    makeRow() {
      const box = el("input", {type: "checkbox", tabindex: "-1"});
      const cells = this.columns.map(name => name === "name"
        ? el("th", {scope: "row", class: "name"}, el("a", {tabindex: "-1"})) : el("td"));
      return {run: null, box, cells, texts: [], element: el("tr", {"aria-selected": "false"}, el("td", {class: "check"}, box), cells)};
    }

    // base: address of the page of a run, without the run
    showRun(row, run, at, base) {
      const {store} = this, {element, box, cells} = row;
      row.run = run;
      element.id = `row-${run}`;
      element.dataset.run = run;
      element.ariaRowIndex = at + 2;
      box.ariaLabel = `select ${clean(store.runs.name[run])}`;
      element.classList.toggle("active", run === this.active);
      showSelected(row, store.selected.has(run));
      this.columns.forEach((name, i) => {
        const value = store.column(name)[run] ?? null, text = this.text(name, value, run);
        if (name === "name") this.showLink(cells[i].firstChild, store.runs.key[run], base);
        const why = name === "state" ? store.runs.why?.[run] ?? "" : "", shown = `${typeof value} ${why} ${text}`;
        if (shown === row.texts[i]) return;
        row.texts[i] = shown;
        this.showCell(cells[i], name, value, text, why);
      });
    }

    showLink(link, key, base) {
      link.href = `${base}&run=${encodeURIComponent(key)}`;
      link.dataset.set = JSON.stringify({view: "run", run: key});
    }

    showCell(cell, name, value, text, why) {
      const most = this.most(name), title = name === "state" ? why : name === "name" || text.length > MOST ? text : "";
      if (title) cell.title = clean(title);
      else cell.removeAttribute("title");
      if (name === "state") return replace(cell, stateLabel(value ?? "unknown"));
      cell.classList.toggle("number", typeof value === "number");
      (name === "name" ? cell.firstChild : cell).textContent = clean(shorten(text, most));
      return cell;
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
