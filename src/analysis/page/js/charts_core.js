"use strict";
// What all charts share: palettes, groups of runs, and a Chart: a Bokeh figure with controls, a legend and a caption.
// Bokeh draws axes and all runs; an overlay above it draws what is selected or pointed at, without repainting the rest.
(gridiron => {
  const {el, format, count} = gridiron.dom;
  const MAX_LEVELS = 8;  // values of a number with a color each; more have a color bar
  const MAX_LEGEND = 16;
  const KEYS = "Arrow keys move, plus and minus zoom, 0 resets, brackets step through runs, Enter selects, o opens the run, "
    + "Escape clears.";
  const MAX_SORTED = 4000;  // values by which a range is chosen
  const NEAR = 14;  // pixels between the pointer and what it points at

  // Settings of the charts, kept in the address; "": chosen by the data
  const defaults = {logx: false, logy: false, smoothing: 0, group: "", mean: "", spread: "standard error", x: "",
    pointlogx: "", hx: "", hy: "", axes: ""};

  // Okabe and Ito's colors and others: those of groups with the same dash are told apart without full color vision
  const COLORS = {light: ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#b8860b", "#3aa0dd", "#1e1e1e", "#882255"],
    dark: ["#4fb0f0", "#ff8c42", "#2fcf9f", "#e88fc4", "#f0c040", "#9ad8ff", "#c8c8c8", "#ff7a9a"]};
  const DASHES = [[], [7, 3], [2, 3], [9, 3, 2, 3]];
  const MARKERS = ["circle", "square", "triangle", "diamond", "inverted_triangle", "plus", "x", "star"];

  const isDark = () => document.documentElement.dataset.theme === "dark";
  const variables = new Map();  // by theme and name: reading them from the style at each use is slow
  function variable(name, fallback) {
    const key = `${isDark()} ${name}`;
    if (!variables.has(key)) variables.set(key,
      getComputedStyle(document.documentElement).getPropertyValue(name).trim() || fallback);
    return variables.get(key);
  }

  const palette = {
    // Colors of the page
    get ink() { return variable("--ink", isDark() ? "#eee" : "#222"); },
    get soft() { return variable("--soft", isDark() ? "#999" : "#666"); },
    get line() { return variable("--line", isDark() ? "#444" : "#ddd"); },
    get back() { return variable("--card", isDark() ? "#1a1a1a" : "#fff"); },
    get single() { return COLORS[isDark() ? "dark" : "light"][0]; },
    category: index => COLORS[isDark() ? "dark" : "light"][index % COLORS.light.length],
    dash: index => DASHES[Math.floor(index / 2) % DASHES.length],
    marker: index => MARKERS[index % MARKERS.length],
    // A color for a fraction between 0 and 1: viridis without the end that the background swallows
    fraction(value) {
      const colors = Bokeh.Palettes.Viridis256, at = isDark() ? 0.12 + 0.88 * value : 0.9 * value;
      const number = Number.isFinite(value) ? colors[Math.round(255 * Math.min(Math.max(at, 0), 1))] : 0x888888ff;
      return `#${(number >>> 8).toString(16).padStart(6, "0")}`;
    },
  };

  // ---- numbers

  const mean = values => values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = values => { const m = mean(values);
    return Math.sqrt(values.reduce((sum, v) => sum + (v - m) ** 2, 0) / (values.length - 1)); };
  function extent(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (Number.isFinite(value)) { low = Math.min(low, value); high = Math.max(high, value);
      }
    return [low, high];
  }
  // Parameters over a decade or more have a logarithmic scale; metrics only if the reader wants it
  const isLogScale = (store, name, low, high) => low > 0
    && (store.parameters.includes(name) ? high >= 10 * low : store.settings.logy);

  // The range of an axis: all values, but of a few that are far from the others only those nearby
  function range(values, log) {
    const isIn = log ? value => value > 0 && value < Infinity : Number.isFinite, step = Math.ceil(values.length / MAX_SORTED);
    let [low, high] = extent(log ? values.filter(isIn) : values), outside = 0;
    if (low > high) return {start: log ? 0.1 : 0, end: 1, outside};
    if (!log) {  // of many values, one in a few gives the shares
      const sorted = new Float64Array(values.filter((value, at) => at % step === 0 && isIn(value))).sort();
      const at = share => sorted[Math.round(share * (sorted.length - 1))], span = at(0.98) - at(0.02);
      if (span > 0) [low, high] = [Math.max(low, at(0.02) - 2 * span), Math.min(high, at(0.98) + 2 * span)];
      for (const value of values) outside += isIn(value) && (value < low || value > high);
    }
    if (log) {
      const factor = (high / low) ** 0.04 || 1;
      return high > low ? {start: low / factor, end: high * factor, outside} : {start: low / 2, end: high * 2, outside};
    }
    const margin = 0.04 * (high - low) || Math.abs(high) / 2 || 1;
    return {start: low - margin, end: high + margin, outside};
  }

  // ---- groups of runs by a column

  // {name, kind: "none", "levels" or "numbers", color(run), index(run), entries: of a legend; low, high, log: of a bar}
  function groups(store, name, runs) {
    if (name === "") name = byInfluence(store)[0] ?? "none";
    if (name === "none") return {name, kind: "none", entries: [], index: () => 0, color: () => palette.single};
    const {kind, levels, low, high, log, indices, colors} = store.cached(
      `groups ${name} ${isDark()} ${store.settings.logy}`, () => allGroups(store, name));  // of all runs: a filter keeps the colors
    return {name, kind, low, high, log, index: run => indices?.[run] ?? 0, color: run => colors[run],
      entries: levels.map((level, at) => ({...level, index: at, runs: () => runs.filter(run => indices[run] === at)}))};
  }

  // The same of all runs: {kind, levels: {label, color}, indices, colors: of runs, …}
  function allGroups(store, name) {
    const column = store.column(name).map(keyOf), values = [...new Set(column)], isNumeric = store.isNumeric(name);
    if (isNumeric && values.length > MAX_LEVELS) {
      const [low, high] = extent(values), log = isLogScale(store, name, low, high);
      const fraction = value => typeof value !== "number" || high === low ? (high === low ? 0.5 : NaN)
        : log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
      const colors = new Map(values.map(value => [value, palette.fraction(fraction(value))]));
      return {kind: "numbers", levels: [], low, high, log, colors: column.map(value => colors.get(value))};
    }
    values.sort(gridiron.dom.comparer(false));
    // a few ordered numbers have colors in order; categories have colors apart
    const isOrdered = isNumeric && values.length > 2, position = new Map(values.map((value, at) => [value, at])),
      levels = values.map((value, at) => ({label: format(value), color: isOrdered ? palette.fraction(at / (values.length - 1))
        : palette.category(at)}));
    const indices = column.map(value => position.get(value));
    return {kind: "levels", levels, indices, colors: indices.map(at => levels[at].color)};
  }

  // What a value is counted by: itself, its text if it is a list or a mapping
  const keyOf = value => typeof value === "object" && value !== null ? format(value) : value ?? null;
  // The number of runs of each value
  function countValues(column, runs) {
    const sizes = new Map();
    for (const run of runs) { const key = keyOf(column[run]); sizes.set(key, (sizes.get(key) ?? 0) + 1); }
    return sizes;
  }

  // Parameters that are no seeds: what a setting is; runs of a setting are its repeats
  const settingNames = store => store.parameters.filter(name => !name.split(".").pop().startsWith("seed"));
  function settings(store, runs) {
    const setting = store.cached("settings", () => {
      const names = settingNames(store), columns = names.map(name => store.column(name)), numbers = new Map();
      return store.runs.key.map((_, run) => {
        const key = JSON.stringify([store.runs.batch[run], ...columns.map(column => column[run])]);
        if (!numbers.has(key)) numbers.set(key, numbers.size);
        return numbers.get(key);
      });
    });
    const members = new Map();
    for (const run of runs) {
      const others = members.get(setting[run]);
      if (others) others.push(run); else members.set(setting[run], [run]);
    }
    return [...members.values()];
  }

  // The column that runs are compared by: the chosen metric, else the value that ranks them
  function metricOf(store) {
    if (store.metrics.includes(store.settings.metric)) return store.settings.metric;
    return store.column("value").some(value => value !== null && value !== undefined) ? "value" : store.metric;
  }
  // The choices of a metric, and what is said of the one that is chosen
  function metricOptions(store, names) {
    const ranks = store.document.batches.find(batch => batch.metric)?.metric;
    return [...(ranks ? [["", `ranking: ${label(store, "value")}`]] : []),
      ...names.map(name => [name, label(store, name)])];
  }
  function metricNote(store) {
    return store.metrics.includes(store.settings.metric) ? ""
      : store.document.batches.find(batch => batch.metric)?.metric.note ?? "";
  }

  // Parameters that are no seeds, ordered by the share of the metric's variance between their values
  const influences = new WeakMap();  // by document
  function byInfluence(store) {
    const metric = metricOf(store), value = metric && store.column(metric);
    const measured = value ? [...value.keys()].filter(run => Number.isFinite(value[run] ?? NaN)) : [];
    const key = `${metric} ${measured.length}`, cached = influences.get(store.document);
    if (cached?.key === key) return cached.names;
    const names = rankParameters(store, measured, value);
    influences.set(store.document, {key, names});
    return names;
  }
  function rankParameters(store, measured, value) {
    const total = measured.length ? deviation(measured.map(run => value[run])) ** 2 * (measured.length - 1) : 0;
    const share = name => {
      const members = new Map();
      for (const run of measured) {
        const key = store.column(name)[run];
        if (!members.has(key)) members.set(key, []);
        members.get(key).push(value[run]);
      }
      if (!(total > 0) || members.size < 2) return -1;
      const within = [...members.values()].reduce((sum, values) => sum
        + (values.length > 1 ? deviation(values) ** 2 * (values.length - 1) : 0), 0);
      const chance = (members.size - 1) / Math.max(measured.length - 1, 1);  // the share if all values were noise
      return 1 - within / total - chance;
    };
    const shares = new Map(settingNames(store).map(name => [name, share(name)]));
    return [...shares.keys()].sort((a, b) => shares.get(b) - shares.get(a));
  }

  // "accuracy, val (averaged)": a label of a column; the document's own where it has one
  function label(store, name) {
    const metric = name === "value" && store.document.batches.find(batch => batch.metric)?.metric;
    return metric ? metric.label ?? `${metric.name}, ${metric.reduction}` : store.label(name);
  }

  // The text that points out a run: its name, values, and the parameters that vary
  function runLines(store, run) {
    const names = store.parameters.filter(name => store.column(name)[run] !== null).slice(0, 10);
    return [gridiron.dom.shorten(store.runs.name[run], 60),
      ...names.map(name => `${name} = ${gridiron.dom.shorten(format(store.column(name)[run]), 40)}`)];
  }

  // Plain text for Bokeh, which reads other texts as formulas
  const plain = text => new Bokeh.PlainText({text: gridiron.dom.clean(text)});

  // ---- controls: descriptions, from which elements are made, and set again where only the value has changed

  const select = (label, options, value, change) => ({kind: "select", label, options, value, change});
  const check = (label, value, change) => ({kind: "check", label, value, change});
  const slider = (label, value, limits, change) => ({kind: "slider", label, limits, value, change});

  const inputs = {
    select: control => el("select", {on: {change: event => control.current.change(event.target.value)}},
      control.current.options.map(([key, text]) => el("option", {value: key}, text))),
    check: control => el("input", {type: "checkbox", on: {change: event => control.current.change(event.target.checked)}}),
    slider: control => el("input", {type: "range", ...control.current.limits,
      on: {input: event => control.current.change(Number(event.target.value))}}),
  };

  // The element of a control; `show` sets its value, and what a change does
  function makeControl(description) {
    const control = {current: description}, {kind, label: text} = description, input = inputs[kind](control);
    input.setAttribute("aria-label", text);
    return {element: el("label", {}, ...(kind === "check" ? [input, ` ${text}`] : [`${text} `, input])), show(next) {
      control.current = next;
      input[kind === "check" ? "checked" : "value"] = next.value;
      if (kind === "select" && input.selectedIndex < 0) input.selectedIndex = 0;
    }};
  }

  // Charts to update. They are updated at once, so that the library paints all of them in the next frame; what takes
  // longer than a part of a second goes on after that frame, so that the page answers in between
  const PART = 40;  // milliseconds
  const waiting = new Set();
  function queue(chart) {
    if (!waiting.size) setTimeout(work);
    waiting.add(chart);
  }
  function work() {
    const start = performance.now();
    for (const chart of waiting) {
      waiting.delete(chart);
      if (chart.inView && !chart.destroyed) chart.update();
      if (performance.now() - start > PART) break;
    }
    if (waiting.size) requestAnimationFrame(() => setTimeout(work));
  }

  // Charts whose overlay is drawn in the next frame
  const overlays = new Set();
  function queueOverlay(chart) {
    if (!overlays.size) requestAnimationFrame(drawOverlays);
    overlays.add(chart);
  }

  function drawOverlays() {
    const charts = [...overlays];
    overlays.clear();
    for (const chart of charts) if (!chart.destroyed) chart.drawOverlay();
  }

  // Charts that the library paints in a frame to come; their overlays follow
  const painting = new Set();
  const mounted = new Set();  // all charts

  // A promise that is fulfilled when all charts in view show the latest data, filter, selection and settings
  async function idle() {
    const isInView = ({element}) => { const {top, bottom} = element.getBoundingClientRect();
      return element.checkVisibility() && top < innerHeight && bottom > 0; };
    const isBusy = () => waiting.size || overlays.size || [...painting].some(chart => chart.inView && !chart.destroyed)
      || [...mounted].some(chart => chart.stale.size && isInView(chart));
    do {
      await new Promise(requestAnimationFrame);
      await new Promise(done => setTimeout(done));  // the frame has been painted
    } while (isBusy());
  }

  // ---- a chart

  // A subclass has build() -> {x, y: axes, glyphs, …}, emphasize() for the overlay, and near() and within(), which return
  // what is pointed at and brushed. Events of the store mark it stale; it is redrawn when it is in view.
  class Chart {
    constructor(element, store, options = {}) {
      Object.assign(this, {element, store, options, stale: new Set(["data"]), inView: false, removers: []});
      this.shown = new Promise(done => { this._isShown = done; });  // fulfilled when the chart is drawn, or has failed
      this.controls = el("div", {class: "chart-controls"});
      this.plot = el("div", {class: "chart-plot", tabindex: "0", role: "img"});
      this.overlay = el("canvas", {class: "chart-overlay"});
      this.tip = el("div", {class: "chart-tip", role: "status", "aria-live": "polite", hidden: true});
      this.legend = el("div", {class: "chart-legend"});
      this.caption = el("p", {class: "chart-caption note"});
      this.stage = el("div", {class: "chart-stage"}, this.plot, this.overlay, this.tip);
      element.replaceChildren(this.controls, this.stage, this.legend, this.caption);
      for (const event of ["data", "filter", "settings", "theme", "selection"])
        this.removers.push(store.on(event, detail => this.invalidate(event, detail)));
      this.watcher = new IntersectionObserver(entries => {
        this.inView = entries.at(-1).isIntersecting;
        this.schedule();
      }, {rootMargin: "20px"});
      this.watcher.observe(element);
      this.resizes = new ResizeObserver(entries => {
        const {width, height} = entries.at(-1).contentRect;  // reading it from the plot would lay out the page
        this.size = {width, height};
        this.scheduleOverlay();
      });
      this.resizes.observe(this.plot);
      this._listen();
      mounted.add(this);
    }

    // In pixels
    get width() { return this.size?.width ?? this.element.clientWidth; }

    // Settings that this chart shows: others do not redraw it
    get uses() { return []; }

    invalidate(event, detail) {
      if (event === "settings" && Array.isArray(detail) && !detail.some(name => this.uses.includes(name))) return;
      this.stale.add(event);
      this.schedule();
    }

    schedule() {
      if (this.inView && this.stale.size && !this.destroyed) queue(this);
    }

    update() {
      const events = this.stale;
      this.stale = new Set();
      if ([...events].some(event => event !== "selection")) {
        try { this._rebuild(events); } catch (error) { this._fail(error); }
      }
      if (!painting.has(this)) this.scheduleOverlay();
    }

    _fail(error) {
      this._isShown();
      this._discard();
      this.plot.replaceChildren(el("p", {class: "chart-empty"}, error instanceof Empty ? error.message
        : `not drawn: ${error.message}`));
      this.legend.replaceChildren();
      this.legendShown = null;
      this.caption.textContent = "";
      if (!(error instanceof Empty)) this.store.failed?.(error);
    }

    // The runs that pass the filters
    visible() {
      const runs = [];
      for (let run = 0; run < this.store.count; run++) if (this.store.visible[run]) runs.push(run);
      return runs;
    }

    // Selected and visible; empty: nothing is selected
    chosen() { return [...this.store.selected].filter(run => this.store.visible[run]); }

    _rebuild(events) {
      this.hovered = null;
      this.showTip(null);
      const plan = this.build(events);
      if ([...events].some(event => event !== "filter")) this._showControls(plan.controls ?? []);
      const shape = JSON.stringify([[plan.x, plan.y].map(axis => [axis.log, Boolean(axis.ticks)]),
        plan.glyphs.map(glyph => Object.keys(glyph.data))]);
      if (!this.figure || shape !== this.shape || events.has("theme")) this._create(plan);
      else this._refill(plan, events);
      this.shape = shape;
      this._legend(plan.groups);
      this.caption.textContent = plan.caption ?? "";
      this.plot.setAttribute("aria-label",
        `${plan.title}. ${plan.caption ?? ""} ${KEYS}`);
    }

    _showControls(descriptions) {
      const shape = JSON.stringify(descriptions.map(({kind, label: text, options}) => [kind, text, options]));
      if (shape !== this.controlsShape) {
        if (this.controls.contains(document.activeElement)) return;  // someone is using them
        this.controlsShape = shape;
        this.controlElements = descriptions.map(makeControl);
        this.controls.replaceChildren(...this.controlElements.map(({element}) => element));
      }
      descriptions.forEach((description, at) => this.controlElements[at].show(description));
    }

    _range(axis) { return new Bokeh.Range1d({start: axis.start, end: axis.end}); }

    _create(plan) {
      const {ink, soft, line, back} = palette, style = getComputedStyle(this.element);
      const height = plan.height ?? (parseInt(style.getPropertyValue("--chart-height"), 10) || 340);
      const figure = Bokeh.Plotting.figure({height, sizing_mode: "stretch_width", min_width: 220,
        x_range: this._range(plan.x), y_range: this._range(plan.y),
        x_axis_type: plan.x.log ? "log" : "linear", y_axis_type: plan.y.log ? "log" : "linear", tools: "",
          toolbar_location: this.isSmall ? null : "above",
        background_fill_color: back, border_fill_color: back, outline_line_color: line, output_backend: "canvas",
          min_border_right: 12, lod_threshold: null});
      this._tools(figure);
      for (const [axis, spec] of [[figure.xaxis, plan.x], [figure.yaxis, plan.y]]) axis.each(one => {
        Object.assign(one, {axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: soft,
          major_tick_line_color: soft,
          minor_tick_line_color: null, axis_label_text_font_style: "normal", axis_label_text_font_size: "12px",
            major_label_text_font_size: "11px",
          visible: !spec.hidden});
        labelAxis(one, spec);
      });
      for (const grid of [figure.xgrid, figure.ygrid]) grid.each(one =>
        { one.grid_line_color = line; one.grid_line_alpha = 0.6; });
      this.sources = plan.glyphs.map(glyph => {
        const source = new Bokeh.ColumnDataSource({data: glyph.data});
        const fields = Object.fromEntries(Object.keys(glyph.data).map(name => [name, {field: name}]));
        figure[glyph.kind]({source, ...fields, ...glyph.style});
        return source;
      });
      this._discard();
      this.figure = figure;
      this.auto = {x: plan.x, y: plan.y};
      const host = el("div", {class: "chart-figure"});
      this.plot.replaceChildren(host);
      Bokeh.Plotting.show(figure, host).then(view => {
        this._isShown();
        if (this.figure !== figure) return view.remove();
        this.view = view;
        for (const model of [figure.x_range, figure.y_range, ...this.sources])
          model.change.connect(() => painting.add(this));
        view.repainted.connect(() => {
          painting.delete(this);
          overlays.delete(this);
          this.drawOverlay();
        });
        gridiron.library.shorten(figure, view);
        return this.scheduleOverlay();
      }).catch(error => this._fail(error));
    }

    // Forget the figure, which the library would keep with its data
    _discard() {
      painting.delete(this);
      this.view?.remove();
      const {documents} = Bokeh, at = documents.indexOf(this.figure?.document);
      if (at >= 0) documents.splice(at, 1);
      this.view = this.figure = null;
    }

    _tools(figure) {
      const box = this.selects ? new Bokeh.BoxSelectTool({renderers: []}) : null, zoom = new Bokeh.BoxZoomTool();
      const lasso = this.selects === "points" ? [new Bokeh.LassoSelectTool({renderers: [], continuous: false})] : [];
      figure.add_tools(...(box ? [box] : []), ...lasso, zoom, new Bokeh.WheelZoomTool({modifiers: {ctrl: true}}),
        ...(this.isSmall ? [] : [new Bokeh.ResetTool(), new Bokeh.PanTool(), new Bokeh.SaveTool()]));
      figure.toolbar.logo = null;
      figure.toolbar.active_drag = box ?? zoom;
      figure.toolbar.active_scroll = figure.toolbar.tools.find(tool => tool instanceof Bokeh.WheelZoomTool);
      figure.on_event("selectiongeometry", event => {
        if (event.final) this._brushed(event.geometry, event.modifiers ?? {}, event.mode);
      });
    }

    // New data in the same figure. A view that the reader has zoomed stays, unless the filter or a setting changed
    _refill(plan, events) {
      plan.glyphs.forEach((glyph, at) => { this.sources[at].data = glyph.data; });
      if (plan.height) this.figure.height = plan.height;
      this.figure.xaxis.each(one => labelAxis(one, plan.x));
      this.figure.yaxis.each(one => labelAxis(one, plan.y));
      const live = [...events].every(event => event === "data" || event === "selection");
      for (const [name, range] of [["x", this.figure.x_range], ["y", this.figure.y_range]]) {
        const next = {start: plan[name].start, end: plan[name].end}, zoomed = range.start !== this.auto[name].start
          || range.end !== this.auto[name].end;
        range.setv({reset_start: next.start, reset_end: next.end, ...(live && zoomed ? {} : next)});
      }
      this.auto = {x: plan.x, y: plan.y};
    }

    _legend(groups) {
      this.grouped = groups;
      const shown = JSON.stringify([groups?.name, groups?.kind, groups?.low, groups?.high, groups?.log,
        groups?.entries?.map(entry => entry.label), isDark()]);
      if (shown === this.legendShown) return;
      this.legendShown = shown;
      const items = [];
      if (groups?.kind === "levels") {
        items.push(el("b", {}, label(this.store, groups.name)));
        for (const [at, entry] of groups.entries.slice(0, MAX_LEGEND).entries())
          items.push(el("button", {type: "button", class: "chart-entry", title: "select these runs",
            on: {click: event => this.store.select(this.grouped.entries[at].runs(),
              {add: event.shiftKey || event.ctrlKey || event.metaKey, source: "legend"})}}, this.swatch(entry),
              ` ${gridiron.dom.shorten(entry.label, 32)}`));
        if (groups.entries.length > MAX_LEGEND) items.push(el("span", {},
          `… ${groups.entries.length - MAX_LEGEND} more`));
      } else if (groups?.kind === "numbers") {
        const bar = el("span", {class: "chart-bar", "aria-hidden": "true"});
        const colors = [0, 0.2, 0.4, 0.6, 0.8, 1].map(palette.fraction);
        bar.style.background = `linear-gradient(to right, ${colors.join(", ")})`;
        const middle = groups.log ? Math.sqrt(groups.low * groups.high) : (groups.low + groups.high) / 2;
        items.push(el("b", {}, label(this.store, groups.name) + (groups.log ? " (log)" : "")),
          el("span", {class: "chart-scale"}, bar,
          el("span", {class: "chart-scale-ends"}, ...[groups.low, middle,
            groups.high].map(value => el("span", {}, format(Number(value.toPrecision(3))))))));
      }
      this.legend.replaceChildren(...items);
    }

    // The sign of a group in the legend; lines by default
    swatch(entry) {
      const canvas = el("canvas", {width: 52, height: 20, class: "chart-swatch", "aria-hidden": "true"}),
        context = canvas.getContext("2d");
      context.scale(2, 2);
      Object.assign(context, {strokeStyle: entry.color, fillStyle: entry.color, lineWidth: 2});
      this.sign(context, entry.index, 13, 5);
      return canvas;
    }
    sign(context, index, x, y) {
      context.setLineDash(palette.dash(index));
      context.beginPath();
      context.moveTo(x - 12, y);
      context.lineTo(x + 12, y);
      context.stroke();
    }

    // ---- overlay

    scheduleOverlay() { queueOverlay(this); }

    // Scales of the drawn frame, in pixels of the stage
    frame() {
      const frame = this.view?.frame;
      if (!frame || !(frame.bbox.width > 0)) return null;
      const {left, top, width, height} = frame.bbox;
      return {left, top, width, height, x: value => frame.x_scale.compute(value),
        y: value => frame.y_scale.compute(value),
        toX: pixel => frame.x_scale.invert(pixel), toY: pixel => frame.y_scale.invert(pixel)};
    }

    drawOverlay() {
      const {width, height} = this.size ??= {width: this.plot.clientWidth, height: this.plot.clientHeight},
        ratio = window.devicePixelRatio || 1, frame = this.frame();
      const size = {width: Math.round(width * ratio), height: Math.round(height * ratio)};
      if (this.overlay.width !== size.width || this.overlay.height !== size.height) Object.assign(this.overlay, size);
      const context = this.overlay.getContext("2d");
      const isPointing = this.hovered !== null && this.hovered !== undefined, isMarked = this.store.selected.size
        && !this.selectionHidden;
      const isEmpty = !frame || !(isPointing || isMarked || this.decorate);
      if (isEmpty && this.isBlank) return;
      this.isBlank = isEmpty;
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      if (isEmpty) return;
      context.save();
      this.decorate?.(context, frame);
      context.beginPath();
      context.rect(frame.left, frame.top, frame.width, frame.height);
      context.clip();
      if (isMarked) {
        Object.assign(context, {fillStyle: palette.back, globalAlpha: 0.78});
        context.fillRect(frame.left, frame.top, frame.width, frame.height);
        context.globalAlpha = 1;
        this.emphasize(context, frame, this.chosen(), false);
      }
      if (isPointing) this.emphasize(context, frame, [this.hovered], true);
      context.restore();
    }

    // ---- pointer and keyboard

    _listen() {
      const listen = (target, event, listener) => { target.addEventListener(event, listener);
        this.removers.push(() => target.removeEventListener(event, listener)); };
      const position = event => { const box = this.plot.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top]; };
      listen(this.plot, "pointermove", event => { if (!event.buttons) this._point(...position(event)); });
      listen(this.plot, "pointerleave", () => this._hover(null));
      let pressed = null;
      listen(this.plot, "pointerdown", event => { pressed = position(event); this.plot.focus({preventScroll: true}); });
      listen(this.plot, "pointerup", event => {
        const [x, y] = position(event);
        if (!pressed || Math.hypot(x - pressed[0], y - pressed[1]) > 4 || !this._inFrame(x, y)) return;
        this._point(x, y);
        this._choose(event);
      });
      listen(this.plot, "dblclick", () => this.isSmall ? this._reset() : this._open());
      listen(this.plot, "keydown", event => this._key(event));
    }

    _inFrame(x, y) {
      const frame = this.frame();
      return frame && x >= frame.left && x <= frame.left + frame.width && y >= frame.top && y <= frame.top
        + frame.height;
    }

    // Open the page of the run that is pointed at
    _open() {
      const run = this.hovered === null || this.hovered === undefined ? null : this.runOf(this.hovered);
      if (run !== null) this.store.open?.(run);
    }

    _choose(event) {
      const add = event.shiftKey || event.ctrlKey || event.metaKey;
      if (this.hovered !== null && this.hovered !== undefined) this.pick(this.hovered, add);
      else if (!add && this.store.selected.size) this.store.select([], {source: this.kind});
    }
    runOf(item) { return item; }
    pick(item, add) { this.store.select([item], {add, source: this.kind}); }

    _point(x, y) {
      if (!this._inFrame(x, y)) return this._hover(null);
      const found = this.near(x, y, this.frame());
      return this._hover(found?.item ?? null, found);
    }

    _hover(item, found = null) {
      if (item !== this.hovered) { this.hovered = item; this.scheduleOverlay(); }
      this.showTip(found);
    }

    // found: {x, y, lines}: the first line is the heading
    showTip(found) {
      this.tip.hidden = !found;
      if (!found) return;
      this.tip.replaceChildren(...found.lines.map((line, at) => el(at ? "div" : "b", {}, line)));
      const {clientWidth: width} = this.plot, right = found.x > width / 2;
      Object.assign(this.tip.style, {top: `${Math.max(found.y - 10, 0)}px`, left: right ? "" : `${found.x + 14}px`,
        right: right ? `${width - found.x + 14}px` : ""});
    }

    // Points within a shape that was drawn with the pointer
    _brushed(geometry, modifiers, mode) {
      const inside = geometry.type === "poly" ? inPolygon(geometry) : inBox(geometry), frame = this.frame();
      if (!frame || !this.within) return;
      this.store.select(this.within(inside, geometry, frame),
        {add: mode === "append" || Boolean(modifiers.shift || modifiers.ctrl), source: this.kind});
    }

    _key(event) {
      if (!this.figure || event.altKey || event.ctrlKey || event.metaKey) return;
      const {x_range: x, y_range: y} = this.figure, [stepX, stepY] = [[x, this.auto.x.log],
        [y, this.auto.y.log]].map(([range, log]) => (share, zoom) => shift(range, log, share, zoom));
      const moves = {ArrowLeft: () => stepX(-0.1, 1), ArrowRight: () => stepX(0.1, 1), ArrowUp: () => stepY(0.1, 1),
        ArrowDown: () => stepY(-0.1, 1),
        "+": () => { stepX(0, 0.8); stepY(0, 0.8); }, "-": () => { stepX(0, 1.25); stepY(0, 1.25); },
        0: () => this._reset(),
        Escape: () => { this._hover(null); this.store.select([], {source: this.kind}); }, "]": () => this._step(1),
          "[": () => this._step(-1), o: () => this._open(),
        Enter: () => this._choose(event), " ": () => this._choose(event)};
      if (!Object.hasOwn(moves, event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      moves[event.key]();
    }

    // Show everything again
    _reset() {
      for (const name of this.figure ? ["x", "y"] : [])
        this.figure[`${name}_range`].setv({start: this.auto[name].start, end: this.auto[name].end});
    }

    // The next run in the order of the chart
    _step(by) {
      const items = this.items?.() ?? [], frame = this.frame();
      if (!items.length || !frame) return;
      const at = items.indexOf(this.hovered), next = items[(at < 0 ? (by > 0 ? 0 : items.length - 1) : at + by
        + items.length) % items.length];
      this._hover(next, this.describe(next, frame));
    }

    destroy() {
      this.destroyed = true;
      this._discard();
      mounted.delete(this);
      this.removers.forEach(remove => remove());
      this.watcher.disconnect();
      this.resizes.disconnect();
      this.element.replaceChildren();
    }
  }

  class Empty extends Error {}

  // Label an axis and its ticks; what stays the same is not set again, which would lay out the figure
  function labelAxis(axis, spec) {
    const key = JSON.stringify([spec.label, spec.ticks, spec.rotated]);
    if (labelled.get(axis) === key) return;
    labelled.set(axis, key);
    axis.axis_label = spec.label ? plain(spec.label) : null;
    if (!spec.ticks) return;
    axis.ticker = new Bokeh.FixedTicker({ticks: spec.ticks.map(([at]) => at), minor_ticks: []});
    axis.major_label_overrides = new Map(spec.ticks.map(([at, text]) => [at, plain(text)]));
    axis.major_label_orientation = spec.rotated ? 0.6 : "horizontal";
  }
  const labelled = new WeakMap();

  // Move a range by a share of its length, and zoom it about its middle
  function shift(range, log, share, zoom) {
    const to = log ? Math.log : value => value, from = log ? Math.exp : value => value;
    const [a, b] = [to(range.start), to(range.end)], middle = (a + b) / 2 + share * (b - a), half = zoom * (b - a) / 2;
    range.setv({start: from(middle - half), end: from(middle + half)});
  }

  const inBox = ({x0, x1, y0, y1}) => (x, y) => x >= Math.min(x0, x1) && x <= Math.max(x0, x1) && y >= Math.min(y0, y1)
    && y <= Math.max(y0, y1);
  const inPolygon = ({x: xs, y: ys}) => (x, y) => {
    let inside = false;
    for (let i = 0, j = xs.length - 1; i < xs.length; j = i++)
      if (ys[i] > y !== ys[j] > y && x < (xs[j] - xs[i]) * (y - ys[i]) / (ys[j] - ys[i]) + xs[i]) inside = !inside;
    return inside;
  };

  const kinds = {};
  // Draw a chart of some kind into an element. Returns {update(), destroy()}
  function mount(element, kind, store = gridiron.store, options = {}) {
    if (!Object.hasOwn(kinds, kind)) throw new Error(`no chart ${kind}; charts: ${Object.keys(kinds).join(", ")}`);
    const chart = new kinds[kind](element, store, options);
    chart.kind = kind;
    return chart;
  }

  const parts = {mean, deviation, extent, isLogScale, range, groups, settings, settingNames, byInfluence, keyOf,
    countValues, metricOf, metricOptions, metricNote, label, runLines, select, check, slider, NEAR};
  gridiron.charts = {mount, idle, kinds, palette, defaults, Chart, Empty, parts};
})(window.gridiron);
