// The page is whole without this. With it, it says when the cache changed and shows it again.
"use strict";

(() => {
  const live = document.getElementById("live");
  const cache = document.getElementById("cache");
  if (!live || !cache || !window.EventSource) return;

  async function refresh() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById("cache");
    // A person reading inside the section with the keyboard keeps their place.
    if (!fresh || cache.contains(document.activeElement)) {
      live.textContent = "The cache has changed. Reload the page to see it.";
      return;
    }
    cache.replaceChildren(...fresh.childNodes);
    cache.dataset.version = fresh.dataset.version;
    live.textContent = "The cache has changed; this is how it is now.";
  }

  const events = new EventSource("/v1/events");
  events.addEventListener("cache", (event) => {
    if (JSON.parse(event.data).version !== cache.dataset.version) refresh();
  });
})();
