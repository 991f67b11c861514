"use strict";
// A metric against a column: points for numbers, strips for categories, with means.
(gridiron => {
  const {Chart, Empty, palette, parts} = gridiron.charts;
  const {count, format} = gridiron.dom;
  const MAX_STRIPS = 24, MAX_MEANS = 16;

  // A number from -0.5 to 0.5 that is always the same for a run
  const jitter = run => ((Math.imul(run + 1, 2654435761) >>> 0) / 2 ** 32) - 0.5;

  // A marker of Bokeh's name on the overlay, with radius r
  function mark(context, name, x, y, r) {
    const path = points => points.forEach(([dx, dy], at) => context[at ? "lineTo" : "moveTo"](x + r * dx, y + r * dy));
    context.beginPath();
    if (name === "circle") context.arc(x, y, r, 0, 7);
    else if (name === "square") context.rect(x - r, y - r, 2 * r, 2 * r);
    else if (name === "triangle") path([[0, -1.1], [1, 0.8], [-1, 0.8], [0, -1.1]]);
    else if (name === "inverted_triangle") path([[0, 1.1], [1, -0.8], [-1, -0.8], [0, 1.1]]);
    else if (name === "diamond") path([[0, -1.2], [0.9, 0], [0, 1.2], [-0.9, 0], [0, -1.2]]);
    else if (name === "star") path([...Array(11).keys()].map(k =>
      [Math.sin(k * Math.PI / 5) * (k % 2 ? 0.45 : 1.1), -Math.cos(k * Math.PI / 5) * (k % 2 ? 0.45 : 1.1)]));
    if (name === "plus" || name === "x") {
      const d = name === "x" ? 0.8 : 1;
      for (const [a, b] of name === "x" ? [[[-d, -d], [d, d]], [[-d, d], [d, -d]]]
        : [[[-d, 0], [d, 0]], [[0, -d], [0, d]]]) { context.moveTo(x + r * a[0], y + r * a[1]);
        context.lineTo(x + r * b[0], y + r * b[1]); }
      context.stroke();
    } else context.fill();
  }

  // An axis of a column: positions of runs, and ticks where values are texts
  function columnAxis(store, name, runs, log) {
    const column = store.column(name);
    if (store.isNumeric(name)) {
      const [low, high] = parts.extent(runs.map(run => column[run])),
        isLog = (log ? log === "yes" : parts.isLogScale(store, name, low, high)) && high > 0;
      return {numeric: true, log: isLog, of: run => column[run] === null || (isLog && column[run] <= 0) ? NaN
        : column[run], ticks: null, missing: 0};
    }
    const sizes = parts.countValues(column, runs), kept = [...sizes.keys()].sort((a, b) =>
      sizes.get(b) - sizes.get(a)).slice(0, MAX_STRIPS).sort(gridiron.dom.comparer(false));
    const position = new Map(kept.map((value, at) => [value, at]));
    return {numeric: false, log: false, levels: kept.map(format), of: run => position.get(parts.keyOf(column[run]))
      ?? NaN, missing: sizes.size - kept.length};
  }

  class Points extends Chart {
    selects = "points";
    get uses() { return ["metric", "x", "group", "pointlogx", "logy"]; }

    // The column on the x axis: as chosen, else the parameter that the metric depends on most
    xName() {
      const {store} = this, all = [...store.parameters, ...store.metrics];
      return all.includes(store.settings.x) ? store.settings.x : parts.byInfluence(store)[0] ?? all[0];
    }

    build() {
      const {store} = this, {logy, pointlogx} = store.settings, metric = parts.metricOf(store), xName = this.xName();
      if (!metric || !xName) throw new Empty("No run has been evaluated yet.");
      const value = store.column(metric), visible = this.visible(), axis = columnAxis(store, xName, visible, pointlogx);
      const ofY = run => value[run] === null || (logy && value[run] <= 0) ? NaN : value[run];
      this.runs = visible.filter(run => Number.isFinite(axis.of(run)) && Number.isFinite(ofY(run)));
      if (!this.runs.length) throw new Empty(store.visibleCount
        ? `No run that passes the filter has both ${parts.label(store, xName)} and ${parts.label(store, metric)}.`
        : "No run passes the filter.");
      const groups = parts.groups(store, store.settings.group, this.runs);
      this.px = this._spread(axis);
      this.py = Float64Array.from(this.runs, ofY);
      this.groups = groups;
      this.position = new Map(this.runs.map((run, at) => [run, at]));
      const y = parts.range(this.py, logy), means = this._means(axis, value);
      const x = axis.numeric ? {...parts.range(this.px, axis.log), outside: 0}
        : {start: -0.5, end: axis.levels.length - 0.5,
        ticks: axis.levels.map((level, at) => [at, gridiron.dom.shorten(level, 18)]),
          rotated: axis.levels.reduce((sum, level) => sum + Math.min(level.length, 18),
          0) > this.width / 9};
      const lost = visible.length - this.runs.length;
      const notes = [count(this.runs.length, "run"), means.x.length ? "bars: means of the runs that count" : "",
        y.outside ? `${count(y.outside, "value")} outside the view` : "",
        lost ? `${count(lost, "run")} without a value` : "", axis.missing
          ? `${count(axis.missing, "rarer value")} of ${xName} left out` : "", parts.metricNote(store)];
      return {title: `${parts.label(store, metric)} against ${parts.label(store, xName)}`, groups,
        caption: `${notes.filter(Boolean).join("; ")}.`, controls: this._controls(xName, axis),
        x: {...x, log: axis.log, label: parts.label(store, xName)},
          y: {...y, log: logy, label: parts.label(store, metric)}, glyphs: [
          {kind: "scatter", style: this._style(), data: {x: this.px, y: this.py,
            fill_color: this.runs.map(groups.color),
            line_color: this.runs.map(groups.color), ...(groups.kind === "levels"
              ? {marker: this.runs.map(run => palette.marker(groups.index(run)))} : {})}},
          {kind: "scatter", style: {marker: "dash", line_color: palette.ink, line_width: 3, size: 26}, data: means}]};
    }

    // Many points are smaller; their outlines would take half of the time to draw
    _style() {
      const many = this.runs.length > 1000;
      return {size: this.runs.length > 3000 ? 4 : many ? 5 : 6, fill_alpha: 0.55, line_alpha: many
        && this.groups.kind !== "levels" ? 0 : 0.8, line_width: 1};
    }

    // The x of each run. Runs of a category, and of a number that many share, are spread out around it
    _spread(axis) {
      const xs = Float64Array.from(this.runs, axis.of), levels = new Set(xs).size;
      if (!axis.numeric) return xs.map((x, at) => x + 0.5 * jitter(this.runs[at]));
      if (levels < 2 || levels > MAX_MEANS || levels * 4 > xs.length) return xs;
      const [low, high] = parts.extent(xs), width = 0.3 / levels;  // of the axis
      return xs.map((x, at) => axis.log ? x * (high / low) ** (width * jitter(this.runs[at]))
        : x + width * (high - low) * jitter(this.runs[at]));
    }

    _means(axis, value) {
      const members = new Map();
      for (const run of gridiron.counted(this.store, this.runs)) {
        const x = axis.of(run);
        if (!members.has(x)) members.set(x, []);
        members.get(x).push(value[run]);
      }
      if (axis.numeric && (members.size > MAX_MEANS || members.size === this.runs.length)) return {x: [], y: []};
      return {x: [...members.keys()], y: [...members.values()].map(parts.mean)};
    }

    _controls(xName, axis) {
      const {store} = this, set = name => value => store.set({[name]: value}),
        same = names => names.map(name => [name, parts.label(store, name)]);
      return [parts.select("x", same([...store.parameters, ...store.metrics]), xName, set("x")),
        parts.select("y", parts.metricOptions(store, store.metrics), store.settings.metric, set("metric")),
        parts.select("color", [["", "automatic"], ["none", "none"],
          ...same([...store.parameters, "state", ...store.metrics])], store.settings.group, set("group")),
        ...(axis.numeric ? [parts.check("log x", axis.log, on => store.set({pointlogx: on ? "yes" : "no"}))] : []),
          parts.check("log y", store.settings.logy, set("logy"))];
    }

    sign(context, index, x, y) { mark(context, palette.marker(index), x, y, 4); }

    emphasize(context, frame, runs, hovered) {
      for (const run of runs) {
        const at = this.position.get(run);
        if (at === undefined) continue;
        Object.assign(context, {fillStyle: this.groups.color(run), strokeStyle: this.groups.color(run), lineWidth: 2});
        const [x, y] = [frame.x(this.px[at]), frame.y(this.py[at])];
        mark(context, this.groups.kind === "levels" ? palette.marker(this.groups.index(run)) : "circle", x, y, hovered
          ? 6 : 3.5);
        if (hovered) { context.strokeStyle = palette.ink; context.beginPath(); context.arc(x, y, 8, 0, 7);
          context.stroke(); }
      }
    }

    items() { return [...this.runs].sort((a, b) => this.px[this.position.get(a)] - this.px[this.position.get(b)]); }

    near(x, y, frame) {
      let best = null, least = parts.NEAR ** 2;
      for (let at = 0; at < this.runs.length; at++) {
        const distance = (frame.x(this.px[at]) - x) ** 2 + (frame.y(this.py[at]) - y) ** 2;
        if (distance < least) { least = distance; best = this.runs[at]; }
      }
      return best === null ? null : this.describe(best, frame);
    }

    describe(run, frame) {
      const at = this.position.get(run), [name, ...rest] = parts.runLines(this.store, run);
      return {item: run, x: frame.x(this.px[at]), y: frame.y(this.py[at]),
        lines: [name, `${parts.label(this.store, parts.metricOf(this.store))}: ${format(this.py[at])}`, ...rest,
        this.store.runs.state[run].replaceAll("_", " ")]};
    }

    within(inside) { return this.runs.filter((_, at) => inside(this.px[at], this.py[at])); }
  }

  Object.assign(parts, {jitter, mark, columnAxis});
  gridiron.charts.kinds.scatter = Points;
})(window.gridiron);
