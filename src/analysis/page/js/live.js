"use strict";
// The server of a live page: the document, what changes in it, details of a run, notes.
(gridiron => {
  const PAUSE = 1000;  // milliseconds before another try after an error

  async function request(path, options = {}) {
    const answer = await fetch(path, {credentials: "same-origin", ...options});
    const content = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(content.error ?? `the server answers ${answer.status}`);
    return content;
  }

  // Follow the changes. said: called with "live", or with why the page is behind
  async function follow(store, said) {
    for (let pause = PAUSE; ;) {
      try {
        const change = await request(`changes?since=${encodeURIComponent(store.document.version)}`);
        if (change.reload) store.apply({document: await request("document")});
        else {
          if (change.runs || change.curves || change.batches) store.apply(change);
          store.document.version = change.version;
        }
        said("live");
        pause = PAUSE;
      } catch (error) {
        said(`not connected: ${error.message}; trying again`);
        await new Promise(resume => setTimeout(resume, pause));
        pause = Math.min(2 * pause, 30 * PAUSE);
      }
    }
  }

  const note = (batch, text) => request("note", {method: "POST", body: JSON.stringify({batch, text}),
    headers: {"Content-Type": "application/json", "X-Gridiron": "1"}});

  async function start(store, said) {
    store.fetchDetails = key => request(`run?key=${encodeURIComponent(key)}`);
    store.fetchCurves = metric => request(`curves?metric=${encodeURIComponent(metric)}`);
    store.load(await request("document"));
    return () => follow(store, said);
  }

  gridiron.live = {start, note};
})(window.gridiron);
