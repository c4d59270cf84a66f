// The sections of the page, drawn from its embedded data.

const page = JSON.parse(document.getElementById("data").textContent);
const many = page.runs.length > 1;
const runColour = (k) => `var(--run${k % 6})`;
const splitColour = { novel: "var(--novel)", base: "var(--base)", other: "var(--other)" };
const star = (novel) => (novel ? "★ " : "");
const percent = (v, digits = 1) => (v === null || v === undefined ? "–" : (100 * v).toFixed(digits));
const signed = (v) => (v === null || v === undefined ? "–" : (v > 0 ? "+" : v < 0 ? "−" : "±") + Math.abs(100 * v).toFixed(1));
const whole = (v) => v.toLocaleString("en");
const runLabel = (k) => (many ? el("div", { class: "run-label", c: runColour(k) }, el("i", { class: "dot" }), page.runs[k].name) : null);

const sections = [];
function section(id, title, lead, ...content) {
  const parts = content.flat(Infinity).filter(Boolean);
  if (!parts.length) return;
  sections.push([id, title]);
  document.getElementById("page").append(
    el("section", { id }, el("h2", {}, title), el("p", { class: "lead" }, lead), parts));
}
const card = (title, ...content) => el("div", { class: "card" }, title ? el("h3", {}, title) : null, content);

function top() {
  const { data, runs } = page;
  const theme = el("button", { id: "theme", type: "button" }, "Dark / light");
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  const fact = (value, name) => el("span", {}, el("b", {}, value), " " + name);
  document.getElementById("top").append(
    el("div", {}, el("div", { class: "kicker" }, "cckt report"),
      el("h1", {}, many ? `${runs.length} runs on ${data.name}` : `${runs[0].name} on ${data.name}`),
      el("div", { class: "facts" }, fact(whole(data.photos), "photos"), fact(whole(data.boxes), "boxes"),
        fact(data.base, "base concepts"), fact(data.novel, "★ novel concepts"), fact(data.protocol, `protocol: ${data.meaning}`)),
      many ? el("div", { class: "runs" }, runs.map((run, k) => el("span", { c: runColour(k) }, el("i", { class: "dot" }), run.name))) : null),
    theme);
  document.getElementById("foot").append(`Created ${page.made}. This file needs no network and no other file.`);
}

function headline() {
  const cards = page.runs[0].headline.map((one, index) =>
    el("div", { class: "card" }, el("h3", {}, star(one.key === "ap50_novel" || one.key === "ap_r") + one.label),
      page.runs.map((run, k) => {
        const figure = run.headline[index];
        const colour = many ? runColour(k) : one.key.endsWith("novel") || one.key === "ap_r" ? "var(--novel)" : "var(--base)";
        const hasInterval = figure.low !== null && figure.value !== null;
        return el("div", { class: "row" }, runLabel(k),
          el("div", { class: "figure" + (many ? " small" : "") }, percent(figure.value), figure.value === null ? "" : el("small", {}, "%")),
          figure.value === null ? null : el("div", { class: "span", c: colour },
            hasInterval ? el("i", { style: `left:${100 * figure.low}%;width:${100 * (figure.high - figure.low)}%` }) : null,
            el("b", { style: `left:${100 * figure.value}%` })),
          hasInterval ? el("div", { class: "note num" }, `${percent(figure.low)} to ${percent(figure.high)} (95%)`) : null);
      })));
  const paired = page.comparisons.flatMap(({ run, figures }) => Object.entries(figures).map(([name, one]) =>
    el("tr", {}, el("td", {}, `${page.runs[run].name} − ${page.runs[0].name}`), el("td", {}, name.replace("ap50_", "AP50 ")),
      el("td", {}, signed(one.difference)), el("td", {}, one.low === null ? "–" : `${signed(one.low)} to ${signed(one.high)}`),
      el("td", {}, one.p === null ? "–" : one.p.toFixed(3)), el("td", {}, one.p === null ? "–" : one.differs ? "significant" : "not significant"))));
  section("figures", "Figures", "In percent, with 95% bootstrap intervals over the images.",
    el("div", { class: "cards" }, cards),
    paired.length ? el("div", { class: "card scroll", style: "margin-top:16px" }, el("h3", {}, "Difference between runs, paired bootstrap over the same images"),
      el("table", {}, el("thead", {}, el("tr", {}, ["runs", "figure", "difference", "95% interval", "p", ""].map((h) => el("th", {}, h)))), el("tbody", {}, paired))) : null);
}

function training() {
  const logs = page.runs.map((run, k) => [run.log, k, run.name]).filter(([log]) => log.train || log.evaluation);
  if (!logs.length) return;
  const curve = (kind, name, label, options = {}) => logs.filter(([log]) => log[kind]?.[name]).map(([log, k, run]) =>
    ({ label: many ? `${run}${label ? ": " + label : ""}` : label, colour: runColour(k), x: log[kind].step, y: log[kind][name], ...options }));
  const shown = Object.entries(logs[0][0].train ?? {}).filter(([name, values]) => name.startsWith("loss_")
    && !["loss_total", "loss_gradient"].includes(name) && values.some((v) => v)).map(([name]) => name);
  const terms = many ? curve("train", "loss_contrast", "")
    : shown.flatMap((name, n) => curve("train", name, name.slice(5).replaceAll("_", " "), { colour: runColour(n), dash: n > 5 }));
  const evaluations = ["novel", "base"].flatMap((split) => curve("evaluation", "ap50_" + split, split,
    { colour: undefined, dots: true, dash: many && split === "base" }).map((one, n) => ({ ...one, colour: many ? runColour(logs[n][1]) : splitColour[split] })));
  const plots = [
    ["Loss", "loss", curve("train", "loss_total", many ? "" : "total")],
    [many ? "Contrastive loss" : "Loss terms", "loss", terms],
    ["AP50 on the validation images", "percent", evaluations, { form: (v) => percent(v, 0), y: [0, 1] }],
    ["Learning rate", "rate", curve("train", "lr", many ? "" : "rate")],
    ["Speed", "images/s", curve("train", "images_per_s", many ? "" : "images/s")],
  ].filter(([, , series]) => series.length);
  section("training", "Training", "Training log, by optimiser step.", el("div", { class: "grid" },
    plots.map(([title, yLabel, series, more]) => card(title, lineChart({ series, xLabel: "step", yLabel, ...more })))));
}

function calibration() {
  const runs = page.runs.map((run, k) => [run, k]).filter(([run]) => run.reliability.length);
  if (!runs.length) return;
  const plot = card("Correct detections by score", lineChart({
    series: runs.map(([run, k]) => ({ label: many ? run.name : "all words", colour: many ? runColour(k) : splitColour.base,
      dots: true, x: run.reliability.map((one) => one.score), y: run.reliability.map((one) => one.right) })),
    xLabel: "calibrated score", yLabel: "share correct", x: [0, 1], y: [0, 1], diagonal: true }));
  section("calibration", "Scores as probabilities", "On the diagonal, a score is the probability that a detection is correct. Detections of a few words at a time, as cckt predict shows them.", el("div", { class: "grid" }, [plot, requests()].filter(Boolean)));
}

function requests() {
  const rows = page.runs.filter((run) => run.requests).flatMap((run) => ["novel", "base"].filter((split) => run.requests[split].boxes).map((split) => el("tr", {},
    [many ? el("td", {}, run.name) : null, el("td", {}, star(split === "novel") + split),
      ...[run.requests[split].precision, run.requests[split].recall].map((v) => el("td", { class: "num" }, percent(v))),
      el("td", { class: "num" }, String(run.requests[split].finds)), el("td", { class: "num" }, run.requests.absent_finds_per_photo.toFixed(3))])));
  if (!rows.length) return null;
  const heads = [...(many ? ["run"] : []), "words", "precision", "recall", "detections", "of absent words, per photo"];
  const words = page.runs.find((run) => run.requests).requests.words;
  return el("div", { class: "card scroll" }, el("h3", {}, `${words} words named at a time, at the threshold of cckt predict`),
    el("table", {}, el("thead", {}, el("tr", {}, heads.map((h) => el("th", {}, h)))), el("tbody", {}, rows)));
}

function precision() {
  const recall = Array.from({ length: 101 }, (_, k) => k / 100);
  const plots = [["50", "IoU 0.50"], ["75", "IoU 0.75"]].map(([key, title]) => card(title, lineChart({
    series: page.runs.flatMap((run, k) => ["novel", "base"].filter((split) => run.curves[split + key]).map((split) => ({
      label: many ? `${run.name}: ${star(split === "novel")}${split}` : star(split === "novel") + split,
      colour: many ? runColour(k) : splitColour[split], dash: many && split === "base", x: recall, y: run.curves[split + key] }))),
    xLabel: "recall", yLabel: "precision", x: [0, 1], y: [0, 1] })));
  section("curves", "Precision and recall", "Mean over the concepts of the split that have boxes. The area under a curve is the AP.", el("div", { class: "grid" }, plots));
}

function sizes() {
  const names = { small: "small, below 32² px", medium: "medium", large: "large, above 96² px" };
  const blocks = ["novel", "base"].map((split) => {
    const rows = ["small", "medium", "large"].flatMap((size) => page.runs.map((run, k) => {
      const one = run.sizes.find((row) => row.split === split && row.size === size);
      return [k === 0 ? names[size] : "", one ? one.ap : null, many ? runColour(k) : splitColour[split]];
    }));
    return rows.some(([, ap]) => ap !== null) ? card(star(split === "novel") + split, bars(rows)) : null;
  });
  section("sizes", "By size", "AP, mean over IoU 0.50 to 0.95, by the area of the boxes.", el("div", { class: "grid" }, blocks.filter(Boolean)));
}

function bars(rows, most = 1, form = (v) => percent(v)) {
  return el("div", { class: "bars" }, rows.flatMap(([label, value, colour, note]) => [
    el("span", {}, label),
    el("div", { class: "bar", c: colour }, value === null ? null : el("i", { style: `width:${Math.min(100, (100 * Math.max(0, value)) / most)}%` })),
    el("span", { class: "num" }, form(value), note ? el("span", { class: "note" }, "  " + note) : null)]));
}

// Table that is sorted by a click on a column. columns: [{name, value(row), cell(row)}]
function sortable(rows, columns, start, upward = false) {
  const body = el("tbody"), heads = [];
  let by = start, up = upward;
  const fill = () => {
    const value = columns[by].value;
    const order = [...rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (typeof x === "string" ? x.localeCompare(y) : x - y) * (up ? 1 : -1);
    });
    body.replaceChildren(...order.map((row) => el("tr", {}, columns.map((c) => el("td", { class: c.wrap ? "wrap" : null }, c.cell(row))))));
    heads.forEach((head, k) => (k === by ? head.setAttribute("aria-sort", up ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
  };
  columns.forEach((column, k) => {
    const isText = typeof column.value(rows[0]) === "string"; // now, because a filter may leave no row
    heads.push(el("th", { scope: "col", class: column.wrap ? "wrap" : null }, el("button", { type: "button", onclick: () => {
      [by, up] = [k, k === by ? !up : isText];
      fill();
    } }, column.name)));
  });
  fill();
  return { table: el("table", {}, el("thead", {}, el("tr", {}, heads)), body), refill: (next) => { rows = next; fill(); } };
}

function meter(value, colour) {
  return [el("span", { class: "meter", c: colour }, el("i", { style: `width:${100 * (value ?? 0)}%` })), percent(value)];
}

function concepts() {
  const rows = page.runs[0].concepts.map((one, at) => ({ ...one, all: page.runs.map((run) => run.concepts[at]) }));
  const columns = [
    { name: "concept", value: (r) => r.name, cell: (r) => star(r.split === "novel") + r.name.replaceAll("_", " ") },
    { name: "split", value: (r) => r.split, cell: (r) => el("span", { class: "split", c: splitColour[r.split] }, r.split + (r.frequency ? ` (${r.frequency})` : "")) },
    { name: "boxes", value: (r) => r.boxes, cell: (r) => whole(r.boxes) },
    ...page.runs.map((run, k) => ({ name: many ? `AP50 ${run.name}` : "AP50", value: (r) => r.all[k].ap50,
      cell: (r) => meter(r.all[k].ap50, many ? runColour(k) : splitColour[r.split]) })),
    ...(many ? [{ name: "difference", value: (r) => (r.all[1].ap50 === null ? null : r.all[1].ap50 - r.all[0].ap50), cell: (r) => signed(r.all[1].ap50 === null ? null : r.all[1].ap50 - r.all[0].ap50) }]
      : [{ name: "AP75", value: (r) => r.ap75, cell: (r) => percent(r.ap75) }, { name: "AP", value: (r) => r.ap, cell: (r) => percent(r.ap) }]),
  ];
  const grid = sortable(rows, columns, 3);
  let split = "all", text = "";
  const show = () => grid.refill(rows.filter((r) => (split === "all" || r.split === split) && r.name.toLowerCase().includes(text)));
  const kinds = ["all", ...new Set(rows.map((r) => r.split))];
  const tools = el("div", { class: "tools" }, choices(kinds, (kind) => { split = kind; show(); }),
    el("input", { type: "search", placeholder: "filter concepts", "aria-label": "filter concepts", oninput: (event) => { text = event.target.value.toLowerCase(); show(); } }));
  section("concepts", "By concept", "A dash marks a concept without boxes in these images. Click a column to sort by it.", tools, el("div", { class: "card tall" }, grid.table));
}

function choices(names, pick, label = (name) => name) {
  const buttons = names.map((name, k) => el("button", { type: "button", "aria-pressed": String(k === 0), onclick: (event) => {
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === event.currentTarget)));
    pick(name);
  } }, label(name)));
  return buttons;
}

const meanings = {
  classification: "right place, wrong concept", localisation: "right concept, IoU 0.1 to 0.5", both: "wrong concept and place",
  duplicate: "object already detected with a higher score", background: "no box at this place", missed: "no detection",
};

function errors() {
  const kinds = Object.keys(meanings);
  const blocks = ["novel", "base"].map((split) => {
    const lost = page.runs.flatMap((run) => kinds.map((kind) => run.errors[split][kind].lost));
    if (lost.every((v) => v === null)) return null;
    const most = Math.max(0.02, ...lost.map((v) => v ?? 0));
    const rows = kinds.flatMap((kind) => page.runs.map((run, k) => {
      const one = run.errors[split][kind];
      const label = k === 0 ? el("span", {}, kind, el("br"), el("span", { class: "note" }, meanings[kind])) : "";
      return [label, one.lost, many ? runColour(k) : splitColour[split], `${whole(one.count)}×`];
    }));
    return card(star(split === "novel") + split, bars(rows, most, (v) => (v === null ? "–" : (100 * v).toFixed(1))));
  });
  section("errors", "Causes of lost AP50", "AP50 points gained if all errors of one kind, and no others, were corrected (after TIDE), and the number of these errors.",
    el("div", { class: "grid" }, blocks.filter(Boolean)));
}

function confusions() {
  const list = (ones, boxes) => ones.length ? ones.map((one) => `${one.name.replaceAll("_", " ")} ${one.cosine.toFixed(2)}${boxes ? ` (${Math.round((100 * one.boxes) / boxes)}%)` : ""}`).join(", ") : "–";
  const parts = [["correct", "correct", "var(--good)"], ["base", "detected as a base concept", "var(--base)"], ["other_novel", "detected as another novel concept", "var(--novel)"], ["missed", "missed", "var(--other)"]];
  const blocks = page.runs.map((run, k) => {
    if (!run.confusion.length) return null;
    const counts = run.novel_objects;
    const summary = el("table", {}, el("tr", {}, ["novel objects", "found by a box", `kept (score ${counts.threshold.toFixed(2)})`, "called base", "called another novel", "called right"].map((name) => el("th", {}, name))),
      el("tr", {}, ["objects", "recalled", "selected", "base", "novel", "correct"].map((key) => el("td", {}, whole(counts[key])))));
    const points = run.confusion.flatMap((one) => one.nearest.map((base) => ({ x: base.cosine, y: base.boxes / one.boxes, colour: many ? runColour(k) : "var(--novel)",
      label: `★ ${one.name} detected as ${base.name}`, rows: [["boxes", `${base.boxes} of ${one.boxes}`], ["text cosine", base.cosine.toFixed(3)]] })));
    const grid = sortable(run.confusion, [
      { name: "★ novel concept", value: (r) => r.name, cell: (r) => r.name.replaceAll("_", " ") },
      { name: "boxes", value: (r) => r.boxes, cell: (r) => whole(r.boxes) },
      { name: "correct", value: (r) => r.correct / r.boxes, cell: (r) => percent(r.correct / r.boxes, 0) + "%" },
      { name: "best detection of each box", value: (r) => r.base / r.boxes, wrap: true, cell: (r) => el("div", { class: "stack" }, parts.map(([key, label, c]) =>
        r[key] ? el("i", { c, style: `flex:${r[key]}`, title: `${label}: ${r[key]} of ${r.boxes}` }) : null)) },
      { name: "detected as (text cosine)", value: (r) => r.detected_as.length, wrap: true, cell: (r) => list(r.detected_as.slice(0, 3), r.boxes) },
      { name: "most similar base texts", value: (r) => r.nearest[0]?.cosine ?? null, wrap: true, cell: (r) => list(r.nearest.slice(0, 3)) },
    ], 2, true);
    return [many ? el("h3", { style: "margin:18px 0 8px" }, runLabel(k)) : null,
      el("div", { class: "legend", style: "margin:0 0 12px" }, parts.map(([, label, c]) => el("span", { c }, el("i", { class: "box" }), label))),
      el("div", { class: "card scroll" }, summary), el("div", { class: "gap" }),
      el("div", { class: "card tall" }, grid.table), el("div", { class: "gap" }),
      card("Confusion by similarity of the texts", scatter({ points, xLabel: "text cosine of novel and base concept", yLabel: "share of boxes detected as the base concept", form: (v) => percent(v, 0) }))];
  });
  section("confusion", "What novel objects are detected as", "The best detection, at any score, that overlaps each annotated box of a novel concept with IoU of at least 0.5; and the base concepts with the most similar text embeddings.", blocks);
}

function priors() {
  const blocks = page.runs.map((run, k) => {
    const cells = [];
    if (run.priors) {
      const { source, rho, limit, splits } = run.priors;
      const rows = ["novel", "base"].filter((s) => splits[s]).map((s) => el("tr", {}, el("td", {}, star(s === "novel") + s),
        ["precision", "recall", "f1", "ap"].map((key) => el("td", {}, percent(splits[s][key]))),
        el("td", {}, splits[s].predicted_per_image.toFixed(2)), el("td", {}, splits[s].annotated_per_image.toFixed(2))));
      cells.push(card(`Concepts present by ${source} priors, ρ ${rho}, at most ${limit} per image`, el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {},
        ["", "precision", "recall", "F1", "AP", "predicted per image", "annotated per image"].map((h) => el("th", {}, h)))), el("tbody", {}, rows)))));
      cells.push(card("Reliability of the probabilities", lineChart({ diagonal: true, series: ["novel", "base"].filter((s) => splits[s]).map((s) => ({
        label: star(s === "novel") + s, colour: splitColour[s], dots: true, x: splits[s].reliability.map((b) => b.probability), y: splits[s].reliability.map((b) => b.frequency) })),
        xLabel: "prior probability", yLabel: "share annotated", x: [0, 1], y: [0, 1] })));
    }
    if (run.sweep) {
      const { cells: all, own, fill } = run.sweep;
      const grid = all.filter((c) => c.source !== "none" && c.source !== "oracle");
      const rhos = [...new Set(grid.map((c) => c.rho))], limits = [...new Set(grid.map((c) => c.limit))];
      const values = all.map((c) => c.novel).filter((v) => v !== null);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const heat = (c, more = "") => el("td", { class: more, style: `--v:${c.novel === null ? 0 : (c.novel - low) / Math.max(high - low, 0.05)}`, title: `base ${percent(c.base)}` }, percent(c.novel));
      const line = (source) => { const c = all.find((one) => one.source === source); return [source === "none" ? "no priors" : "oracle priors", c.novel, splitColour.novel, `base ${percent(c.base)}`]; };
      cells.push(card(`★ AP50 novel by ρ and L${fill === "none" ? "" : `, fill ${fill}`}`, el("div", { class: "scroll" }, el("table", { class: "heat" }, el("thead", {}, el("tr", {}, el("th", {}, "ρ \\ L"), limits.map((l) => el("th", {}, l)))),
        el("tbody", {}, rhos.map((r) => el("tr", {}, el("th", {}, r), limits.map((l) => heat(grid.find((c) => c.rho === r && c.limit === l), r === own.rho && l === own.limit ? "own" : ""))))))),
        el("p", { class: "note", style: "margin:8px 0 12px" }, "The outlined cell has the run's own values."), bars([line("none"), line("oracle")])));
    }
    return cells.length ? [many ? el("h3", { style: "margin:18px 0 8px" }, runLabel(k)) : null, el("div", { class: "grid" }, cells)] : null;
  });
  section("priors", "Priors", "Priors name the concepts that are probably in an image, and guide the queries. ρ is the smallest probability of a present concept, L the most present concepts of an image.", blocks.filter(Boolean));
}

function origins() {
  const table = (rows) => el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows)));
  const row = (name, values, mark) => el("tr", {}, el("td", { class: "mono", style: mark ? "font-weight:700" : null }, name), values.map((v) => el("td", { class: "mono wrap" }, v)));
  const digests = page.runs.map((run) => new Map(run.digests));
  const names = [...new Set(page.runs.flatMap((run) => run.digests.map(([name]) => name)))];
  const options = [...new Set(page.runs.flatMap((run) => Object.keys(run.config)))];
  const differs = (name) => new Set(page.runs.map((run) => run.config[name])).size > 1;
  const head = many ? el("tr", {}, el("td", {}), page.runs.map((run, k) => el("td", { class: "wrap" }, runLabel(k)))) : null;
  const config = (list) => table([head, ...list.map((name) => row(name, page.runs.map((run) => run.config[name] ?? "–"), many && differs(name)))].filter(Boolean));
  section("origins", "Reproduction", "Options, digests and versions that the figures depend on.",
    el("div", { class: "card" },
      many ? el("details", { open: "" }, el("summary", {}, `Options that differ (${options.filter(differs).length})`), config(options.filter(differs))) : null,
      el("details", many ? {} : { open: "" }, el("summary", {}, "Digests and versions"), table([head, ...names.map((name) => row(name, digests.map((one) => one.get(name) ?? "–")))].filter(Boolean))),
      el("details", {}, el("summary", {}, `All ${options.length} options`), config(options))));
}

try {
  for (const part of [top, headline, training, precision, calibration, errors, matrices, confusions, priors, sizes, concepts, gallery, origins]) part();
  document.getElementById("nav").append(el("div", {}, sections.map(([id, title]) => el("a", { href: "#" + id }, title))));
  drawAll();
  document.body.dataset.ready = String(sections.length);
  const root = document.documentElement;
  new ResizeObserver(() => { document.body.dataset.overflow = String(Math.max(0, root.scrollWidth - root.clientWidth)); }).observe(root);
} catch (error) {
  document.body.dataset.fault = String(error);
  throw error;
}
