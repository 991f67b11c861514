"use strict";
// The server of a live page: the document, what changes in it, details of a run, notes.
(gridiron => {
  const PAUSE = 1000, LONGEST_PAUSE = 30_000;  // milliseconds before another try after an error

  async function request(path, options = {}) {
    const answer = await fetch(path, {credentials: "same-origin", ...options});
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(content.error ?? `the server answers ${answer.status}`);
    return content;
  }

  async function takeChange(store) {
    const change = await request(`changes?since=${encodeURIComponent(store.document.version)}`);
    if (change.reload) return store.apply({document: await request("document")});
    if (change.runs || change.curves || change.batches || change.together) store.apply(change);
    store.document.version = change.version;
  }

  // Follow the changes. say: called with whether the page is up to date
  async function follow(store, say) {
    say("● live");
    for (let pause = PAUSE; ;) {
      try {
        await takeChange(store);
        say("● live");
        pause = PAUSE;
      } catch (error) {
        say(`not connected: ${error.message}; trying again`);
        await new Promise(resume => setTimeout(resume, pause));
        pause = Math.min(2 * pause, LONGEST_PAUSE);
      }
    }
  }

  const note = (batch, text) => request("note", {method: "POST", body: JSON.stringify({batch, text}),
    headers: {"Content-Type": "application/json", "X-Gridiron": "1"}});

  // Load the document, and return a function that follows its changes
  async function start(store, say) {
    store.fetchDetails = key => request(`run?key=${encodeURIComponent(key)}`);
    store.fetchCurves = metric => request(`curves?metric=${encodeURIComponent(metric)}`);
    store.load(await request("document"));
    return () => follow(store, say);
  }

  gridiron.live = {start, note};
})(window.gridiron);
