"use strict";
// Boxes of charts, which are drawn when they come near the view; and what is shown if a part of the page fails.
(gridiron => {
  const {el, clean, replace, fromBase64} = gridiron.dom, {store} = gridiron;
  const starts = new WeakMap();  // box: function that draws its chart with some options
  const latest = new WeakMap();  // box: options
  const charts = new WeakMap();  // box: its chart
  const kept = new Map();  // name: box
  const watcher = new IntersectionObserver(entries => {
    for (const {isIntersecting, target} of entries) if (isIntersecting) mount(target);
  }, {rootMargin: "300px"});
  let library = Promise.resolve();

  function problem(error, part = "A part of this page") {
    console.warn(error);
    const text = `${part} failed, the rest works: ${error?.message ?? error}`, shown = document.getElementById("problems");
    if (![...shown.children].some(child => child.textContent === clean(text))) shown.append(el("p", {class: "bad"}, text));
  }

  function guarded(part, action) {
    try { return action(); } catch (error) { problem(error, part); return undefined; }
  }

  // The text of an element that holds base64 of gzip; null if it is empty
  async function unpack(id) {
    const packed = document.getElementById(id), text = packed.textContent;
    packed.remove();
    if (!text) return null;
    return new Response(new Blob([fromBase64(text)]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  function loadLibrary() {
    library = unpack("library").then(text => {
      if (text) document.head.append(Object.assign(document.createElement("script"), {textContent: text}));
    });
  }

  async function mount(box) {
    const start = starts.get(box);
    if (!start) return;
    starts.delete(box);
    watcher.unobserve(box);
    try {
      await library;
      if (!window.Bokeh) throw new Error("the library of the charts is not in this file");
      const chart = start(box, latest.get(box));
      charts.set(box, chart);
      box.classList.add("mounted");
      await chart.shown;
    } catch (error) {
      console.warn(error);
      for (const [name, other] of kept) if (other === box) kept.delete(name);
      box.classList.add("failed");
      replace(box, el("p", {class: "note"}, `This chart could not be drawn: ${error.message}`));
    }
    box.removeAttribute("aria-busy");
  }

  // A box for a chart. kind, options: as of charts.mount. name: the box is kept under it, to show other options later
  function draw(kind, options = {}, name = "") {
    const box = kept.get(name) ?? el("div", {class: `chart ${kind}`, "aria-busy": "true", data: {kind}}), isNew = !latest.has(box);
    latest.set(box, options);
    if (name) kept.set(name, box);
    charts.get(box)?.show(options);
    if (isNew) {
      starts.set(box, (target, current) => gridiron.charts.mount(target, kind, store, current));
      watcher.observe(box);
    }
    return box;
  }

  // Make a chart that is shown later, in a place that is laid out and not seen: to make one takes longer than to show
  // other options in it
  async function prepare(kind, options, name) {
    await library;
    if (kept.has(name) || !window.Bokeh) return;
    const box = draw(kind, options, name), place = el("div", {class: "prepared", "aria-hidden": "true"}, box);
    document.body.append(place);
    await mount(box);
    await charts.get(box)?.drawn;
    place.remove();
  }

  gridiron.boxes = {draw, prepare, mount, unpack, loadLibrary, problem, guarded};
})(window.gridiron);
