"use strict";
// Learning curves: each run, or the mean and spread of the runs of each setting.
(gridiron => {
  const {Chart, Empty, palette, parts} = gridiron.charts;
  const {count, format} = gridiron.dom;
  const MAX_LINES = 2500, MAX_BANDS = 24;
  const SPREADS = ["standard error", "95% confidence", "standard deviation", "range"];
  const STUDENT = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262];
    // two-sided 5 % by degrees of freedom

  // The band about the mean of n values. squares: sum of their squared differences from it; low, high: their extent
  function band(n, mean, squares, low, high, spread) {
    if (spread === "range") return [low, high];
    const deviation = Math.sqrt(squares / (n - 1)), student = spread === "95% confidence" ? STUDENT[n - 2] ?? 1.96
      + 2.372 / (n - 1) + 2.82 / (n - 1) ** 2 : 1;
    const half = spread === "standard deviation" ? deviation : student * deviation / Math.sqrt(n);
    return [mean - half, mean + half];
  }

  // An exponential moving average that starts unbiased: weight is that of the past
  function smooth(values, weight) {
    if (!weight) return values;
    const result = new Float64Array(values.length);
    let sum = 0, norm = 0;
    for (let at = 0; at < values.length; at++) {
      if (!Number.isFinite(values[at])) { result[at] = values[at]; continue; }
      sum = weight * sum + (1 - weight) * values[at];
      norm = weight * norm + 1 - weight;
      result[at] = sum / norm;
    }
    return result;
  }

  // A function that returns the metric to draw of a run: the chosen one, else that by which the run is ranked
  function curveMetric(store) {
    const names = store.document.curves.metrics, chosen = store.settings.metric.replace(/^best\//, "");
    if (names.includes(chosen)) return () => chosen;
    const ranking = store.rankingColumns().filter(name => names.includes(name)),
      {value_column: columns = []} = store.runs;
    if (!ranking.length) return () => names[0];
    return run => ranking.includes(columns[run]) ? columns[run]
      : ranking.find(name => store.curve(name, run).epoch.length) ?? ranking[0];
  }

  class Curves extends Chart {
    selects = "curves";
    get uses() { return ["metric", "group", "mean", "spread", "logx", "logy", "smoothing"]; }

    build(events = new Set(["data"])) {
      const {store} = this, {logx, logy, smoothing, spread} = store.settings;
      const metric = curveMetric(store), chosen = metric(-1),
        isRanking = chosen !== store.settings.metric.replace(/^best\//, "");
      if (!chosen) throw new Empty("No run has been evaluated yet.");
      const named = parts.label(store, isRanking && store.rankingColumns().includes(chosen) ? "value" : chosen);
      const runs = this.visible().filter(run => store.curve(metric(run), run).epoch.length);
      if (!runs.length) throw new Empty(store.visibleCount ? `No run that passes the filter has ${named}.`
        : "No run passes the filter.");
      const groups = parts.groups(store, store.settings.group, runs), settings = parts.settings(store, runs);
      const means = store.settings.mean ? store.settings.mean === "yes" : settings.length < runs.length;
      const notes = [], drawn = JSON.stringify([store.settings.metric, smoothing, spread]);
      if (events.has("data") || drawn !== this.drawn) this.cached = new Map();  // means by the runs that they are of
      this.drawn = drawn;
      this.lines = means ? this._means(metric, groups, settings, spread, notes)
        : runs.map(run => this._line(groups, [run], this._curve(metric(run), run)));
      const total = this.lines.length;
      if (total > MAX_LINES) this.lines = this.lines.filter((_, at) =>
        Math.floor((at + 1) * MAX_LINES / total) > Math.floor(at * MAX_LINES / total));
      const [first, last] = parts.extent(this.lines.flatMap(line => [line.x[0], line.x[line.x.length - 1]]));
      const positive = value => value > 0 ? value : NaN;  // a logarithmic axis has no place for others
      for (const line of this.lines) {
        if (logx) line.x = line.x.map(positive);
        if (logy) line.y = line.y.map(positive);
      }
      const y = parts.range(concat(this.lines.map(line => line.y)), logy);
      notes.unshift(means ? `mean of the runs of each of ${count(settings.length, "setting")}` + this._bandNote(spread)
        : count(runs.length, "run"));
      if (total > MAX_LINES) notes.push(`${MAX_LINES.toLocaleString("en")} of ${count(total, "curve")} drawn`);
      if (store.document.sampled) notes.push(store.document.sampled.why);
      if (smoothing) notes.push(`smoothed by ${smoothing}`);
      if (y.outside) notes.push(`${count(y.outside, "value")} outside the view: zoom out to see them`);
      return {title: `Learning curves of ${named}`, groups, caption: `${notes.join("; ")}.`, controls: this._controls(),
        x: {...(logx ? {start: Math.max(first, 1) / 1.05, end: last * 1.05}
          : {start: first - 0.02 * (last - first || 1), end: last + 0.02 * (last - first || 1)}), log: logx,
          label: "epoch"},
        y: {...y, log: logy, label: named}, glyphs: this._glyphs(groups)};
    }

    _controls() {
      const {store} = this, {settings} = store, set = name => value => store.set({[name]: value}),
        same = names => names.map(name => [name, parts.label(store, name)]);
      return [parts.select("metric", parts.metricOptions(store, store.document.curves.metrics), store.settings.metric,
        set("metric")),
        parts.select("color", [["", "automatic"], ["none", "none"],
          ...same([...store.parameters, "state", ...(store.document.batches.length > 1 ? ["batch"] : [])])],
          settings.group, set("group")),
        parts.select("lines", [["", "automatic"], ["yes", "mean of each setting"], ["no", "each run"]], settings.mean,
          set("mean")),
        parts.select("band", SPREADS.map(name => [name, name]), settings.spread, set("spread")),
        parts.slider("smoothing", settings.smoothing, {min: 0, max: 0.98, step: 0.02}, set("smoothing")),
        parts.check("log x", settings.logx, set("logx")), parts.check("log y", settings.logy, set("logy"))];
    }

    _curve(metric, run) {
      const {epoch, value} = this.store.curve(metric, run);
      return {x: new Float64Array(epoch), y: smooth(value, this.store.settings.smoothing)};
    }

    _line(groups, runs, curve) {
      return {runs, ...curve, color: groups.color(runs[0]), index: groups.index(runs[0])};
    }

    // A line for the mean of each setting, over the epochs that all its counted runs have; others a line each
    _means(metric, groups, settings, spread, notes) {
      const lines = [], curve = run => this._curve(metric(run), run);
      let left = 0;
      for (const members of settings) {
        const counted = gridiron.counted(this.store, members);
        left += members.filter(run => this.store.runs.end?.[run] === "diverged").length;
        const key = counted.join();
        if (!this.cached.has(key)) this.cached.set(key, counted.length ? meanCurve(counted.map(curve)) : null);
        if (counted.length) lines.push(this._line(groups, counted, this.cached.get(key)));
        for (const run of members) if (!counted.includes(run)
          && !this.store.runs.end?.[run]) lines.push({...this._line(groups, [run], curve(run)), thin: true});
      }
      if (left) notes.push(`${count(left, "diverged run")} left out of the means`);
      this.bands = lines.filter(line => line.members).length <= MAX_BANDS;
      return lines;
    }

    // {low, high} of the line of a mean; of many lines, it is computed for the one that is pointed at alone
    band(line) {
      const {logy, spread} = this.store.settings, {low, high} = line.band ??= bandOf(line, spread);
      const positive = value => value > 0 ? value : NaN;
      return logy ? {low: low.map(positive), high: high.map(positive)} : {low, high};
    }

    _bandNote(spread) {
      return !this.lines.some(line => line.members) ? "" : this.bands ? `; band: ${spread}`
        : `; no bands: more than ${MAX_BANDS}`;
    }

    _glyphs(groups) {
      const {lines} = this, alpha = lines.length <= 16 ? 1 : lines.length <= 150 ? 0.7 : 0.4;
      const banded = this.bands ? lines.filter(line => line.members) : [], bands = banded.map(line => this.band(line)),
        single = lines.filter(line => line.x.length === 1);
      return [
        {kind: "patches", style: {line_color: null, fill_alpha: 0.16},
          data: {xs: banded.map(line => [...line.x, ...[...line.x].reverse()]),
          ys: bands.map(({low, high}) => [...low, ...[...high].reverse()]),
            fill_color: banded.map(line => line.color)}},
        {kind: "multi_line", style: {line_alpha: alpha},
          data: {xs: lines.map(line => line.x), ys: lines.map(line => line.y),
          line_color: lines.map(line => line.color),
          ...(groups.kind === "levels" ? {line_dash: lines.map(line => palette.dash(line.index))} : {}),
            line_width: lines.map(line => line.thin || lines.length > 150 ? 1 : 1.8)}},
        {kind: "scatter", style: {size: 5}, data: {x: single.map(line => line.x[0]), y: single.map(line => line.y[0]),
          fill_color: single.map(line => line.color), line_color: single.map(line => line.color)}}];
    }

    emphasize(context, frame, items, hovered) {
      let lines = hovered ? items.map(at => this.lines[at]) : [];
      if (!hovered) { const chosen = new Set(items); lines = this.lines.filter(line =>
        line.runs.some(run => chosen.has(run))); }
      for (const line of lines) {
        context.setLineDash(palette.dash(line.index));
        if (hovered) stroke(context, frame, line, palette.back, 6);
        stroke(context, frame, line, line.color, hovered ? 3.5 : lines.length > 100 ? 1.2 : 2.2);
      }
      context.setLineDash([]);
      if (hovered && this.at) { context.fillStyle = palette.ink; context.beginPath();
        context.arc(this.at[0], this.at[1], 4, 0, 7); context.fill(); }
    }

    items() { return this.lines.map((_, at) => at); }
    pick(item, add) { this.store.select(this.lines[item].runs, {add, source: this.kind}); }
    runOf(item) { return this.lines[item].runs[0]; }

    near(x, y, frame) {
      const wanted = frame.toX(x);
      let best = null, least = parts.NEAR;
      this.lines.forEach((line, at) => {
        const value = interpolate(line, wanted), distance = Math.abs(frame.y(value) - y);
        if (distance < least) { least = distance; best = at; }
      });
      return best === null ? null : this.describe(best, frame, wanted);
    }

    describe(item, frame, wanted = Infinity) {
      const line = this.lines[item], at = nearest(line.x, wanted), {store} = this, run = line.runs[0];
      this.at = [frame.x(line.x[at]), frame.y(line.y[at])];
      const {low, high} = line.members ? this.band(line) : {};
      const band = line.members ? ` (${format(low[at])} to ${format(high[at])})` : "";
      const [name, ...names] = parts.runLines(store, run), settings = parts.settingNames(store);
      const what = line.runs.length > 1 ? [`mean of ${line.runs.length} runs`,
        ...names.filter(text => settings.some(one => text.startsWith(`${one} = `)))]
        : [name, ...names, store.runs.state[run].replaceAll("_", " ")];
      return {item, x: this.at[0], y: this.at[1], lines: [what[0],
        `epoch ${line.x[at]}: ${format(Number(line.y[at].toPrecision(6)))}${band}`, ...what.slice(1)]};
    }

    // Lines that pass through the shape
    within(inside, geometry, frame) {
      const [from, to] = geometry.type === "poly" ? parts.extent([...geometry.x])
        : [Math.min(geometry.x0, geometry.x1), Math.max(geometry.x0, geometry.x1)];
      const checked = [from, (from + to) / 2, to];
      return this.lines.filter(line => line.x.some((x, at) => inside(x, line.y[at]))
        || checked.some(x => inside(x, interpolate(line, x)))).flatMap(line => line.runs);
    }
  }

  const concat = arrays => { const all = new Float64Array(arrays.reduce((sum, part) => sum + part.length, 0));
    let at = 0; for (const part of arrays) { all.set(part, at); at += part.length; } return all; };

  // The first position whose x is at least `wanted`
  function search(xs, wanted) {
    let low = 0, high = xs.length;
    while (low < high) { const middle = (low + high) >> 1; if (xs[middle] < wanted) low = middle + 1;
      else high = middle; }
    return low;
  }
  function nearest(xs, wanted) {
    const at = Math.min(search(xs, wanted), xs.length - 1);
    return at > 0 && wanted - xs[at - 1] < xs[at] - wanted ? at - 1 : at;
  }
  function interpolate({x, y}, wanted) {
    const at = search(x, wanted);
    if (at === 0 || at === x.length) {  // beyond an end: half an epoch belongs to it
      const end = Math.min(at, x.length - 1);
      return Math.abs(x[end] - wanted) <= 0.5 ? y[end] : NaN;
    }
    return y[at - 1] + (y[at] - y[at - 1]) * (wanted - x[at - 1]) / (x[at] - x[at - 1]);
  }

  // The mean of curves, over the epochs that all of them have: {x, y, members: their values (curves, epochs)}
  function meanCurve(curves) {
    if (curves.length === 1) return curves[0];
    const first = curves[0].x, n = curves.length, aligned = curves.every(({x}) => isSame(x, first));
    const x = aligned ? first : first.filter(epoch => curves.every(curve => curve.x[search(curve.x, epoch)] === epoch));
    const members = aligned ? curves.map(curve => curve.y)
      : curves.map(curve => Float64Array.from(x, epoch => curve.y[search(curve.x, epoch)]));
    const y = new Float64Array(x.length);
    for (const values of members) for (let at = 0; at < y.length; at++) y[at] += values[at] / n;
    return {x, y, members};
  }

  function bandOf({x, members}, spread) {
    const low = new Float64Array(x.length), high = new Float64Array(x.length);
    for (let at = 0; at < x.length; at++) {
      const values = members.map(one => one[at]), middle = parts.mean(values);
      let squares = 0;
      for (const value of values) squares += (value - middle) ** 2;
      [low[at], high[at]] = band(members.length, middle, squares, ...parts.extent(values), spread);
    }
    return {low, high};
  }

  function isSame(a, b) {
    if (a.length !== b.length) return false;
    for (let at = 0; at < a.length; at++) if (a[at] !== b[at]) return false;
    return true;
  }

  function stroke(context, frame, line, color, width) {
    Object.assign(context, {strokeStyle: color, lineWidth: width, lineJoin: "round"});
    context.beginPath();
    let drawing = false;
    for (let at = 0; at < line.x.length; at++) {
      const x = frame.x(line.x[at]), y = frame.y(line.y[at]);
      if (!Number.isFinite(x) || !Number.isFinite(y)) { drawing = false; continue; }
      if (drawing) context.lineTo(x, y); else context.moveTo(x, y);
      drawing = true;
    }
    if (line.x.length === 1) context.arc(frame.x(line.x[0]), frame.y(line.y[0]), 4, 0, 7);
    context.stroke();
  }

  Object.assign(parts, {smooth, stroke, concat, curveMetric, meanCurve});
  gridiron.charts.kinds.curves = Curves;
})(window.gridiron);
