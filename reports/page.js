"use strict";
(() => {
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const tip = document.querySelector(".tip"), find = document.querySelector(".find input");
  const kept = "dpft-report";

  // Sort a table by a column: its numbers where cells have them, else their text. What is missing comes last.
  const key = (row, place) => {
    const cell = row.cells[place];
    return "by" in cell.dataset ? Number(cell.dataset.by) : cell.textContent.trim();
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number"
    ? (a === b ? 0 : a < b ? -1 : 1) : String(a).localeCompare(String(b), "en", { numeric: true });
  const sort = (head) => {
    const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
    const up = head.getAttribute("aria-sort") !== "ascending";
    all("th", table).forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const known = (row) => key(row, place) !== "—";
    const rows = [...body.rows].sort((a, b) =>
      known(b) - known(a) || (up ? 1 : -1) * compare(key(a, place), key(b, place)));
    body.append(...rows);
  };
  all("th button").forEach((button) => button.addEventListener("click", () => sort(button.parentElement)));

  // Show the runs that hold all words, and in other tables the rows on those runs.
  const runs = all("table[data-table=runs] tbody tr"), others = all("table.filterable:not([data-table=runs]) tbody tr");
  const texts = (row) => [...row.cells].map((cell) => cell.textContent.trim());
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => { const text = row.textContent.toLowerCase(); return words.every((word) => text.includes(word)); };
    const shown = runs.filter(fits), names = new Set(shown.map((row) => texts(row)[0]));
    runs.forEach((row) => row.classList.toggle("off", !names.has(texts(row)[0])));
    others.forEach((row) => row.classList.toggle("off", !texts(row).some((text) => names.has(text)) && words.length > 0));
    document.querySelector(".find output").value = words.length ? `${shown.length} of ${runs.length}` : "";
    keep();
  };
  find.addEventListener("input", filter);

  // Show and hide a series everywhere.
  const chips = all(".chip");
  const apply = () => {
    const off = new Set(chips.filter((c) => c.getAttribute("aria-pressed") === "false").map((c) => c.dataset.toggles));
    all("[data-series]").forEach((one) => one.classList.toggle("off", off.has(one.dataset.series)));
  };
  chips.forEach((chip) => chip.addEventListener("click", () => {
    chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
    apply();
    keep();
  }));

  // Tell of a point beside the pointer, or beside the point where the keyboard is.
  const show = (point, x, y) => {
    tip.textContent = point.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(8, Math.min(x + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${y + box.height + 24 > innerHeight ? y - box.height - 12 : y + 16}px`;
  };
  const hide = () => { tip.hidden = true; };
  all(".point").forEach((point) => {
    point.querySelector("title").remove();
    point.setAttribute("aria-label", point.dataset.tip);
    point.addEventListener("pointermove", (event) => show(point, event.clientX, event.clientY));
    point.addEventListener("pointerleave", hide);
    point.addEventListener("focus", () => {
      const box = point.getBoundingClientRect();
      show(point, box.right, box.top);
    });
    point.addEventListener("blur", hide);
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", hide, { passive: true });

  // While watched: ask whether the runs have changed, and come again as it was.
  const keep = () => {
    if (!watched) return;
    const off = chips.filter((c) => c.getAttribute("aria-pressed") === "false").map((c) => c.dataset.toggles);
    sessionStorage.setItem(kept, JSON.stringify({ words: find.value, off }));
  };
  const watched = document.documentElement.dataset.watched;
  if (watched) {
    const { words, off } = JSON.parse(sessionStorage.getItem(kept) || '{"words":"","off":[]}');
    find.value = words;
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(!off.includes(chip.dataset.toggles))));
    apply();
    filter();
    const live = document.querySelector(".live");
    setInterval(async () => {
      try {
        const answer = await fetch("state", { cache: "no-store" });
        if (answer.ok && (await answer.text()) !== watched) location.reload();
        live.textContent = "watching";
      } catch {
        live.textContent = "no longer watched";
      }
    }, 2000);
  }
})();
