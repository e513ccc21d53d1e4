"use strict";
// Tables can be sorted by each column, long ones searched and unfolded; without this script all rows are there to read.
(() => {
  const FEW = 25;
  const numberOf = (text) => {
    if (text === "exact") return Infinity;
    if (text === "-inf") return -Infinity;
    const value = parseFloat(text.replace(/,/g, ""));
    return Number.isNaN(value) ? null : value;
  };
  const compare = (a, b, isNumber) => {
    if (!isNumber) return a.localeCompare(b, undefined, { numeric: true });
    const [x, y] = [numberOf(a), numberOf(b)];
    return x === y ? 0 : x < y ? -1 : 1;
  };
  // Names break behind their separators, not within a word.
  document.querySelectorAll(".w, .what, .tile strong").forEach((place) => {
    const parts = place.textContent.split(/(?<=[./_…])/);
    if (place.children.length || parts.length < 3) return;
    place.replaceChildren(...parts.flatMap((part) => [part, document.createElement("wbr")]));
  });
  // What goes on beyond the right edge fades there.
  const edges = [...document.querySelectorAll(".region, .figure")];
  const fade = (place) => place.classList.toggle("cut-off", place.scrollLeft + place.clientWidth < place.scrollWidth - 2);
  edges.forEach((place) => place.addEventListener("scroll", () => fade(place), { passive: true }));
  addEventListener("resize", () => edges.forEach(fade));
  document.querySelectorAll("table").forEach((table, index) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    if (rows.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    const region = table.parentElement;
    const isLong = table.classList.contains("long");
    let isOpen = rows.length <= FEW;
    let wanted = "";
    const status = document.createElement("span");
    status.setAttribute("role", "status");
    const more = document.createElement("button");
    more.type = "button";
    more.className = "more";
    const show = () => {
      const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      let visible = 0;
      for (const row of body.rows) {
        const text = (row.textContent + " " + [...row.querySelectorAll("[title]")].map((c) => c.title).join(" ")).toLowerCase();
        const fits = words.every((word) => text.includes(word));
        found += fits;
        row.hidden = !fits;
        const folded = fits && !isOpen && found > FEW;
        row.classList.toggle("folded", folded);
        visible += fits && !folded;
      }
      status.textContent = visible === rows.length ? `${rows.length} rows` : `${visible} of ${found < rows.length ? found + " matching" : rows.length} rows`;
      more.hidden = isOpen || found <= FEW;
      more.textContent = `Show all ${found} rows`;
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      if (!head.textContent.trim()) return;
      head.replaceChildren(button);
      const isNumber = head.classList.contains("n");
      button.addEventListener("click", () => {
        const isAscending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", isAscending ? "descending" : "ascending");
        const sign = isAscending ? -1 : 1;
        const text = (row) => row.cells[column].textContent.trim();
        const isEmpty = (row) => (isNumber ? numberOf(text(row)) === null : text(row) === "-");
        const sorted = [...rows].sort((a, b) => isEmpty(a) - isEmpty(b) || (isEmpty(a) ? 0 : sign * compare(text(a), text(b), isNumber)));
        body.append(...sorted);
        show();
      });
    });
    if (isLong) {
      const tools = document.createElement("div");
      tools.className = "tools";
      const label = document.createElement("label");
      const input = document.createElement("input");
      input.type = "search";
      input.id = `search-${index}`;
      label.htmlFor = input.id;
      label.textContent = "Search this table";
      input.addEventListener("input", () => {
        wanted = input.value;
        show();
      });
      more.addEventListener("click", () => {
        isOpen = true;
        show();
        region.focus();
      });
      tools.append(label, input, status);
      region.before(tools);
      region.after(more);
      show();
    }
  });
  edges.forEach(fade);
})();
