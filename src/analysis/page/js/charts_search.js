"use strict";
// A search batch: its rungs and the best value so far; and the series of a single run.
(gridiron => {
  const {Chart, Empty, palette, parts} = gridiron.charts;
  const {el, count, format} = gridiron.dom;

  // The search of the batch that options name by index, else of the first batch that has one
  function searchOf(store, options) {
    const batch = store.document.batches[options.batch] ?? store.document.batches.find(one => one.search);
    if (!batch?.search) throw new Empty("This batch is not a search.");
    return batch.search;
  }
  const better = search => search.goal === "maximize" ? (a, b) => a > b : (a, b) => a < b;
  const isNumber = value => typeof value === "number" && Number.isFinite(value);

  class Rungs extends Chart {
    selects = "points";
    get uses() { return ["logy"]; }

    // The value of each trial at each rung that it has reached: from its curve; at its highest rung, its last result
    build() {
      const {store} = this, search = searchOf(store, this.options), {trials, levels} = search,
        isBetter = better(search);
      this.points = [];
      trials.run.forEach((run, trial) => {
        if (run === null || !store.visible[run]) return;
        const curve = store.curve(search.metric, run);
        for (let rung = 0; rung <= Math.min(trials.rung[trial], levels.length - 1); rung++) {
          const at = curve.epoch.indexOf(levels[rung]), value = at >= 0 ? curve.value[at] : rung === trials.rung[trial]
            ? trials.value[trial] : null;
          if (isNumber(value)) this.points.push({run, rung, value, x: rung + 0.5 * parts.jitter(run)});
        }
      });
      if (!this.points.length) throw new Empty("No trial has a result yet.");
      const best = levels.map((_, rung) => this.points.filter(point => point.rung === rung).reduce((a, b) => !a
        || isBetter(b.value, a.value) ? b : a, null));
      const n = levels.map((_, rung) => this.points.filter(point => point.rung === rung).length),
        y = parts.range(this.points.map(point => point.value), store.settings.logy), last = best.filter(Boolean);
      return {title: "Trials at each rung",
        caption: `${search.headline.replace(/\s+/g, " ")}; line: the best trial of each rung.`,
        controls: [parts.check("log y", store.settings.logy, value => store.set({logy: value}))],
        x: {start: -0.5, end: levels.length - 0.5, label: "rung: epochs",
          ticks: levels.map((epochs, rung) => [rung, `${epochs ?? "end"}\nn=${n[rung]}`
          + (best[rung] ? `\nbest ${format(Number(best[rung].value.toPrecision(4)))}` : "")])},
        y: {...y, log: store.settings.logy, label: parts.label(store, search.metric)}, glyphs: [
          {kind: "scatter", style: {size: 6, fill_alpha: 0.5, fill_color: palette.single, line_color: palette.single},
            data: {x: this.points.map(point => point.x), y: this.points.map(point => point.value)}},
          {kind: "line", style: {line_color: palette.ink, line_width: 2, line_dash: [4, 3]},
            data: {x: last.map(point => point.x), y: last.map(point => point.value)}},
          {kind: "scatter", style: {marker: "star", size: 14, fill_color: palette.category(1),
            line_color: palette.ink}, data: {x: last.map(point => point.x), y: last.map(point => point.value)}}]};
    }

    emphasize(context, frame, runs, hovered) {
      const chosen = new Set(hovered ? [this.points[runs[0]].run] : runs);
      Object.assign(context, {fillStyle: palette.category(1), strokeStyle: palette.category(1), lineWidth: hovered ? 2
        : 1});
      const paths = new Map();
      for (const point of this.points) if (chosen.has(point.run)) paths.set(point.run,
        [...(paths.get(point.run) ?? []), point]);
      for (const path of paths.values()) {
        parts.stroke(context, frame, {x: path.map(point => point.x), y: path.map(point => point.value)},
          palette.category(1), hovered ? 2 : 1);
        for (const point of path) parts.mark(context, "circle", frame.x(point.x), frame.y(point.value), hovered ? 5
          : 4);
      }
    }

    items() { return this.points.map((_, at) => at); }
    runOf(item) { return this.points[item].run; }
    pick(item, add) { this.store.select([this.points[item].run], {add, source: this.kind}); }
    near(x, y, frame) {
      let best = null, least = parts.NEAR;
      this.points.forEach((point, at) => { const distance = Math.hypot(frame.x(point.x) - x, frame.y(point.value) - y);
        if (distance < least) { least = distance; best = at; } });
      return best === null ? null : this.describe(best, frame);
    }
    describe(item, frame) {
      const point = this.points[item], [name, ...rest] = parts.runLines(this.store, point.run);
      return {item, x: frame.x(point.x), y: frame.y(point.value),
        lines: [name, `rung ${point.rung}: ${format(Number(point.value.toPrecision(6)))}`, ...rest]};
    }
    within(inside) { return [...new Set(this.points.filter(point => inside(point.x, point.value)).map(point =>
      point.run))]; }
  }

  // The best value until each result, against the number of trials or the epochs that were used
  class BestSoFar extends Chart {
    get uses() { return ["budget", "logy"]; }

    build() {
      const {store} = this, search = searchOf(store, this.options), {results} = search, isBetter = better(search);
      const byEpochs = store.settings.budget === "epochs" && results.epochs, used = byEpochs ? results.epochs
        : results.trials;
      this.unit = byEpochs ? "epochs" : "trials";
      this.points = used.map((x, at) => ({x, y: results.value[at]})).filter(point => isNumber(point.y)
        && isNumber(point.x));
      if (!this.points.length) throw new Empty("No trial has a result yet.");
      this.steps = {x: [], y: []};
      let best = null;
      for (const {x, y} of this.points) {
        if (best !== null) { this.steps.x.push(x); this.steps.y.push(best); }
        if (best === null || isBetter(y, best)) best = y;
        this.steps.x.push(x);
        this.steps.y.push(best);
      }
      const [first, last] = parts.extent(used), y = parts.range(this.points.map(point => point.y), store.settings.logy);
      return {title: "Best value so far",
        caption: `${count(this.points.length, "result")}; line: best so far, now ${format(Number(best.toPrecision(6)))}`
          + `${y.outside ? `; ${count(y.outside, "value")} outside the view` : ""}.`,
        controls: [parts.select("against", [["trials", "trials"], ...(results.epochs ? [["epochs", "epochs"]] : [])],
          this.unit, value => store.set({budget: value})),
          parts.check("log y", store.settings.logy, value => store.set({logy: value}))],
        x: {start: Math.min(first, 0), end: last * 1.03 + 0.5, label: `${this.unit} used`},
          y: {...y, log: store.settings.logy, label: parts.label(store, search.metric)}, glyphs: [
          {kind: "scatter", style: {size: 5, fill_alpha: 0.45, fill_color: palette.single, line_color: null},
            data: {x: this.points.map(point => point.x), y: this.points.map(point => point.y)}},
          {kind: "line", style: {line_color: palette.category(1), line_width: 2.5}, data: this.steps}]};
    }

    get selectionHidden() { return true; }  // results are not listed by run
    emphasize(context, frame, [at]) {
      const point = this.points[at];
      context.fillStyle = palette.ink;
      parts.mark(context, "circle", frame.x(point.x), frame.y(point.y), 5);
    }
    items() { return this.points.map((_, at) => at); }
    pick() {}
    runOf() { return null; }
    near(x, y, frame) {
      let best = null, least = 30;
      this.points.forEach((point, at) => { const distance = Math.hypot(frame.x(point.x) - x, frame.y(point.y) - y);
        if (distance < least) { least = distance; best = at; } });
      return best === null ? null : this.describe(best, frame);
    }
    describe(item, frame) {
      const point = this.points[item], at = this.steps.x.findLastIndex(x => x <= point.x);
      return {item, x: frame.x(point.x), y: frame.y(point.y),
        lines: [`after ${format(point.x)} ${this.unit}`, `result: ${format(point.y)}`,
        `best so far: ${format(this.steps.y[at])}`]};
    }
  }

  // One series of a run: a column of system.csv or steps.csv
  class Series extends Chart {
    isSmall = true;  // there are many, and a toolbar takes a third of the time of a chart: it has none

    // Show another series, or as event "data" says the same one with more points, in which a zoomed view stays
    show(options, event) {
      this.options = options;
      this.invalidate(event);
    }

    build() {
      const {label, unit, series} = this.options, points = this.store.series(series),
        y = parts.range(points.value, false), [first, last] = parts.extent(points.x);
      this.line = {x: points.x, y: points.value};
      return {title: label, height: 190, x: {start: first, end: last > first ? last : first + 1, label: unit},
        y: {...y, label}, glyphs: [
        {kind: "line", style: {line_color: palette.single, line_width: 1.5}, data: this.line}]};
    }
    get selectionHidden() { return true; }
    emphasize(context, frame, [at]) {
      context.fillStyle = palette.ink;
      parts.mark(context, "circle", frame.x(this.line.x[at]), frame.y(this.line.y[at]), 4);
    }
    items() { return [...this.line.x.keys()]; }
    pick() {}
    runOf() { return null; }
    near(x, y, frame) {
      let best = 0;
      for (let at = 1; at < this.line.x.length;
        at++) if (Math.abs(frame.x(this.line.x[at]) - x) < Math.abs(frame.x(this.line.x[best]) - x)) best = at;
      return this.line.x.length ? this.describe(best, frame) : null;
    }
    describe(item, frame) {
      return {item, x: frame.x(this.line.x[item]), y: frame.y(this.line.y[item]),
        lines: [format(Number(this.line.y[item].toPrecision(6))), `${this.options.unit} ${format(this.line.x[item])}`]};
    }
  }

  // Charts of all series of a run. options: {run, details}. Those of another run are shown in the same charts: to make one
  // takes five times as long
  class Details {
    constructor(element, store, options) {
      Object.assign(this, {store, charts: [], grid: el("div", {class: "chart-grid"})});
      this.empty = el("p", {class: "chart-empty"},
        "No steps and no system metrics were recorded: log_steps and system_metrics turn them on.");
      this.hint = el("p", {class: "note"}, "Drag to zoom; a double click, or the key 0, shows everything again.");
      this.shown = Promise.resolve();  // each of them draws when it comes into view
      element.replaceChildren(this.hint, this.grid, this.empty);
      this.show(options);
      this.drawn = Promise.race([Promise.all(this.charts.map(chart => chart.shown)), new Promise(done => setTimeout(done, 1000))]);
    }

    show({run, details}) {
      const series = Object.entries(details?.series ?? {}).flatMap(([name, {x: unit, columns, of}]) =>
        columns.map(column => ({label: name === "steps" ? `${column}, by step` : this.store.label(column), unit,
          series: new Map(Object.entries(of)).get(column)})));
      const event = run === this.run ? "data" : "run";
      this.run = run;
      series.forEach((options, at) => this.charts[at] ? this.charts[at].show(options, event) : this._add(options));
      for (const chart of this.charts.splice(series.length)) { chart.destroy(); chart.element.remove(); }
      this.empty.hidden = series.length > 0;
      this.hint.hidden = !series.length;
    }

    _add(options) {
      const box = el("div", {class: "chart"});
      this.grid.append(box);
      this.charts.push(new Series(box, this.store, options));
    }

    update() { this.charts.forEach(chart => chart.update()); }
    destroy() { this.charts.forEach(chart => chart.destroy()); }
  }

  Object.assign(gridiron.charts.defaults, {budget: "trials"});
  Object.assign(gridiron.charts.kinds, {rungs: Rungs, best_so_far: BestSoFar, details_curves: Details});
})(window.gridiron);
