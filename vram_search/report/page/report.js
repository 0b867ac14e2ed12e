"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byNumber = new Map(data.trials.map((trial) => [String(trial.number), trial]));
  const table = document.querySelector(".trials");
  const body = table.tBodies[0];
  const rows = Array.from(body.rows);
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");

  // Sorting: a button in every heading; unknown values stay at the end.
  const value = (row, column) => {
    const text = row.cells[column].dataset.v;
    if (text === "") return null;
    return table.tHead.rows[0].cells[column].dataset.kind === "number" ? Number(text) : text;
  };
  // The first rows are laid out; a button shows the others. Print and filter know all of them.
  const every = document.getElementById("every");
  let most = every ? data.rows_at_first : Infinity;
  const limitRows = () => {
    let place = 0;
    for (const row of body.rows) {
      if (!row.hidden) place += 1;
      row.classList.toggle("later", place > most && !row.hidden);
    }
    if (every) every.parentElement.hidden = place <= most;
  };
  every?.addEventListener("click", () => {
    most = Infinity;
    limitRows();
  });
  const sortBy = (heading) => {
    const column = heading.cellIndex;
    const falling = heading.getAttribute("aria-sort") === "ascending";
    const direction = falling ? -1 : 1;
    const keyed = rows.map((row) => [value(row, column), row]);
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return direction * (a < b ? -1 : a > b ? 1 : 0);
    });
    body.append(...keyed.map(([, row]) => row));
    limitRows();
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", falling ? "descending" : "ascending");
  };
  for (const button of table.tHead.querySelectorAll("button")) {
    button.addEventListener("click", () => sortBy(button.parentElement));
  }

  // Filtering: every word must be a whole word of a cell, or a condition on a column. Notes are
  // sentences: they are searched by note:word alone.
  const filter = document.getElementById("filter");
  const outcome = document.getElementById("outcome");
  const headings = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim());
  const names = headings.map((name) => name.toLowerCase());
  const plain = names.map((name, column) => column).filter((column) => names[column] !== "note");
  const matches = (row, column, wanted) => {
    const compared = /^([<>])(-?[\d.e+-]+)$/.exec(wanted);
    if (compared) {
      const own = Number(row.cells[column].dataset.v || NaN);
      return compared[1] === "<" ? own < Number(compared[2]) : own > Number(compared[2]);
    }
    const words = row.cells[column].textContent.trim().toLowerCase().split(/[\s,;:]+/);
    if (wanted.endsWith("*")) return words.some((word) => word.startsWith(wanted.slice(0, -1)));
    return words.includes(wanted);
  };
  const fitsWord = (row, word) => {
    const [, name, wanted] = /^([^:]+):(.+)$/.exec(word) ?? [];
    const column = names.indexOf(name);
    if (column >= 0) return matches(row, column, wanted);
    return plain.some((other) => matches(row, other, word));
  };
  const applyFilter = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row) => {
      const fits = words.every((word) => fitsWord(row, word));
      row.hidden = !fits || (outcome.value !== "" && row.dataset.outcome !== outcome.value);
      shown += row.hidden ? 0 : 1;
    });
    limitRows();
    said.textContent = `${shown} of ${rows.length} trials`;
  };
  filter.addEventListener("input", applyFilter);
  outcome.addEventListener("change", applyFilter);
  const wide = document.getElementById("wide");
  wide.addEventListener("change", () => table.classList.toggle("wide", wide.checked));
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, textarea")) {
      event.preventDefault();
      filter.focus();
    }
  });

  // Printing shows what is folded.
  const folded = [];
  window.addEventListener("beforeprint", () => {
    for (const one of document.querySelectorAll("details:not([open], .screen)")) {
      one.open = true;
      folded.push(one);
    }
  });
  window.addEventListener("afterprint", () => {
    for (const one of folded.splice(0)) one.open = false;
  });

  // Copying: the button names what it copies.
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const said = button.parentElement.querySelector("[role=status]");
      try {
        await navigator.clipboard.writeText(button.dataset.copy);
        said.textContent = "copied";
      } catch {
        window.prompt("Copy:", button.dataset.copy);
      }
    });
  }

  // Tips: by pointer, or with the arrow keys on a focused chart.
  const words = (mark) => {
    if (mark.dataset.tip) return mark.dataset.tip;
    const trial = byNumber.get(mark.dataset.trial);
    if (!trial) return `trial ${mark.dataset.trial}`;
    const lines = [`trial ${trial.number}: ${trial.outcome}`];
    if (trial.eval_loss !== null) lines.push(`eval_loss ${trial.eval_loss.toFixed(4)}`);
    if (trial.required_bytes !== null) {
      const size = (trial.required_bytes / 2 ** 30).toFixed(2);
      lines.push(`${size} GiB needed, ${trial.required_bytes_origin}`);
    }
    for (const [name, own] of Object.entries(trial.hyperparameters)) {
      const figure = typeof own === "number" && own > 0 && own < 0.01;
      lines.push(`${name} ${figure ? own.toExponential(1) : own}`);
    }
    return lines.join("\n");
  };
  const showTip = (mark) => {
    tip.textContent = words(mark);
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    const left = Math.min(place.right + 10, window.innerWidth - tip.offsetWidth - 8);
    const top = Math.min(place.bottom + 10, window.innerHeight - tip.offsetHeight - 8);
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, top)}px`;
  };
  const hideTip = () => {
    tip.hidden = true;
    document.querySelectorAll(".at").forEach((mark) => mark.classList.remove("at"));
  };
  const MARKS = "[data-trial], [data-tip]";
  document.addEventListener("pointerover", (event) => {
    const mark = event.target.closest?.(`.chart :is(${MARKS})`);
    hideTip();
    if (mark) showTip(mark);
  });
  const goToRow = (number) => {
    const row = document.getElementById(`trial-${number}`);
    if (!row) return;
    row.hidden = false;
    row.classList.remove("later");
    rows.forEach((other) => other.classList.remove("found"));
    row.classList.add("found");
    history.pushState(null, "", `#trial-${number}`); // the browser's Back returns to the chart
    row.scrollIntoView({ block: "center" });
    row.focus({ preventScroll: true });
  };

  // A trial's panel: its figures and settings, next to those of the best or of a pinned trial.
  const panel = document.getElementById("trial");
  const panelSaid = panel.querySelector("[role=status]");
  let open = null;
  let other = null;
  let pinned = null;
  let cameFrom = null;
  const cellsOf = (number) => {
    const row = document.getElementById(`trial-${number}`);
    return row ? Array.from(row.cells, (cell) => cell.textContent.trim()) : [];
  };
  const drawPanel = () => {
    const [own, theirs] = [cellsOf(open), other === null ? null : cellsOf(other)];
    document.getElementById("trial-name").textContent =
      theirs ? `trial ${open} and trial ${other}` : `trial ${open}`;
    const lines = panel.querySelector("tbody");
    lines.replaceChildren();
    headings.forEach((name, column) => {
      if (own[column] === "" && !theirs?.[column]) return;
      const line = lines.insertRow();
      const heading = document.createElement("th");
      heading.scope = "row";
      heading.textContent = name;
      line.append(heading);
      line.insertCell().textContent = own[column] ?? "";
      if (!theirs) return;
      line.insertCell().textContent = theirs[column] ?? "";
      if (column > 0 && own[column] !== theirs[column]) line.className = "differs";
    });
    panelSaid.textContent = pinned === null ? "" : `trial ${pinned} is pinned`;
    const compare = panel.querySelector("[data-do=compare]");
    compare.hidden = data.best === null || String(data.best) === open;
    if (!panel.open) panel.show();
  };
  const openTrial = (number, from) => {
    if (!byNumber.has(number)) return;
    hideTip();
    [open, cameFrom] = [number, from];
    other = pinned === number ? null : pinned;
    drawPanel();
    panel.querySelector("[data-do=close]").focus();
  };
  const closePanel = () => {
    panel.close();
    cameFrom?.focus({ preventScroll: true });
  };
  const settings = (trial) =>
    Object.entries(trial.hyperparameters)
      .map(([name, own]) => `${name}: ${typeof own === "object" ? JSON.stringify(own) : own}\n`)
      .join("");
  const acts = {
    compare: () => { other = String(data.best); drawPanel(); },
    pin: () => { pinned = open; other = null; drawPanel(); },
    copy: async () => {
      const text = settings(byNumber.get(open));
      try {
        await navigator.clipboard.writeText(text);
        panelSaid.textContent = "copied";
      } catch {
        window.prompt("Copy:", text);
      }
    },
    row: () => { panel.close(); goToRow(open); },
    close: closePanel,
  };
  panel.addEventListener("click", (event) => acts[event.target.dataset.do]?.());
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel.open) closePanel();
  });
  document.addEventListener("click", (event) => {
    const mark = event.target.closest?.(".chart [data-trial]");
    const row = event.target.closest?.(".trials tbody tr");
    if (mark) openTrial(mark.dataset.trial, mark.closest("svg"));
    if (row) openTrial(row.id.replace("trial-", ""), row);
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    if (event.key !== "Enter" || !row) return;
    event.preventDefault();
    openTrial(row.id.replace("trial-", ""), row);
  });
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  for (const chart of document.querySelectorAll("figure > svg.chart")) {
    let marks = null;
    let at = -1;
    chart.addEventListener("keydown", (event) => {
      marks ??= Array.from(chart.querySelectorAll(MARKS))
        .map((mark) => [mark.getBoundingClientRect().left, mark])
        .sort(([a], [b]) => a - b)
        .map(([, mark]) => mark);
      if (event.key in STEPS && marks.length) {
        event.preventDefault();
        at = (at + STEPS[event.key] + marks.length) % marks.length;
        hideTip();
        marks[at].classList.add("at");
        showTip(marks[at]);
      } else if (event.key === "Enter" && at >= 0 && marks[at].dataset.trial) {
        event.preventDefault(); // Enter would press the panel's focused button
        openTrial(marks[at].dataset.trial, chart);
      } else if (event.key === "Escape") {
        hideTip();
      }
    });
    chart.addEventListener("blur", hideTip);
  }
})();
