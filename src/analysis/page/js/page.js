"use strict";
// Start the page: read the document, show the view of the address, follow changes, apply the theme.
(gridiron => {
  const {el, clean, replace} = gridiron.dom, {store, boxes, overview} = gridiron;
  const at = id => document.getElementById(id);
  let shownView = "runs", scroll = 0;

  // ---- views: all runs, one run, a comparison

  function drawView(moved) {
    const view = ["run", "compare"].includes(store.settings.view) ? store.settings.view : "runs";
    if (shownView === "runs" && view !== "runs") scroll = window.scrollY;
    for (const [id, name] of [["overview", "runs"], ["run", "run"], ["compare", "compare"]]) at(id).hidden = name !== view;
    if (view === "run") boxes.guarded("The page of the run", drawRun);
    if (view === "compare") boxes.guarded("The comparison", () => gridiron.comparePage.show(at("compare"), store));
    if (moved && view !== "runs") {
      window.scrollTo(0, 0);
      at(view).querySelector(".title")?.focus({preventScroll: true});
    } else if (shownView !== "runs" && view === "runs") window.scrollTo(0, scroll);
    shownView = view;
  }

  function drawRun() {
    const run = store.index.get(store.settings.run);
    if (run !== undefined) return gridiron.runPage.show(at("run"), store, run, overview.order(), boxes.draw);
    return replace(at("run"), el("div", {class: "actions"}, gridiron.allRuns()),
      el("p", {class: "bad title", tabindex: "-1"}, `There is no run ${store.settings.run} in this page.`));
  }

  // Draw a run or a comparison again if its runs may have changed, unless somebody has selected text in it
  function drawChangedView() {
    const run = store.index.get(store.settings.run);
    if (shownView === "runs" || String(window.getSelection()) || shownView === "run" && store.runs.state[run] !== "running") return;
    const top = window.scrollY;
    drawView(false);
    window.scrollTo(0, top);
  }

  // ---- theme: that of the system, until somebody chooses one, which is remembered

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

  function switchTheme() {
    const names = Object.keys(THEMES), next = names[(names.indexOf(theme) + 1) % names.length];
    remembered.set(next);
    drawTheme(next);
  }

  // ---- start

  function listen() {
    at("theme").addEventListener("click", switchTheme);
    system.addEventListener("change", () => drawTheme());
    for (const event of ["hashchange", "popstate"]) window.addEventListener(event, () => store.readAddress());
    document.addEventListener("click", event => document.querySelectorAll("details.menu[open]").forEach(menu => {
      if (!menu.contains(event.target)) menu.open = false;
    }));
    store.on("data", drawChangedView);
    store.on("settings", names => {
      if (names.some(name => ["view", "run"].includes(name))) drawView(true);
      else if (shownView === "compare" && names.some(name => ["a", "b", "all"].includes(name))) drawView(false);
    });
  }

  function show() {
    store.defaults = {...store.defaults, ...gridiron.charts?.defaults};
    store.settings = {...store.defaults};
    gridiron.toolbar.build();
    overview.build();
    listen();
    store.emit("data", {});
    store.readAddress();
    drawView(false);
    if (store.settings.at && shownView === "runs") overview.goTo(store.settings.at);
  }

  async function start() {
    store.failed = boxes.problem;
    drawTheme(remembered.get() ?? "auto");
    boxes.loadLibrary();
    const text = await boxes.unpack("document");
    const said = message => { at("live").textContent = clean(message); };
    if (text) store.load(JSON.parse(text));
    const follow = text ? null : await gridiron.live.start(store, said);
    show();
    follow?.();
    gridiron.ready = true;
    await gridiron.charts?.idle();
    gridiron.prepared = gridiron.runPage.prepare(store, boxes.prepare);
  }

  start().catch(error => boxes.problem(error, "Starting this page"));
})(window.gridiron);
