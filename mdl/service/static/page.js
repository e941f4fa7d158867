// The page works without this script. With it, names are completed, commands are copied, the cache
// changes in place, and is shown again when it changes on the disk.
"use strict";

(() => {
  const live = document.getElementById("live");
  const cache = document.getElementById("cache");

  // Where the address has a password in it, a relative address cannot be fetched.
  const get = (path, options) => fetch(new URL(path, location.origin), options);
  const here = () => location.pathname + location.search;

  function later(milliseconds, work) {
    let timer;
    return (...given) => {
      clearTimeout(timer);
      timer = setTimeout(() => work(...given), milliseconds);
    };
  }

  // -- names as they are typed

  const field = document.getElementById("name");
  const names = document.getElementById("names");
  field.addEventListener("input", later(150, async () => {
    const text = field.value.trim();
    if (!text) return;
    const response = await get(`/v1/names?q=${encodeURIComponent(text)}`);
    if (!response.ok || field.value.trim() !== text) return;
    const found = (await response.json()).names;
    names.replaceChildren(...found.map(({ name, cached }) => {
      const option = document.createElement("option");
      option.value = name;
      if (cached) option.label = `${name} (in the cache)`;
      return option;
    }));
  }));

  // -- commands

  for (const command of document.querySelectorAll("pre.command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const text = command.querySelector("code").textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command.querySelector("code"));
        button.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
    command.append(button);
  }

  // -- the cache

  async function fresh(address) {
    const response = await get(address, { headers: { Accept: "text/html" } });
    if (!response.ok) return null;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    return page.getElementById("cache");
  }

  async function show(address, focus) {
    const section = await fresh(address);
    if (!section) { location.href = address; return; }
    cache.replaceChildren(...section.childNodes);
    cache.dataset.version = section.dataset.version;
    const wanted = focus && document.getElementById(focus);
    if (wanted) {
      wanted.focus({ preventScroll: true });
      if (wanted.value) wanted.setSelectionRange(wanted.value.length, wanted.value.length);
    }
  }

  cache.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const address = link.getAttribute("href");
    history.pushState(null, "", address);
    show(address, "cached");
  });
  window.addEventListener("popstate", () => show(here(), null));

  function filter() {
    const address = `/?${new URLSearchParams(new FormData(document.getElementById("filter")))}`;
    history.replaceState(null, "", address);
    show(address, "filter-text");
  }
  const filterSoon = later(200, filter);
  cache.addEventListener("input", ({ target }) => { if (target.id === "filter-text") filterSoon(); });
  cache.addEventListener("submit", (event) => {
    if (event.target.id !== "filter") return;
    event.preventDefault();
    filter();
  });

  // -- downloads

  const downloads = document.getElementById("downloads");
  if (downloads) setInterval(async () => {
    if (document.hidden) return;
    const response = await get("/page/downloads");
    if (!response.ok) return;
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    downloads.replaceChildren(...page.getElementById("downloads").childNodes);
  }, 2000);

  if (!window.EventSource) return;
  const events = new EventSource("/v1/events");
  events.addEventListener("cache", async (event) => {
    if (JSON.parse(event.data).version === cache.dataset.version) return;
    // Do not move the focus away from someone who is reading the section, nor forget a selection.
    if (cache.contains(document.activeElement) || cache.querySelector(":checked")) {
      live.textContent = "The cache has changed. Reload the page to see it.";
      return;
    }
    await show(here(), null);
    live.textContent = "The cache has changed. This is its new state.";
  });
})();
