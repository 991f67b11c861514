"use strict";
// Build elements from data. Texts of runs only ever become text nodes or attribute values, with characters that hide
// or reorder text made visible.
window.gridiron = {};
(gridiron => {
  // controls, invisible characters, characters that change the direction of text, surrogates that stand alone
  const INERT = new RegExp("[\\0-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e"
    + "\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ud800-\\udfff]", "gu");
  const clean = value => String(value).replace(INERT, c => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

  // An element. options: attributes; `on`: listeners by event; `data`: data-* attributes. children: texts, elements, null
  function el(tag, options = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
      else if (name === "data") Object.assign(element.dataset, value);
      else if (name === "value") element.value = value;
      else element.setAttribute(name, value === true ? "" : clean(value));
    }
    element.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== "")
      .map(child => child instanceof Node ? child : clean(child)));
    return element;
  }

  const note = text => el("p", {class: "note"}, text);

  const card = (title, ...content) => el("section", {class: "card"}, el("h2", {}, title), ...content);

  const replace = (element, ...children) => { element.replaceChildren(...el("div", {}, ...children).childNodes); };

  // Numbers with eight digits if that is exact, else with four; as format_value in src/analysis/plotting
  function number(value) {
    if (Number.isInteger(value)) return String(value);
    const digits = Number(value.toPrecision(8));
    return String(digits === value ? digits : Number(value.toPrecision(4)));
  }

  function format(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "none";
    if (typeof value === "number") return number(value);
    return typeof value === "string" ? value : JSON.stringify(value);
  }

  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  function duration(seconds) {
    if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
    const [days, hours, minutes] = [seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60].map(Math.floor);
    if (days) return `${days} d ${hours} h`;
    if (hours) return `${hours} h ${minutes} min`;
    return minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Number(seconds.toPrecision(2))} s`;
  }

  const time = seconds => new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

  // Text that was shortened in the middle
  const shorten = (text, most) => text.length <= most ? text : `${text.slice(0, most >> 1)}…${text.slice(-((most >> 1) - 1))}`;

  // A state is shown by a sign and a word, never by its color alone
  const SIGNS = {__proto__: null, done: "✓", completed: "✓", early_stopped: "✓", running: "►", pending: "◷", submitted: "◷",
    new: "○", paused: "‖", cancelled: "⊘", preempted: "↻", unknown: "?", deleted: "–", "not ended": "…"};
  const KINDS = {__proto__: null, done: "good", completed: "good", early_stopped: "good", running: "active", pending: "waiting",
    submitted: "waiting", new: "waiting", paused: "waiting", unknown: "waiting", deleted: "waiting", "not ended": "waiting"};
  const stateLabel = (state, tag = "span") => el(tag, {class: `state ${KINDS[state] ?? "bad"}`},
    el("span", {class: "sign", "aria-hidden": "true"}, SIGNS[state] ?? "✕"), ` ${state.replaceAll("_", " ")}`);
  const isBad = state => !(state in KINDS);

  async function toClipboard(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {  // no permission, or an old browser
      const area = el("textarea", {class: "offscreen", readonly: true, "aria-hidden": "true"});
      area.value = text;
      document.body.append(area);
      area.select();
      const done = document.execCommand("copy");
      area.remove();
      return done;
    }
  }

  // A button that copies exactly `text`, and says whether it did
  function copyButton(text, label = "Copy") {
    const button = el("button", {type: "button", class: "copy", title: "copy to the clipboard"}, label);
    button.addEventListener("click", async event => {
      event.stopPropagation();
      const focused = document.activeElement;
      button.textContent = await toClipboard(text) ? "Copied" : "Not copied: select the text";
      if (focused instanceof HTMLElement) focused.focus({preventScroll: true});
      setTimeout(() => { button.textContent = label; }, 1600);
    });
    button.dataset.text = text;
    return button;
  }

  // The bytes of a base64 text: a loop takes a tenth of the time of Uint8Array.from
  function fromBase64(text) {
    const characters = atob(text), bytes = new Uint8Array(characters.length);
    for (let at = 0; at < bytes.length; at++) bytes[at] = characters.charCodeAt(at);
    return bytes;
  }

  // An argument of a shell command
  const quote = text => /^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

  const command = text => el("div", {class: "command"}, el("code", {tabindex: "0"}, text), copyButton(text));

  // Texts before numbers in neither case: numbers, then texts in natural order, missing values last either way
  function comparer(descending) {
    const order = new Intl.Collator("en", {numeric: true});
    const rank = v => v === null || v === undefined || v === "" || Number.isNaN(v) ? 2 : typeof v === "number" ? 0 : 1;
    return (a, b) => rank(a) - rank(b) || (rank(a) === 2 ? 0 : (descending ? -1 : 1)
      * (rank(a) === 0 ? a - b : order.compare(format(a), format(b))));
  }

  // A table of the document, {columns, rows, code, copy, notes}, that a click on a heading sorts
  function table({columns, rows, code = [], copy = null, notes = []}, options = {}) {
    const body = el("tbody");
    const cell = (value, name) => name === copy ? el("td", {class: "code"}, command(value))
      : code.includes(name) ? el("td", {class: "code"}, el("code", {}, format(value)))
        : el("td", {class: typeof value === "number" ? "number" : null}, value === null ? "" : format(value));
    const show = list => body.replaceChildren(...list.map(row => el("tr", {}, row.map((value, at) => cell(value, columns[at])))));
    const heads = columns.map((name, at) => el("th", {scope: "col"},
      el("button", {type: "button", on: {click: () => sort(at)}}, name)));
    function sort(at) {
      const descending = heads[at].getAttribute("aria-sort") === "ascending";
      heads.forEach(head => head.removeAttribute("aria-sort"));
      heads[at].setAttribute("aria-sort", descending ? "descending" : "ascending");
      const compare = comparer(descending);
      show([...rows].sort((a, b) => compare(a[at], b[at])));
    }
    show(rows);
    return [notes.map(note), el("div", {class: "wide", tabindex: "0", role: "region",
      "aria-label": options.label}, el("table", {}, el("thead", {}, el("tr", {}, heads)), body))];
  }

  gridiron.dom = {clean, el, replace, number, format, count, duration, time, toClipboard, copyButton, command, comparer,
    table, shorten, note, card, quote, fromBase64, stateLabel, isBad};
})(window.gridiron);
