"use strict";
// Many parameters at once: parallel coordinates, and heat maps of two parameters.
(gridiron => {
  const {Chart, Empty, palette, parts} = gridiron.charts;
  const {count, format, shorten} = gridiron.dom;
  const MAX_AXES = 9, MAX_PATHS = 1000, MAX_CELLS = 14, MAX_TEXTS = 200;
  const short = value => format(Number(value.toPrecision(3)));

  class Parallel extends Chart {
    selects = "axes";
    get uses() { return ["metric", "group", "axes", "logy"]; }

    build() {
      const {store} = this, metric = parts.metricOf(store), value = metric && store.column(metric);
      this.brushes = new Map();
      const wanted = store.settings.axes.split("\n").filter(name => store.parameters.includes(name));
      const names = wanted.length ? wanted : parts.settingNames(store).slice(0, MAX_AXES - 1);
      this.runs = this.visible().filter(run => value && Number.isFinite(value[run] ?? NaN));
      if (!this.runs.length || !names.length) throw new Empty(!store.visibleCount ? "No run passes the filter."
        : this.runs.length ? "No parameter varies." : "No run has been evaluated yet.");
      this.axes = [...names, metric].map(name => this._axis(name));
      this.groups = parts.groups(store, store.settings.group || metric, this.runs);
      this.paths = this.runs.map(run => new Float64Array(this.axes.map(axis => axis.height(run))));
      this.position = new Map(this.runs.map((run, at) => [run, at]));
      const step = Math.ceil(this.runs.length / MAX_PATHS),
        drawn = this.runs.map((_, at) => at).filter(at => at % step === 0);
      const xs = Float64Array.from(this.axes.keys()), n = this.axes.length, narrow = this.width < 110 * n;
      const notes = [count(this.runs.length, "run"), step > 1 ? `one of ${step} drawn` : "",
        names.length < parts.settingNames(store).length && !wanted.length ? `the first ${names.length} parameters` : "",
        "drag along an axis to select; more axes narrow the selection down", parts.metricNote(store)];
      return {title: "Parallel coordinates", groups: this.groups, caption: `${notes.filter(Boolean).join("; ")}.`,
        controls: this._controls(),
        x: {start: -0.35, end: n - 0.5, ticks: this.axes.map((axis, at) =>
          [at, shorten(parts.label(store, axis.name), 22)]), rotated: narrow, label: ""},
        y: {start: -0.06, end: 1.06, hidden: true, label: ""}, glyphs: [
          {kind: "multi_line", style: {line_alpha: this.runs.length > 300 ? 0.3 : 0.6, line_width: 1},
            data: {xs: drawn.map(() => xs), ys: drawn.map(at => this.paths[at]),
            line_color: drawn.map(at => this.groups.color(this.runs[at])),
            ...(this.groups.kind === "levels"
              ? {line_dash: drawn.map(at => palette.dash(this.groups.index(this.runs[at])))} : {})}},
          {kind: "segment", style: {line_color: palette.ink, line_width: 1.2},
            data: {x0: xs, x1: xs, y0: xs.map(() => 0), y1: xs.map(() => 1)}}]};
    }

    _controls() {
      const {store} = this, set = name => value => store.set({[name]: value}),
        same = names => names.map(name => [name, parts.label(store, name)]);
      return [parts.select("metric", parts.metricOptions(store, store.metrics), store.settings.metric, set("metric")),
        parts.select("color", [["", "the metric"], ...same([...store.parameters, "state"])], store.settings.group,
        set("group"))];
    }

    // Heights of runs between 0 and 1 on an axis, and its ticks. Runs without a number are below it, texts spread out
    _axis(name) {
      const {store} = this, column = store.column(name);
      if (store.isNumeric(name)) {
        const [low, high] = parts.extent(this.runs.map(run => column[run])),
          log = parts.isLogScale(store, name, low, high), to = log ? Math.log : value => value, from = log ? Math.exp
          : value => value;
        const height = value => typeof value !== "number" ? -0.05 : high > low
          ? (to(value) - to(low)) / (to(high) - to(low)) : 0.5;
        const levels = [...new Set(this.runs.map(run => column[run]).filter(value =>
          typeof value === "number"))].sort((a, b) => a - b);
        const ticks = levels.length <= 6 ? levels : [0, 0.25, 0.5, 0.75,
          1].map(share => from(to(low) + share * (to(high) - to(low))));
        return {name, ticks: ticks.map(value => [height(value), short(value)]), height: run => height(column[run])};
      }
      const axis = parts.columnAxis(store, name, this.runs), last = Math.max(axis.levels.length - 1, 1),
        single = axis.levels.length === 1;
      return {name, ticks: axis.levels.map((level, at) => [single ? 0.5 : at / last, shorten(level, 14)]),
        height: run => Number.isNaN(axis.of(run)) ? -0.05 : single ? 0.5 : axis.of(run) / last
          + parts.jitter(run) * Math.min(0.25 / last, 0.06)};
    }

    decorate(context, frame) { if (!this.store.selected.size) this._ticks(context, frame); }

    _ticks(context, frame) {
      Object.assign(context, {font: "11px sans-serif", textBaseline: "middle"});
      this.axes.forEach((axis, at) => {
        const last = at === this.axes.length - 1;
        context.textAlign = last ? "right" : "left";
        const room = frame.width / this.axes.length - 10;
        for (const [height, text] of axis.ticks) {
          const [x, y] = [frame.x(at) + (last ? -5 : 5), frame.y(height)], width = Math.min(context.measureText(text).width, room);
          Object.assign(context, {fillStyle: palette.back, globalAlpha: 0.85});  // the lines behind it make it hard to read
          context.fillRect(last ? x - width - 2 : x - 2, y - 7, width + 4, 14);
          Object.assign(context, {fillStyle: palette.ink, globalAlpha: 1});
          context.fillText(text, x, y, room);
        }
      });
      Object.assign(context, {strokeStyle: palette.ink, lineWidth: 1.5});
      for (const [at, [low, high]] of this.brushes) context.strokeRect(frame.x(at) - 7, frame.y(high), 14,
        frame.y(low) - frame.y(high));
    }

    emphasize(context, frame, runs, hovered) {
      context.lineWidth = hovered ? 3.5 : runs.length > 200 ? 1 : 1.6;
      context.globalAlpha = hovered || runs.length <= 200 ? 1 : 0.6;
      const xs = this.axes.map((_, at) => frame.x(at));
      for (const run of runs) {
        const path = this.paths[this.position.get(run)];
        if (!path) continue;
        context.strokeStyle = hovered ? palette.ink : this.groups.color(run);
        context.setLineDash(palette.dash(this.groups.index(run)));
        context.beginPath();
        path.forEach((height, at) => context[at ? "lineTo" : "moveTo"](xs[at], frame.y(height)));
        context.stroke();
      }
      context.globalAlpha = 1;
      context.setLineDash([]);
      if (this.store.selected.size || hovered) this._ticks(context, frame);
    }

    items() { const value = this.store.column(parts.metricOf(this.store));
      return [...this.runs].sort((a, b) => value[b] - value[a]); }

    near(x, y, frame) {
      const at = Math.min(Math.max(frame.toX(x), 0), this.axes.length - 1),
        left = Math.min(Math.floor(at), this.axes.length - 2), share = at - left;
      let best = null, least = parts.NEAR;
      this.runs.forEach((run, position) => {
        const path = this.paths[position], distance = Math.abs(frame.y(path[left]
          + share * (path[left + 1] - path[left])) - y);
        if (distance < least) { least = distance; best = run; }
      });
      return best === null ? null : this.describe(best, frame, x, y);
    }

    describe(run, frame, x = frame.left + frame.width / 2, y = frame.top + 20) {
      const [name, ...rest] = parts.runLines(this.store, run), metric = parts.metricOf(this.store);
      return {item: run, x, y,
        lines: [name, `${parts.label(this.store, metric)}: ${format(this.store.column(metric)[run])}`, ...rest]};
    }

    // A box over an axis limits it; over several, all of them
    _brushed(geometry, modifiers, mode) {
      if (!(modifiers.shift || mode === "append") && this.fromElsewhere) this.brushes.clear();
      const [left, right, low, high] = [Math.min(geometry.x0, geometry.x1), Math.max(geometry.x0, geometry.x1),
        Math.min(geometry.y0, geometry.y1), Math.max(geometry.y0, geometry.y1)];
      let covered = this.axes.map((_, at) => at).filter(at => at >= left && at <= right);
      if (!covered.length) covered = [Math.min(Math.max(Math.round((left + right) / 2), 0), this.axes.length - 1)];
      for (const at of covered) this.brushes.set(at, [low, high]);
      this.fromElsewhere = false;
      this.store.select(this.runs.filter((_, position) =>
        [...this.brushes].every(([at, [from, to]]) => this.paths[position][at] >= from
        && this.paths[position][at] <= to)), {source: this.kind});
    }

    invalidate(event, detail) {
      if (event === "selection" && detail?.source !== this.kind) { this.brushes?.clear(); this.fromElsewhere = true; }
      if (event === "selection" && !this.store.selected.size) this.brushes?.clear();
      super.invalidate(event, detail);
    }
  }

  // The levels of a column on a heat map; many numbers are put into bins
  function bins(store, name, runs) {
    const column = store.column(name), values = [...parts.countValues(column,
      runs).keys()].sort(gridiron.dom.comparer(false));
    if (!store.isNumeric(name) || values.length <= MAX_CELLS) {
      const kept = values.slice(0, 2 * MAX_CELLS), position = new Map(kept.map((value, at) => [value, at]));
      return {labels: kept.map(value => shorten(format(value), 14)), of: run => position.get(parts.keyOf(column[run]))
        ?? -1, left: values.length - kept.length};
    }
    const [low, high] = parts.extent(runs.map(run => column[run])), log = parts.isLogScale(store, name, low, high),
      to = log ? Math.log : value => value, from = log ? Math.exp : value => value, n = 8;
    const edge = at => from(to(low) + at / n * (to(high) - to(low)));
    return {labels: Array.from({length: n}, (_, at) => `${short(edge(at))}–${short(edge(at + 1))}`), left: 0,
      of: run => typeof column[run] !== "number" ? -1
        : Math.min(Math.floor(n * (to(column[run]) - to(low)) / (to(high) - to(low))), n - 1)};
  }

  class HeatMap extends Chart {
    selects = "cells";
    get uses() { return ["metric", "hx", "hy"]; }

    // The two parameters: as chosen, else those that the metric depends on most
    names() {
      const {store} = this, names = parts.settingNames(store), ranked = parts.byInfluence(store),
        {hx, hy} = store.settings;
      const x = names.includes(hx) ? hx : ranked.find(name => name !== hy);
      return [x, names.includes(hy) && hy !== x ? hy : ranked.find(name => name !== x)];
    }

    build() {
      const {store} = this, metric = parts.metricOf(store), value = metric && store.column(metric),
        [xName, yName] = this.names();
      const evaluated = this.visible().filter(run => value && Number.isFinite(value[run] ?? NaN)),
        runs = gridiron.counted(store, evaluated);
      if (!runs.length) throw new Empty(store.visibleCount ? "No run has been evaluated yet."
        : "No run passes the filter.");
      if (!xName || !yName) throw new Empty("A heat map needs two parameters that vary.");
      const x = bins(store, xName, runs), y = bins(store, yName, runs), cells = new Map();
      for (const run of runs) {
        const [i, j] = [x.of(run), y.of(run)], key = `${i} ${j}`;
        if (i < 0 || j < 0) continue;
        if (!cells.has(key)) cells.set(key, {i, j, runs: []});
        cells.get(key).runs.push(run);
      }
      this.cells = [...cells.values()];
      for (const cell of this.cells) cell.mean = parts.mean(cell.runs.map(run => value[run]));
      const [low, high] = parts.extent(this.cells.map(cell => cell.mean)), share = cell => high > low
        ? (cell.mean - low) / (high - low) : 0.5;
      const room = (this.width - 110) / x.labels.length, small = room < 48,  // pixels of a cell; of the axis: 110
        texts = this.cells.length <= MAX_TEXTS && room >= 28 ? this.cells : [], dark = document.documentElement.dataset.theme === "dark";
      this.labels = {x: x.labels, y: y.labels, xName, yName};
      const left = x.left + y.left, cell = at => this.cells.map(one => one[at]);
      const notes = [`mean of ${count(runs.length, "run")} that count, over all other parameters`, texts.length && !small ? "n: runs in a cell" : "",
        left ? `${left} values left out` : "", evaluated.length > runs.length
        ? `${count(evaluated.length - runs.length, "run")} not counted` : "", parts.metricNote(store)];
      return {title: `${parts.label(store, metric)} by ${xName} and ${yName}`,
        groups: {kind: "numbers", name: metric, low, high, log: false}, caption: `${notes.filter(Boolean).join("; ")}.`,
        height: Math.min(Math.max(34 * y.labels.length + 110, 240), 560), controls: this._controls(xName, yName),
        x: {start: -0.5, end: x.labels.length - 0.5, label: xName, ticks: x.labels.map((text, at) => [at, text]),
          rotated: x.labels.join("").length > this.width / 9},
        y: {start: -0.5, end: y.labels.length - 0.5, label: yName, ticks: y.labels.map((text, at) => [at, text])},
          glyphs: [
          {kind: "rect", style: {width: 0.96, height: 0.96, line_color: null},
            data: {x: cell("i"), y: cell("j"), fill_color: this.cells.map(one => palette.fraction(share(one)))}},
          {kind: "text", style: {text_align: "center", text_baseline: "middle", text_font_size: small ? "9px"
            : "11px"}, data: {x: texts.map(one => one.i), y: texts.map(one => one.j),
            text: texts.map(one => small ? short(one.mean) : `${short(one.mean)}\nn=${one.runs.length}`),
              text_color: texts.map(one => share(one) * (dark ? 0.88 : 0.9) + (dark ? 0.12 : 0) > 0.55 ? "#111"
              : "#fff")}}]};
    }

    _controls(xName, yName) {
      const {store} = this, set = name => value => store.set({[name]: value}),
        names = parts.settingNames(store).map(name => [name, name]);
      return [parts.select("x", names, xName, set("hx")), parts.select("y", names, yName, set("hy")),
        parts.select("metric", parts.metricOptions(store, store.metrics), store.settings.metric, set("metric"))];
    }

    emphasize(context, frame, items, hovered) {
      const chosen = new Set(items), unit = [frame.x(1) - frame.x(0), frame.y(0) - frame.y(1)];
      this.cells.forEach((cell, at) => {
        const inside = hovered ? (items[0] === at ? 1 : 0)
          : cell.runs.filter(run => chosen.has(run)).length / cell.runs.length;
        if (!inside) return;
        const [x, y] = [frame.x(cell.i - 0.48), frame.y(cell.j + 0.48)],
          [width, height] = [0.96 * unit[0], 0.96 * unit[1]];
        if (!hovered) context.clearRect(x, y, width, height);
        Object.assign(context, {strokeStyle: palette.ink, lineWidth: hovered ? 3 : 2});
        context.setLineDash(inside < 1 ? [4, 3] : []);
        context.strokeRect(x + 1, y + 1, width - 2, height - 2);
      });
      context.setLineDash([]);
    }

    items() { return this.cells.map((_, at) => at); }
    pick(item, add) { this.store.select(this.cells[item].runs, {add, source: this.kind}); }
    runOf(item) { return this.cells[item].runs[0]; }

    near(x, y, frame) {
      const [i, j] = [Math.round(frame.toX(x)), Math.round(frame.toY(y))],
        at = this.cells.findIndex(cell => cell.i === i && cell.j === j);
      return at < 0 ? null : this.describe(at, frame);
    }

    describe(item, frame) {
      const cell = this.cells[item], {x, y, xName, yName} = this.labels, metric = parts.metricOf(this.store),
        value = this.store.column(metric), [low, high] = parts.extent(cell.runs.map(run => value[run]));
      return {item, x: frame.x(cell.i), y: frame.y(cell.j),
        lines: [`${xName} = ${x[cell.i]}, ${yName} = ${y[cell.j]}`,
        `mean ${parts.label(this.store, metric)}: ${format(cell.mean)}`, `${format(low)} to ${format(high)}`,
        count(cell.runs.length, "run")]};
    }

    // A rectangle selects the cells that it touches
    within(inside, {x0, x1, y0, y1}) {
      const touches = (at, a, b) => at + 0.5 >= Math.min(a, b) && at - 0.5 <= Math.max(a, b);
      return this.cells.filter(cell => touches(cell.i, x0, x1) && touches(cell.j, y0, y1)).flatMap(cell => cell.runs);
    }
  }

  Object.assign(gridiron.charts.kinds, {parallel: Parallel, heatmap: HeatMap});
})(window.gridiron);
