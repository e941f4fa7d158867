// The page works without this script, which shows the cache again when it changes.
"use strict";

(() => {
  const live = document.getElementById("live");
  const cache = document.getElementById("cache");
  if (!live || !cache || !window.EventSource) return;

  async function refresh() {
    const response = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("cache");
    // Do not move the keyboard focus away from someone who is reading the section.
    if (!fresh || cache.contains(document.activeElement)) {
      live.textContent = "The cache has changed. Reload the page to see it.";
      return;
    }
    cache.replaceChildren(...fresh.childNodes);
    cache.dataset.version = fresh.dataset.version;
    live.textContent = "The cache has changed. This is its new state.";
  }

  const events = new EventSource("/v1/events");
  events.addEventListener("cache", (event) => {
    if (JSON.parse(event.data).version !== cache.dataset.version) refresh();
  });
})();
