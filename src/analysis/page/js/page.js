"use strict";
// Put the page together: header, toolbar, sections, views; the theme; what happens if a part fails.
(gridiron => {
  const {el, clean, format, count, stateLabel, isBad, replace, time} = gridiron.dom;
  const {store} = gridiron, at = id => document.getElementById(id);
  const CHARTS = [["curves", "Learning curves", "big"], ["scatter", "Metric against a parameter"], ["parallel", "All parameters"],
    ["heatmap", "Two parameters"]];
  const NAMES = {best_so_far: "Best so far", rungs: "Curves cut at rungs"};
  const ABOVE = 2;  // sections above the charts
  const OFTEN = 120;  // milliseconds after a key until the filter is applied
  let table, scroll = 0, shownView = "runs";

  // ---- parts that fail

  function problem(error, part = "A part of this page") {
    console.warn(error);
    const text = `${part} failed, the rest works: ${error?.message ?? error}`;
    if (![...at("problems").children].some(child => child.textContent === clean(text))) at("problems").append(el("p", {class: "bad"}, text));
  }

  function guarded(part, action) {
    try { return action(); } catch (error) { problem(error, part); return undefined; }
  }

  // ---- charts: mounted when they come near the view

  const waiting = new WeakMap();
  const watcher = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) if (isIntersecting) mount(target);
  }, {rootMargin: "300px"});

  async function mount(box) {
    const start = waiting.get(box);
    if (!start) return;
    waiting.delete(box);
    watcher.unobserve(box);
    try {
      await library;
      if (!window.Bokeh) throw new Error("the library of the charts is not in this file");
      const chart = await start(box);
      box.classList.add("mounted");
      await chart.shown;
      box.removeAttribute("aria-busy");
    } catch (error) {
      console.warn(error);
      box.removeAttribute("aria-busy");
      box.classList.add("failed");
      replace(box, el("p", {class: "note"}, `This chart could not be drawn: ${error.message}`));
    }
  }

  function draw(kind, options = {}) {
    const box = el("div", {class: `chart ${kind}`, "aria-busy": "true", data: {kind}});
    waiting.set(box, target => {
      return gridiron.charts.mount(target, kind, store, options);
    });
    watcher.observe(box);
    return box;
  }

  const chartCard = (kind, title, size = "", options = {}) => el("figure", {class: `card ${size}`}, el("figcaption", {}, title), draw(kind, options));
  const searches = () => store.document.batches.map((batch, at) => [at, store.document.batches.length > 1 ? `: ${batch.name}` : "", batch.search]).filter(([, , search]) => search);

  async function unpack(id) {
    const text = at(id).textContent;
    at(id).remove();
    if (!text) return null;
    const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let library = Promise.resolve();
  function loadLibrary() {
    library = unpack("library").then(text => {
      if (text) document.head.append(Object.assign(document.createElement("script"), {textContent: text}));
    });
  }

  // ---- header and toolbar

  function drawHeader() {
    const {document: page} = store, bests = [...store.runs.key.keys()].filter(run => typeof store.runs.value?.[run] === "number");
    at("title").textContent = document.title = clean(page.title ?? "Gridiron");
    const sampled = page.sampled ? ` · curves of ${page.sampled.runs.toLocaleString("en")} of ${page.sampled.of.toLocaleString("en")} runs: ${page.sampled.why}` : "";
    at("subtitle").textContent = clean(`${count(store.count, "run")} · ${page.live ? "served" : "written"} ${String(page.written).slice(0, 16).replace("T", " ")} UTC${sampled}`);
    const states = stateCounts();
    replace(at("bar"), states.map(([state, n]) => {
      const part = stateLabel(state, "i");
      part.style.flexGrow = n;
      part.replaceChildren();
      return part;
    }));
    const goal = store.goal(store.rankingColumns()[0]);
    const best = goal && bests.length ? bests.reduce((a, b) => (store.runs.value[b] > store.runs.value[a]) === (goal === "maximize") && store.runs.value[a] !== store.runs.value[b] ? b : a) : null;
    replace(at("hero"), best === null ? "" : [el("span", {class: "note"}, `best ${gridiron.RunTable.label(store, "value").replace(/^best /, "")} `), el("b", {}, String(Number(store.runs.value[best].toPrecision(5)))), " ",
      gridiron.runLink(store, best, store.parameters.filter(name => !name.startsWith("seed")).slice(0, 6).map(name => `${name} ${format(store.column(name)[best])}`).join(" · ") || store.runs.name[best])]);
  }

  function stateCounts() {
    const counts = new Map();
    for (const state of store.runs.state) counts.set(state, (counts.get(state) ?? 0) + 1);
    return [...counts].sort((a, b) => isBad(a[0]) - isBad(b[0]) || b[1] - a[1]);
  }

  function drawChips() {
    const chosen = new Set(store.settings.states.split(",").filter(Boolean)), focused = document.activeElement?.dataset?.state;
    replace(at("chips"), stateCounts().map(([state, n]) => el("button", {type: "button", class: "chip", "aria-pressed": String(chosen.has(state)), data: {state},
      on: {click: () => {
        if (!chosen.delete(state)) chosen.add(state);
        store.set({states: [...chosen].join(",")});
      }}}, stateLabel(state), " ", el("b", {}, n.toLocaleString("en")))));
    if (focused) [...at("chips").children].find(chip => chip.dataset.state === focused)?.focus();
  }

  function drawShown() {
    at("shown").textContent = store.visibleCount === store.count ? count(store.count, "run") : `${store.visibleCount.toLocaleString("en")} of ${count(store.count, "run")}`;
    const message = store.filterError ?? store.filterHint;
    at("filtererror").textContent = clean(message ?? "");
    at("filter").setAttribute("aria-invalid", String(Boolean(store.filterError)));
    if (document.activeElement !== at("filter")) at("filter").value = store.settings.filter;
  }

  function drawMetrics() {
    const ranking = store.rankingColumns(), notes = [...new Set(store.document.batches.map(batch => batch.metric?.note).filter(Boolean))];
    const names = [...ranking, ...store.metrics.filter(name => !ranking.includes(name))];
    if (at("metric").childElementCount !== names.length || at("metric").value !== store.metric)
      replace(at("metric"), names.map(name => el("option", {value: name, selected: name === store.metric}, store.label(name))));
    at("metric").value = store.metric ?? "";
    at("metricbox").hidden = !names.length;
    at("metricbox").title = clean(notes.join("; "));
    for (const element of document.querySelectorAll(".counts")) element.textContent = clean(notes.map(note => `${note[0].toUpperCase()}${note.slice(1)}.`).join(" "));
  }

  function drawSelection() {
    const runs = [...store.selected], letter = name => el("button", {type: "button", title: `compare these runs as group ${name.toUpperCase()}`,
      on: {click: () => store.set({[name]: gridiron.toRanges(runs)})}}, `${store.settings[name] ? "✓ " : ""}${name.toUpperCase()}`);
    const compare = () => {
      const {a, b} = store.settings, two = runs.length === 2 ? {a: String(runs[0]), b: String(runs[1])} : {a, b};
      store.set({...two, view: "compare", run: ""});
    };
    const only = el("button", {type: "button", "aria-pressed": String(store.settings.only), on: {click: () => store.set({only: !store.settings.only})}}, "Only these");
    const groups = store.settings.a || store.settings.b;
    replace(at("selection"), runs.length ? [el("span", {role: "status"}, el("b", {}, runs.length.toLocaleString("en")), " selected"), only, letter("a"), letter("b")] : "",
      runs.length === 2 || store.settings.a && store.settings.b ? el("button", {type: "button", class: "primary", on: {click: compare}}, runs.length === 2 ? "Compare the two" : "Compare A and B") : "",
      runs.length || groups ? el("button", {type: "button", on: {click: () => { store.set({a: "", b: "", only: false}); store.select([]); }}}, "Clear") : "");
  }

  function drawHelp() {
    const rows = [["base_lr>0.1", "numbers: < <= > >="], ["optim_alg=sgd|adam", "one of these values; != none of them"], ["averaging=none", "no value"],
      ["model~lenet", "part of a value"], ["metric>0.9", "last value of the chosen metric"], ["state=failed", "also name, batch, end, why, epochs, seconds, value"],
      ["lenet \"two words\"", "text in name, state, why and parameters"], ["!text", "not"]];
    replace(at("filterhelp"), el("p", {}, "All terms between blanks must hold."), el("dl", {}, rows.map(([term, meaning]) => [el("dt", {}, el("code", {}, term)), el("dd", {}, meaning)])));
  }

  // ---- sections of the overview

  const parts = [];  // {section, element, body}

  function addSection({id, title, charts = []}, body) {
    const element = el("section", {id, class: "card", "aria-labelledby": `${id}-title`}, el("h2", {id: `${id}-title`, tabindex: "-1"}, title), body,
      charts.length ? el("div", {class: "grid"}, searches().flatMap(([batch, name]) => charts.map(kind =>
        chartCard(kind, `${NAMES[kind]}${name}`, "inner", {batch})))) : null);
    at("overview").append(element);
    return element;
  }

  function buildOverview() {
    const charts = el("section", {id: "charts", "aria-labelledby": "charts-title"}, el("h2", {id: "charts-title", class: "offscreen", tabindex: "-1"}, "Charts"),
      el("div", {class: "grid"}, CHARTS.map(([kind, title, size]) => chartCard(kind, title, size))));
    const [above, below] = [gridiron.sections.slice(0, ABOVE), gridiron.sections.slice(ABOVE)];
    above.forEach(addPart);
    at("overview").append(charts);
    const body = el("div"), tools = el("div", {class: "actions"});
    addSection({id: "runs", title: "Runs"}, [el("p", {class: "note counts"}), tools, body]);
    table = guarded("The table of runs", () => new gridiron.RunTable(body, store));
    drawColumnsMenu(tools);
    below.forEach(addPart);
  }

  function addPart(section) {
    const body = el("div"), element = addSection(section, body), part = {section, element, body};
    if (section.id === "notes") element.append(noteForms());
    parts.push(part);
  }

  // Draw the sections whose texts have changed; what the reader has unfolded stays so
  function drawParts() {
    for (const {section, element, body} of parts) guarded(`The section ${section.title}`, () => {
      element.hidden = !section.shown(store);
      const content = el("div", {}, element.hidden ? null : section.content(store));
      if (content.textContent === body.textContent) return;
      const open = [...body.querySelectorAll("details")].map(details => details.open);
      body.replaceChildren(...content.childNodes);
      body.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? details.open; });
    });
    drawNav();
  }

  function noteForms() {
    const forms = el("div");
    store.on("data", () => {
      if (!store.document.live || forms.childElementCount) return;
      forms.append(...store.document.batches.map((batch, index) => {
        const text = el("textarea", {rows: "2", "aria-label": `note on ${batch.name}`, placeholder: `A note on ${batch.name}: what you conclude, in a sentence`}), said = el("span", {role: "status", class: "note"});
        return el("form", {on: {submit: async event => {
          event.preventDefault();
          if (!text.value.trim()) { said.textContent = "write something first"; return; }
          try {
            const {notes} = await gridiron.live.note(index, text.value.trim());
            if (notes) store.apply({batches: store.document.batches.map((other, i) => i === index ? {...other, notes} : other)});
            text.value = "";
            said.textContent = "added";
          } catch (error) { said.textContent = clean(`not added: ${error.message}`); }
        }}}, text, el("button", {}, "Add note"), " ", said);
      }));
    });
    return forms;
  }

  function drawColumnsMenu(tools) {
    const list = el("div", {class: "choices"}), menu = el("details", {class: "menu"}, el("summary", {}, "Columns"), list);
    menu.addEventListener("toggle", () => {
      if (!menu.open) return;
      const shown = new Set(gridiron.RunTable.columns(store)), all = gridiron.RunTable.allColumns(store);
      replace(list, el("button", {type: "button", on: {click: () => { store.set({columns: ""}); menu.open = false; }}}, "Default columns"),
        all.map(name => {
          const box = el("input", {type: "checkbox", on: {change: () => {
            if (!shown.delete(name)) shown.add(name);
            store.set({columns: JSON.stringify(all.filter(one => shown.has(one)))});
          }}});
          box.checked = shown.has(name);
          return el("label", {class: "check"}, box, " ", gridiron.RunTable.label(store, name));
        }));
    });
    const csv = el("button", {type: "button", on: {click: event => gridiron.dom.toClipboard(asText()).then(done => {
      event.target.textContent = done ? "Copied" : "Not copied";
      setTimeout(() => { event.target.textContent = "Copy as table"; }, 1600);
    })}}, "Copy as table");
    tools.append(menu, csv);
  }

  // The table as tab-separated text; a cell that a spreadsheet would take for a formula has an apostrophe in front
  function asText() {
    const safe = value => format(value ?? "").replace(/[\t\n\r]+/g, " ").replace(/^([=+@]|-(?![\d.]))/, "'$1");
    return [table.columns, ...table.order.map(run => table.columns.map(name => store.column(name)[run]))].map(row => row.map(safe).join("\t")).join("\n");
  }

  function drawNav() {
    const items = [["charts", "Charts", 0], ["runs", "Runs", store.count], ...parts.filter(part => !part.element.hidden).map(({section}) => [section.id, section.title, section.number?.(store) ?? 0])];
    const order = [...at("overview").children].map(child => child.id);
    items.sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
    replace(at("nav"), items.map(([id, title, n]) => gridiron.link({view: "runs", run: "", at: id}, {data: {set: JSON.stringify({view: "runs", run: "", at: id}), at: id},
      on: {click: () => setTimeout(() => goTo(id))}}, title, n ? el("span", {class: "number"}, ` ${n.toLocaleString("en")}`) : "")));
  }

  function goTo(id) {
    at(id)?.scrollIntoView();
    at(`${id}-title`)?.focus({preventScroll: true});
  }

  // ---- views

  function drawView(moved) {
    const view = ["run", "compare"].includes(store.settings.view) ? store.settings.view : "runs";
    if (shownView === "runs" && view !== "runs") scroll = window.scrollY;
    for (const name of ["overview", "run", "compare"]) at(name).hidden = name !== (view === "runs" ? "overview" : view);
    document.documentElement.dataset.view = view;
    if (view === "run") drawRun();
    if (view === "compare") guarded("The comparison", () => gridiron.comparePage.show(at("compare"), store));
    if (moved && view !== "runs") {
      window.scrollTo(0, 0);
      at(view).querySelector(".title")?.focus({preventScroll: true});
    } else if (shownView !== "runs" && view === "runs") window.scrollTo(0, scroll);
    shownView = view;
  }

  function drawRun() {
    const run = store.index.get(store.settings.run);
    if (run === undefined) return replace(at("run"), el("div", {class: "actions"}, gridiron.allRuns()),
      el("p", {class: "bad title", tabindex: "-1"}, `There is no run ${store.settings.run} in this page.`));
    const order = table?.order ?? [...store.runs.key.keys()];
    return guarded("The page of the run", () => gridiron.runPage.show(at("run"), store, run, order, draw));
  }

  // ---- theme

  const THEMES = {auto: "Theme: system", light: "Theme: light", dark: "Theme: dark"};
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const remembered = {
    get() { try { return localStorage.getItem("gridiron-theme"); } catch { return null; } },
    set(value) { try { localStorage.setItem("gridiron-theme", value); } catch { /* a browser that keeps nothing */ } },
  };
  let theme = "auto";

  function drawTheme(next = theme) {
    theme = Object.hasOwn(THEMES, next) ? next : "auto";
    document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
    at("theme").textContent = THEMES[theme];
    store.emit("theme");
  }

  // ---- start

  function listen() {
    let timer;
    at("filter").addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => store.filter(at("filter").value), OFTEN);
    });
    at("filter").addEventListener("keydown", event => { if (event.key === "Escape") { at("filter").value = ""; store.filter(""); } });
    at("metric").addEventListener("change", () => store.set({metric: at("metric").value}));
    at("theme").addEventListener("click", () => {
      const names = Object.keys(THEMES), next = names[(names.indexOf(theme) + 1) % names.length];
      remembered.set(next);
      drawTheme(next);
    });
    system.addEventListener("change", () => drawTheme());
    new ResizeObserver(() => document.documentElement.style.setProperty("--toolbar", `${at("toolbar").offsetHeight}px`)).observe(at("toolbar"));
    window.addEventListener("hashchange", () => store.readAddress());
    window.addEventListener("popstate", () => store.readAddress());
    window.addEventListener("beforeprint", () => document.querySelectorAll("#overview .chart").forEach(mount));
    document.addEventListener("keydown", event => {
      if (event.key === "/" && !event.target.closest("input, textarea, select")) { event.preventDefault(); at("filter").focus(); }
    });
    document.addEventListener("click", event => document.querySelectorAll("details.menu[open]").forEach(menu => {
      if (!menu.contains(event.target)) menu.open = false;
    }));
    store.on("data", () => { drawHeader(); drawChips(); drawShown(); drawMetrics(); drawSelection(); drawParts(); if (shownView !== "runs") drawChangedView(); });
    store.on("filter", () => { drawChips(); drawShown(); drawSelection(); });
    store.on("selection", drawSelection);
    store.on("settings", names => {
      drawMetrics();
      if (names.some(name => ["a", "b", "only"].includes(name))) drawSelection();
      if (names.some(name => ["view", "run"].includes(name))) drawView(true);
      else if (shownView === "compare" && names.some(name => ["a", "b", "all"].includes(name))) drawView(false);
    });
  }

  // A run's page is drawn again if the run has changed, unless somebody has selected text in it
  function drawChangedView() {
    if (String(window.getSelection()) || shownView === "run" && store.runs.state[store.index.get(store.settings.run)] !== "running") return;
    const top = window.scrollY;
    drawView(false);
    window.scrollTo(0, top);
  }

  function show() {
    store.defaults = {...store.defaults, ...gridiron.charts?.defaults};
    store.settings = {...store.defaults};
    buildOverview();
    drawHelp();
    listen();
    store.emit("data", {});
    store.readAddress();
    drawView(false);
    if (store.settings.at && shownView === "runs") goTo(store.settings.at);
  }

  async function start() {
    store.failed = problem;
    drawTheme(remembered.get() ?? "auto");
    loadLibrary();
    const text = await unpack("document");
    const said = message => { at("live").textContent = clean(message === "live" ? "● live" : message); };
    let follow = null;
    if (text) store.load(JSON.parse(text));
    else follow = await gridiron.live.start(store, said);
    show();
    if (follow) { said("live"); follow(); }
    gridiron.ready = true;
  }

  start().catch(error => problem(error, "Starting this page"));
})(window.gridiron);
