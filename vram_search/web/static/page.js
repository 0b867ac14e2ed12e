"use strict";
// What htmx does not do: errors as a message, tips of charts, copying, sending a file, dragging, and
// letting go of the events while a tab is hidden.
(() => {
  const toast = document.getElementById("toast");
  const tip = document.getElementById("tip");
  let timer = 0;
  const say = (words) => {
    toast.textContent = words;
    toast.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(() => { toast.hidden = true; }, 8000);
  };

  document.body.addEventListener("htmx:responseError", (event) => {
    try {
      const problem = JSON.parse(event.detail.xhr.responseText);
      say([problem.detail, problem.remedy].filter(Boolean).join("\n"));
    } catch {
      say(`The service answered ${event.detail.xhr.status}.`);
    }
  });
  document.body.addEventListener("htmx:sendError", () => say("The service cannot be reached."));

  // A browser opens six connections to a server; a seventh tab would get none. So a hidden tab closes
  // its event stream, and reads its parts once when it is seen again.
  class Events extends EventTarget {
    constructor(url) {
      super();
      this.url = url;
      this.kinds = new Set();
      if (!document.hidden) this.open();
    }
    get readyState() { return this.source ? this.source.readyState : EventSource.CONNECTING; }
    open() {
      this.source = new EventSource(this.url);
      this.source.onopen = (event) => this.onopen?.(event);
      this.source.onerror = (event) => this.onerror?.(event);
      this.kinds.forEach((kind) => this.listen(kind));
    }
    close() {
      this.source?.close();
      this.source = null;
    }
    listen(kind) {
      const pass = (event) => this.dispatchEvent(new MessageEvent(kind, { data: event.data }));
      this.source.addEventListener(kind, pass);
    }
    addEventListener(kind, listener) {
      super.addEventListener(kind, listener);
      if (this.kinds.has(kind)) return;
      this.kinds.add(kind);
      if (this.source) this.listen(kind);
    }
  }
  let events = null;
  htmx.createEventSource = (url) => {
    events = new Events(url);
    return events;
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      events?.close();
    } else if (events && !events.source) {
      events.open();
      document.querySelectorAll("[hx-trigger*='sse:']").forEach((part) => {
        htmx.trigger(part, part.getAttribute("hx-trigger").match(/sse:\w+/)[0]);
      });
    }
  });

  // Browsers offer the clipboard to secure pages alone, and a phone in the network reads plain HTTP.
  const copy = async (button) => {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      say("Copied.");
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
      say(document.execCommand("copy") ? "Copied." : "The command is selected: copy it.");
    }
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button);
    const mark = event.target.closest?.(".chart [data-trial]");
    const study = mark?.closest("[data-study]")?.dataset.study;
    if (study) {
      location.href = `/studies/${encodeURIComponent(study)}/trials/${mark.dataset.trial}`;
    }
  });

  const MARKS = "[data-trial], [data-tip]";
  const hideTip = () => {
    tip.hidden = true;
    document.querySelectorAll(".at").forEach((mark) => mark.classList.remove("at"));
  };
  const showTip = (mark) => {
    tip.textContent = mark.dataset.tip ?? `trial ${mark.dataset.trial}`;
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(place.right + 10, innerWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, Math.min(place.bottom + 10, innerHeight - tip.offsetHeight - 8))}px`;
  };
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.(`.chart :is(${MARKS})`);
    hideTip();
    if (mark) showTip(mark);
  });
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  document.addEventListener("keydown", (event) => {
    const chart = event.target.closest?.("svg.chart");
    if (event.key === "Escape") hideTip();
    if (!chart || (!(event.key in STEPS) && event.key !== "Enter")) return;
    const marks = Array.from(chart.querySelectorAll(MARKS))
      .sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
    const at = marks.findIndex((mark) => mark.classList.contains("at"));
    if (event.key === "Enter") {
      if (at >= 0) marks[at].dispatchEvent(new MouseEvent("click", { bubbles: true }));
      return;
    }
    if (!marks.length) return;
    event.preventDefault();
    hideTip();
    const next = marks[(at + STEPS[event.key] + marks.length) % marks.length];
    next.classList.add("at");
    showTip(next);
  });

  // A study of the queue is dragged to its place; the buttons do the same for keyboard and touch.
  let dragged = null;
  const unmark = () => document.querySelectorAll(".queue li").forEach((item) => {
    item.classList.remove("target", "below", "dragged");
  });
  const targetOf = (event) => {
    const item = dragged && event.target.closest?.(".queue li[data-move]");
    return item && item !== dragged && item.parentElement === dragged.parentElement ? item : null;
  };
  const placeOf = (item) => Array.from(item.parentElement.children).indexOf(item);
  document.addEventListener("dragstart", (event) => {
    dragged = event.target.closest?.(".queue li[data-move]");
    if (!dragged) return;
    event.dataTransfer.effectAllowed = "move";
    event.dataTransfer.setData("text/plain", dragged.querySelector("strong").textContent);
    dragged.classList.add("dragged");
  });
  document.addEventListener("dragover", (event) => {
    const item = targetOf(event);
    if (!item) return;
    event.preventDefault();
    unmark();
    dragged.classList.add("dragged");
    item.classList.add("target");
    item.classList.toggle("below", placeOf(item) > placeOf(dragged));
  });
  document.addEventListener("drop", (event) => {
    const item = targetOf(event);
    if (!item) return;
    event.preventDefault();
    htmx.ajax("POST", `${dragged.dataset.move}?place=${placeOf(item) + 1}`, { swap: "none" });
  });
  document.addEventListener("dragend", () => { unmark(); dragged = null; });

  const upload = document.getElementById("upload");
  upload?.addEventListener("change", async () => {
    const file = upload.files[0];
    if (!file) return;
    const name = file.name.replace(/[^A-Za-z0-9._-]/g, "-").replace(/^[^A-Za-z0-9]/, "rows$&");
    const send = async () => {
      if (file.size > upload.dataset.most) {
        return { detail: `${file.name} is too large.`, remedy: upload.dataset.limit };
      }
      const answer = await fetch(`/api/v1/uploads/${name}`, { method: "PUT", body: file });
      return answer.json();
    };
    const said = await send().catch(() => ({ detail: `${file.name} was not received.` }));
    if (said.path) document.getElementById(upload.dataset.into).value = said.path;
    else upload.value = ""; // so that the same file can be chosen again
    say(said.path ? `${file.name} was received.`
      : [said.detail, said.remedy].filter(Boolean).join("\n"));
  });
})();
