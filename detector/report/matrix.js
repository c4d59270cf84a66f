// The confusion matrix over all concepts, and its mistakes as a list.

function matrices() {
  const blocks = page.runs.map((run, k) => {
    const { concepts: names, cells } = run.matrix;
    if (!names.length) return null;
    const label = (at, none) => (at < names.length ? star(names[at].split === "novel") + names[at].name.replaceAll("_", " ") : none);
    const wrong = cells.filter(([row, column]) => row !== column && row < names.length);
    const pairs = wrong.map(([row, column, count]) => ({ row: label(row), column: label(column, "missed"), count, share: count / names[row].boxes }));
    const list = pairs.length ? sortable(pairs, [
      { name: "annotated as", value: (r) => r.row, cell: (r) => r.row },
      { name: "detected as", value: (r) => r.column, cell: (r) => r.column },
      { name: "objects", value: (r) => r.count, cell: (r) => whole(r.count) },
      { name: "of its objects", value: (r) => r.share, cell: (r) => percent(r.share, 0) + "%" },
    ], 2) : null;
    return [many ? el("h3", { style: "margin:18px 0 8px" }, runLabel(k)) : null,
      el("div", { class: "grid" }, card("Annotated (rows) and detected (columns)", matrixChart(names, cells, label)),
        list ? el("div", { class: "card tall" }, el("h3", {}, "Mistakes, most frequent first"), list.table) : null)];
  });
  section("matrix", "Confusion of all concepts", "The best detection of each annotated object, of those with at least the score of the best F1. Squares on the diagonal are right, circles are mistakes; the last column is missed, the last row is detected where nothing is annotated. Touch a cell for its names.", blocks);
}

function matrixChart(names, cells, label) {
  const side = names.length + 1, host = el("div");
  const totals = Array(side).fill(0);
  for (const [row, , count] of cells) totals[row] += count;
  drawn(host, (width) => {
    const named = width >= 520 && side <= 30, left = named ? 130 : 4;
    const cell = Math.min(22, (width - left - 4) / (side + 0.5)), extent = cell * (side + 0.5);
    const at = (k) => k * cell + (k === side - 1 ? cell / 2 : 0); // a gap before the last row and column
    const svg = shape("svg", { class: "chart matrix", width, height: extent + 8, viewBox: `0 0 ${width} ${extent + 8}`, role: "img", "aria-label": "confusion matrix" });
    svg.append(shape("rect", { class: "ground", x: left, y: 4, width: at(side - 1) - cell / 2, height: at(side - 1) - cell / 2 }));
    if (named) for (let row = 0; row < side; row++)
      svg.append(shape("text", { x: left - 6, y: 4 + at(row) + cell / 2 + 4, "text-anchor": "end" }, label(row, "nothing").slice(0, 20)));
    for (const [row, column, count] of cells) {
      const right = row === column, colour = right ? "var(--good)" : column === side - 1 || row === side - 1 ? "var(--other)" : "var(--bad)";
      svg.append(shape("rect", { x: left + at(column) + cell * 0.06, y: 4 + at(row) + cell * 0.06, width: cell * 0.88, height: cell * 0.88,
        rx: right ? 0 : cell * 0.44, style: `fill:${colour};fill-opacity:${0.25 + 0.75 * (count / totals[row])}` }));
    }
    const told = (event) => {
      const box = svg.getBoundingClientRect();
      const find = (v) => [...Array(side).keys()].find((k) => v >= at(k) && v < at(k) + cell);
      const column = find(event.clientX - box.left - left), row = find(event.clientY - box.top - 4);
      const one = cells.find(([r, c]) => r === row && c === column);
      if (one) tip.show(event, `${label(row, "nothing")} → ${label(column, "missed")}`, [["objects", `${one[2]} of ${totals[row]}`]]);
      else tip.hide();
    };
    svg.addEventListener("pointermove", told);
    svg.addEventListener("pointerdown", told);
    svg.addEventListener("pointerleave", () => tip.hide());
    host.replaceChildren(svg);
  });
  return host;
}
