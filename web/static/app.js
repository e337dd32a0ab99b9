// What makes a page pleasant; without it every page still works.
"use strict";

(() => {
  // A question before what cannot be taken back.
  document.addEventListener("submit", (event) => {
    const form = event.target, question = form.dataset.ask;
    if (question && !confirm(question)) { event.preventDefault(); return; }
    form.querySelectorAll("button[type=submit]").forEach((button) => { setTimeout(() => { button.disabled = true; }, 0); });
  });
  addEventListener("pageshow", () => document.querySelectorAll("form button[disabled]:not([data-off])").forEach((button) => { button.disabled = false; }));

  // Work under way, until it is over; then the page is loaded anew.
  async function follow(element) {
    const bar = element.querySelector("progress"), text = element.querySelector("span");
    for (;;) {
      await new Promise((done) => { setTimeout(done, 1000); });
      let answer;
      try {
        const response = await fetch(element.dataset.progress, { headers: { Accept: "application/json" } });
        if (response.status === 401 || response.status === 403) { location.reload(); return; }
        answer = await response.json();
      } catch { continue; }
      if (answer.text) text.textContent = answer.text;
      if (answer.done === null || answer.done === undefined) bar.removeAttribute("value"); else bar.value = answer.done;
      if (answer.over) { location.reload(); return; }
    }
  }

  // A part of the page that changes by itself: <div data-live="/address" data-every="3">. As it was before anything was drawn:
  const first = new Map([...document.querySelectorAll("[data-live]")].map((element) => [element, element.innerHTML.trim()]));
  async function keepFresh(element) {
    const every = 1000 * Number(element.dataset.every || 5);
    let before = first.get(element);
    for (;;) {
      await new Promise((done) => { setTimeout(done, every); });
      if (document.hidden || element.contains(document.activeElement)) continue;
      try {
        const response = await fetch(element.dataset.live, { headers: { Accept: "text/html" } });
        if (response.status === 401 || response.status === 403) { location.reload(); return; }
        if (!response.ok) continue;
        const page = new DOMParser().parseFromString(await response.text(), "text/html"), now = page.body.innerHTML.trim();
        if (now === before) continue;  // what has not changed is left as it is: a table somebody opened, a chart
        before = now;
        element.replaceChildren(...page.body.childNodes);
        window.ppCharts?.drawAll();
      } catch { /* the next time */ }
    }
  }

  addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll("form[data-now]").forEach((form) => form.requestSubmit());  // a login link, opened by a person
    document.querySelectorAll("[data-progress]").forEach(follow);
    document.querySelectorAll("[data-live]").forEach(keepFresh);
  });
})();
