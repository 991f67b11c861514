"use strict";
// The view of all runs: sections, charts, the table and its tools, and links to them.
(gridiron => {
  const {el, clean, format, replace, toClipboard} = gridiron.dom, {store, boxes} = gridiron;
  const at = id => document.getElementById(id);
  const CHARTS = [["curves", "Learning curves", "big"], ["scatter", "Metric against a parameter"], ["parallel", "All parameters"],
    ["heatmap", "Two parameters", "big"]];
  const SEARCH_CHARTS = [["best_so_far", "Best so far"], ["rungs", "Trials at each rung"]];
  const ABOVE = 2;  // sections above the charts
  const parts = [];  // {section, element, body}
  let table;

  const heading = (id, title, hidden) => el("h2", {id: `${id}-title`, tabindex: "-1", class: hidden ? "offscreen" : null}, title);
  const chartCard = ([kind, title, size = ""], options) => el("figure", {class: `card ${size}`},
    el("figcaption", {}, title), boxes.draw(kind, options));

  function build() {
    gridiron.sections.slice(0, ABOVE).forEach(addPart);
    at("overview").append(el("section", {id: "charts", "aria-labelledby": "charts-title"}, heading("charts", "Charts", true),
      el("div", {class: "grid"}, CHARTS.map(chart => chartCard(chart)))));
    const body = el("div"), tools = el("div", {class: "actions"}, columnsMenu(), copyTable());
    at("overview").append(card("runs", "Runs", el("p", {class: "note counts"}), tools, body));
    table = boxes.guarded("The table of runs", () => new gridiron.RunTable(body, store));
    gridiron.sections.slice(ABOVE).forEach(addPart);
    store.on("data", drawParts);
    window.addEventListener("beforeprint", () => document.querySelectorAll("#overview .chart").forEach(boxes.mount));
  }

  const card = (id, title, ...content) => el("section", {id, class: "card", "aria-labelledby": `${id}-title`},
    heading(id, title), ...content);

  function addPart(section) {
    const body = el("div"), more = {notes: noteForms, search: searchCharts}[section.id]?.();
    const element = card(section.id, section.title, body, more);
    at("overview").append(element);
    parts.push({section, element, body});
  }

  // Draw the sections whose texts have changed; what the reader has unfolded stays so
  function drawParts() {
    for (const {section, element, body} of parts) boxes.guarded(`The section ${section.title}`, () => {
      element.hidden = !section.shown(store);
      const content = el("div", {}, element.hidden ? null : section.content(store));
      if (content.textContent === body.textContent) return;
      const open = [...body.querySelectorAll("details")].map(details => details.open);
      body.replaceChildren(...content.childNodes);
      body.querySelectorAll("details").forEach((details, i) => { details.open = open[i] ?? details.open; });
    });
    drawNav();
  }

  function searchCharts() {
    const batches = [...store.document.batches.entries()].filter(([, batch]) => batch.search);
    return batches.length ? el("div", {class: "grid"}, batches.flatMap(([batch, {name}]) => SEARCH_CHARTS.map(([kind, title]) =>
      chartCard([kind, batches.length > 1 ? `${title}: ${name}` : title, "inner"], {batch})))) : null;
  }

  // ---- notes

  function noteForms() {
    return store.document.live ? store.document.batches.map((batch, index) => noteForm(batch.name, index)) : null;
  }

  function noteForm(name, index) {
    const text = el("textarea", {rows: "2", "aria-label": `note on ${name}`,
      placeholder: `A note on ${name}: what you conclude, in a sentence`});
    const said = el("span", {role: "status", class: "note"});
    async function add() {
      if (!text.value.trim()) throw new Error("write something first");
      const {notes} = await gridiron.live.note(index, text.value.trim());
      store.apply({batches: store.document.batches.map((batch, i) => i === index ? {...batch, notes} : batch)});
      text.value = "";
    }
    return el("form", {on: {submit: event => {
      event.preventDefault();
      add().then(() => { said.textContent = "added"; }, error => { said.textContent = clean(`not added: ${error.message}`); });
    }}}, text, el("button", {}, "Add note"), " ", said);
  }

  // ---- tools of the table

  function columnsMenu() {
    const list = el("div", {class: "choices"}), menu = el("details", {class: "menu"}, el("summary", {}, "Columns"), list);
    menu.addEventListener("toggle", () => {
      if (!menu.open) return;
      const shown = new Set(gridiron.RunTable.columns(store)), all = gridiron.RunTable.allColumns(store);
      const reset = () => {
        store.set({columns: ""});
        menu.open = false;
      };
      const toggle = name => {
        if (!shown.delete(name)) shown.add(name);
        store.set({columns: JSON.stringify(all.filter(one => shown.has(one)))});
      };
      replace(list, el("button", {type: "button", on: {click: reset}}, "Default columns"), all.map(name => {
        const box = el("input", {type: "checkbox", on: {change: () => toggle(name)}});
        box.checked = shown.has(name);
        return el("label", {class: "check"}, box, " ", gridiron.RunTable.heading(store, name));
      }));
    });
    return menu;
  }

  function copyTable() {
    const button = el("button", {type: "button", title: "the rows and columns shown, for a spreadsheet"}, "Copy as table");
    button.addEventListener("click", async () => {
      button.textContent = await toClipboard(asText()) ? "Copied" : "Not copied";
      setTimeout(() => { button.textContent = "Copy as table"; }, 1600);
    });
    return button;
  }

  // The table as tab-separated text; a cell that a spreadsheet would take for a formula has an apostrophe in front
  function asText() {
    const safe = value => format(value ?? "").replace(/[\t\n\r]+/g, " ").replace(/^([=+@]|-(?![\d.]))/, "'$1");
    const rows = table.order.map(run => table.columns.map(name => store.column(name)[run]));
    return [table.columns, ...rows].map(row => row.map(safe).join("\t")).join("\n");
  }

  // ---- links to the sections

  function drawNav() {
    const numbers = new Map(parts.map(({section}) => [section.id, section.number?.(store) ?? 0])).set("runs", store.count);
    const titles = new Map(parts.map(({section}) => [section.id, section.title])).set("charts", "Charts").set("runs", "Runs");
    replace(at("nav"), [...at("overview").children].filter(section => !section.hidden).map(({id}) => {
      const changes = {view: "runs", run: "", at: id};
      return gridiron.link(changes, {on: {click: () => setTimeout(() => goTo(id))}}, titles.get(id),
        numbers.get(id) ? el("span", {class: "number"}, ` ${numbers.get(id).toLocaleString("en")}`) : null);
    }));
  }

  function goTo(id) {
    at(id)?.scrollIntoView();
    at(`${id}-title`)?.focus({preventScroll: true});
  }

  gridiron.overview = {build, goTo, order: () => table?.order ?? [...store.runs.key.keys()]};
})(window.gridiron);
