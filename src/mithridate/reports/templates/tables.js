"use strict";
/* Tables sort by a click on a head and filter by text. Without script they are plain tables. */
(() => {
  const build = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text) made.textContent = text;
    return made;
  };

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    if (!cell || cell.classList.contains("none") || cell.colSpan > 1) return null;
    return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
  };

  /* Words and labels, not measured numbers: "0.3" asks for eps 0.3, not for 60.3 %. */
  const labelsOf = (row) =>
    [...row.cells]
      .filter((cell) => !cell.classList.contains("n"))
      .map((cell) => cell.textContent)
      .join(" ")
      .toLowerCase();

  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  for (const box of document.querySelectorAll(".cells")) {
    const [main, rest] = box.querySelectorAll("table");
    const bodies = [main.tBodies[0], rest && rest.tBodies[0]];
    const rows = bodies.flatMap((body) => (body ? [...body.rows] : []));
    if (rows.length < 2) continue;
    const most = rest ? bodies[0].rows.length : Infinity;
    const said = build("output", "found");
    const heads = [...main.tHead.rows[0].cells];
    let order = rows;
    let words = [];

    const show = () => {
      const found = words.length
        ? order.filter((row) => {
            row.words ??= labelsOf(row);
            return words.every((word) => row.words.includes(word));
          })
        : order;
      bodies[0].replaceChildren(...found.slice(0, most));
      if (rest) bodies[1].replaceChildren(...found.slice(most));
      said.textContent = words.length
        ? `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`
        : "";
    };

    const sort = (column, way) => {
      const keyed = rows.map((row, place) => [valueOf(row, column), place, row]);
      keyed.sort(([a, i], [b, j]) => {
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return way * compare(a, b) || i - j;
      });
      order = way ? keyed.map((key) => key[2]) : rows;
      show();
    };

    heads.forEach((head, column) => {
      const button = build("button", "sort");
      button.type = "button";
      button.title = "Sort by this column";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = { ascending: -1, descending: 0 }[head.ariaSort] ?? 1;
        for (const other of heads) other.ariaSort = null;
        if (way) head.ariaSort = way > 0 ? "ascending" : "descending";
        sort(column, way);
      });
    });

    if (rows.length < 6) continue;
    const label = build("label", "", "Filter ");
    const field = build("input");
    field.type = "search";
    field.autocomplete = "off";
    label.append(field);
    field.addEventListener("input", () => {
      words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      show();
    });
    const controls = build("p", "controls");
    controls.append(label, said);
    box.prepend(controls);
  }
})();
