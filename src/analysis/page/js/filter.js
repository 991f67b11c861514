"use strict";
// Text that selects runs: terms between blanks, all of which must hold.
//   base_lr>0.1   optim_alg=sgd|adam   state!=failed   averaging=none   lenet   "two words"   !text
(gridiron => {
  const TERM = /\s*(!?)(?:"([^"]*)("?)|([^\s"=<>!~]+)(!=|<=|>=|=|<|>|~)(?:"([^"]*)("?)|(\S*))|(\S+))/gy;
  const {format, comparer} = gridiron.dom;
  const VALUES = 8;  // listed when none of them is meant

  class FilterError extends Error {}

  function parse(text) {
    const terms = [];
    TERM.lastIndex = 0;
    const source = text.trimEnd();
    while (TERM.lastIndex < source.length) {
      const start = TERM.lastIndex, match = TERM.exec(source);
      if (!match) throw new FilterError(`not understood: ${source.slice(start).trim()}`);
      const [all, not, quoted, quoteEnd, column, operator, quotedValue, valueEnd, bare, word] = match;
      if (quoteEnd === "" || valueEnd === "") throw new FilterError(`the quote in ${all.trim()} is not closed: add "`);
      terms.push(column === undefined ? {not: Boolean(not), text: (quoted ?? word).toLowerCase()}
        : {not: Boolean(not), column, operator, value: quotedValue ?? bare, quoted: quotedValue !== undefined, source: all.trim()});
    }
    return terms.filter(term => term.column !== undefined || term.text);
  }

  // Number of single-character edits between two words
  function distance(a, b) {
    let row = [...Array(b.length + 1).keys()];
    for (let i = 1; i <= a.length; i++) {
      const next = [i];
      for (let j = 1; j <= b.length; j++) next[j] = Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] !== b[j - 1]));
      row = next;
    }
    return row[b.length];
  }

  function listed(names, most = 12) {
    return names.slice(0, most).join(", ") + (names.length > most ? ` … (${names.length})` : "");
  }

  // The column that a name means: itself, or the only one whose last part it is
  function resolve(name, store) {
    const names = store.columnNames();
    if (names.includes(name)) return name;
    if (name === "metric" && store.metric) return store.metric;
    const ending = names.filter(other => other.endsWith(`/${name}`));
    if (ending.length === 1) return ending[0];
    if (ending.length) throw new FilterError(`${name} may be ${listed(ending)}: type one of them`);
    const near = names.filter(other => distance(other.toLowerCase(), name.toLowerCase()) <= Math.max(1, name.length / 3)
      || other.includes(name));
    const meant = near.length ? `: did you mean ${listed(near, 3)}?` : `; columns: ${listed(names)}`;
    throw new FilterError(`no column ${name}${meant} (put a text to search for in quotes)`);
  }

  const COMPARE = {"<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b};

  function test(term, store) {
    if (term.column === undefined) return run => store.text(run).includes(term.text);
    const {operator, value, quoted} = term, name = resolve(term.column, store), column = store.column(name);
    if (value === "" && !quoted) throw new FilterError(`${term.source} needs a value, as ${name}${operator}${example(column)}`);
    if (operator === "~") return run => format(column[run]).toLowerCase().includes(value.toLowerCase());
    if (COMPARE[operator]) {
      if (!store.isNumeric(name))
        throw new FilterError(`${name} is not a number: use ${name}=${example(column)}, or ${name}~text for a part of it`);
      if (value.trim() === "" || !Number.isFinite(Number(value))) throw new FilterError(`${term.source}: ${value} is not a number`);
      return run => typeof column[run] === "number" && COMPARE[operator](column[run], Number(value));
    }
    const wanted = quoted ? [value] : value.split("|");
    const equals = run => wanted.some(text => typeof column[run] === "number" ? text !== "" && column[run] === Number(text)
      : format(column[run]) === text || format(column[run]).toLowerCase() === text.toLowerCase());
    return operator === "=" ? equals : run => !equals(run);
  }

  function example(column) {
    const value = column.find(cell => cell !== null && cell !== undefined);
    const text = format(value ?? null);
    return /[\s"|]/.test(text) ? `"${text}"` : text;
  }

  // {test: run => bool, error: text or null} of a filter text
  function compile(text, store) {
    try {
      const tests = parse(text).map(term => {
        const holds = test(term, store);
        return term.not ? run => !holds(run) : holds;
      });
      return {test: run => tests.every(holds => holds(run)), error: null};
    } catch (error) {
      if (!(error instanceof FilterError)) throw error;
      return {test: null, error: error.message};
    }
  }

  // Say which values there are when an equality matches nothing
  function hint(text, store) {
    for (const term of parse(text)) {
      if (term.column === undefined || term.operator !== "=") continue;
      const name = resolve(term.column, store), column = store.column(name), one = compile(term.source, store);
      if (column.some((_, run) => one.test(run))) continue;
      return `no run has ${term.source}; ${name} is ${listed([...new Set(column.map(format))].sort(comparer(false)), VALUES)}`;
    }
    return null;
  }

  gridiron.filter = {parse, compile, hint};
})(window.gridiron);
