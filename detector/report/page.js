// The page, section by section, from the data that stands in it.

const page = JSON.parse(document.getElementById("data").textContent);
const many = page.runs.length > 1;
const runColour = (k) => `var(--run${k % 6})`;
const splitColour = { novel: "var(--novel)", base: "var(--base)", other: "var(--other)" };
const star = (novel) => (novel ? "★ " : "");
const percent = (v, digits = 1) => (v === null || v === undefined ? "–" : (100 * v).toFixed(digits));
const signed = (v) => (v === null || v === undefined ? "–" : (v > 0 ? "+" : v < 0 ? "−" : "±") + Math.abs(100 * v).toFixed(1));
const whole = (v) => v.toLocaleString("en");
const who = (k) => (many ? el("div", { class: "who", c: runColour(k) }, el("i", { class: "dot" }), page.runs[k].name) : null);

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
        fact(data.base, "base concepts"), fact(data.novel, "★ novel ones"), fact(data.protocol, `protocol: ${data.meaning}`)),
      many ? el("div", { class: "runs" }, runs.map((run, k) => el("span", { c: runColour(k) }, el("i", { class: "dot" }), run.name))) : null),
    theme);
  document.getElementById("foot").append(`Made ${page.made}. This file needs no network and no other file.`);
}

function headline() {
  const cards = page.runs[0].headline.map((one, at) =>
    el("div", { class: "card" }, el("h3", {}, star(one.key === "ap50_novel" || one.key === "ap_r") + one.label),
      page.runs.map((run, k) => {
        const mine = run.headline[at];
        const colour = many ? runColour(k) : one.key.endsWith("novel") || one.key === "ap_r" ? "var(--novel)" : "var(--base)";
        const known = mine.low !== null && mine.value !== null;
        return el("div", { class: "row" }, who(k),
          el("div", { class: "figure" + (many ? " small" : "") }, percent(mine.value), mine.value === null ? "" : el("small", {}, "%")),
          mine.value === null ? null : el("div", { class: "span", c: colour },
            known ? el("i", { style: `left:${100 * mine.low}%;width:${100 * (mine.high - mine.low)}%` }) : null,
            el("b", { style: `left:${100 * mine.value}%` })),
          known ? el("div", { class: "note num" }, `${percent(mine.low)} to ${percent(mine.high)} (95%)`) : null);
      })));
  const paired = page.comparisons.flatMap(({ run, figures }) => Object.entries(figures).map(([name, one]) =>
    el("tr", {}, el("td", {}, `${page.runs[run].name} − ${page.runs[0].name}`), el("td", {}, name.replace("ap50_", "AP50 ")),
      el("td", {}, signed(one.difference)), el("td", {}, one.low === null ? "–" : `${signed(one.low)} to ${signed(one.high)}`),
      el("td", {}, one.p === null ? "–" : one.p.toFixed(3)), el("td", {}, one.p === null ? "–" : one.differs ? "differs" : "no difference shown"))));
  section("figures", "Figures", "In percent, with the interval that drawing the photos again gives.",
    el("div", { class: "cards" }, cards),
    paired.length ? el("div", { class: "card scroll", style: "margin-top:16px" }, el("h3", {}, "Is the difference real? Paired over the same photos"),
      el("table", {}, el("thead", {}, el("tr", {}, ["runs", "figure", "difference", "95%", "p", ""].map((h) => el("th", {}, h)))), el("tbody", {}, paired))) : null);
}

function training() {
  const logs = page.runs.map((run, k) => [run.log, k, run.name]).filter(([log]) => log.train || log.evaluation);
  if (!logs.length) return;
  const curve = (kind, name, label, options = {}) => logs.filter(([log]) => log[kind]?.[name]).map(([log, k, run]) =>
    ({ label: many ? `${run}${label ? ": " + label : ""}` : label, colour: runColour(k), x: log[kind].step, y: log[kind][name], ...options }));
  const parts = ["class", "l1", "giou", "contrast"];
  const terms = many ? curve("train", "loss_contrast", "")
    : parts.flatMap((name, n) => curve("train", "loss_" + name, name, { colour: runColour(n) }));
  const judged = ["novel", "base"].flatMap((split) => curve("evaluation", "ap50_" + split, split,
    { colour: undefined, dots: true, dash: many && split === "base" }).map((one, n) => ({ ...one, colour: many ? runColour(logs[n][1]) : splitColour[split] })));
  const plots = [
    ["Loss", "loss", curve("train", "loss_total", many ? "" : "total")],
    [many ? "Contrastive loss" : "Its parts", "loss", terms],
    ["AP50 on the held-out photos", "percent", judged, { form: (v) => percent(v, 0), y: [0, 1] }],
    ["Learning rate", "rate", curve("train", "lr", many ? "" : "rate")],
    ["Speed", "images/s", curve("train", "images_per_s", many ? "" : "images/s")],
  ].filter(([, , series]) => series.length);
  section("training", "Training", "The run's own log, by optimiser step.", el("div", { class: "grid" },
    plots.map(([title, yLabel, series, more]) => card(title, lineChart({ series, xLabel: "step", yLabel, ...more })))));
}

function precision() {
  const recall = Array.from({ length: 101 }, (_, k) => k / 100);
  const plots = [["50", "IoU 0.50"], ["75", "IoU 0.75"]].map(([key, title]) => card(title, lineChart({
    series: page.runs.flatMap((run, k) => ["novel", "base"].filter((split) => run.curves[split + key]).map((split) => ({
      label: many ? `${run.name}: ${star(split === "novel")}${split}` : star(split === "novel") + split,
      colour: many ? runColour(k) : splitColour[split], dash: many && split === "base", x: recall, y: run.curves[split + key] }))),
    xLabel: "recall", yLabel: "precision", x: [0, 1], y: [0, 1] })));
  section("curves", "Precision and recall", "Mean over the concepts of the split that are in the photos; the area under a curve is its AP.", el("div", { class: "grid" }, plots));
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
  section("sizes", "By size", "AP, mean over IoU 0.50 to 0.95, of boxes by their area.", el("div", { class: "grid" }, blocks.filter(Boolean)));
}

function bars(rows, most = 1, form = (v) => percent(v)) {
  return el("div", { class: "bars" }, rows.flatMap(([label, value, colour, note]) => [
    el("span", {}, label),
    el("div", { class: "bar", c: colour }, value === null ? null : el("i", { style: `width:${Math.min(100, (100 * Math.max(0, value)) / most)}%` })),
    el("span", { class: "num" }, form(value), note ? el("span", { class: "note" }, "  " + note) : null)]));
}

// Columns sort at a click. columns: [{name, value(row), cell(row)}]
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
  columns.forEach((column, k) => heads.push(el("th", { scope: "col", class: column.wrap ? "wrap" : null }, el("button", { type: "button", onclick: () => {
    [by, up] = [k, k === by ? !up : typeof column.value(rows[0]) === "string"];
    fill();
  } }, column.name))));
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
    el("input", { type: "search", placeholder: "find a concept", "aria-label": "find a concept", oninput: (event) => { text = event.target.value.toLowerCase(); show(); } }));
  section("concepts", "By concept", "A dash where the photos hold none. Click a column to sort by it.", tools, el("div", { class: "card tall" }, grid.table));
}

function choices(names, pick, label = (name) => name) {
  const buttons = names.map((name, k) => el("button", { type: "button", "aria-pressed": String(k === 0), onclick: (event) => {
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === event.currentTarget)));
    pick(name);
  } }, label(name)));
  return buttons;
}

const meanings = {
  classification: "right place, wrong name", localisation: "right name, IoU 0.1 to 0.5", both: "wrong name, not quite there",
  duplicate: "found by a surer one already", background: "nothing is there", missed: "nothing came near",
};

function mistakes() {
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
  section("errors", "What AP50 is lost to", "Points of AP50 gained if every error of one kind, and no other, were put right (after TIDE); beside them how many errors there are.",
    el("div", { class: "grid" }, blocks.filter(Boolean)));
}

function confusions() {
  const list = (ones, boxes) => ones.length ? ones.map((one) => `${one.name.replaceAll("_", " ")} ${one.cosine.toFixed(2)}${boxes ? ` (${Math.round((100 * one.boxes) / boxes)}%)` : ""}`).join(", ") : "–";
  const parts = [["right", "named right", "var(--good)"], ["base", "taken for a base concept", "var(--base)"], ["novel", "for another novel one", "var(--novel)"], ["nothing", "not found", "var(--other)"]];
  const blocks = page.runs.map((run, k) => {
    if (!run.confusion.length) return null;
    const points = run.confusion.flatMap((one) => one.nearest.map((base) => ({ x: base.cosine, y: base.boxes / one.boxes, colour: many ? runColour(k) : "var(--novel)",
      label: `★ ${one.name} taken for ${base.name}`, rows: [["boxes", `${base.boxes} of ${one.boxes}`], ["cosine of texts", base.cosine.toFixed(3)]] })));
    const grid = sortable(run.confusion, [
      { name: "★ novel concept", value: (r) => r.name, cell: (r) => r.name.replaceAll("_", " ") },
      { name: "boxes", value: (r) => r.boxes, cell: (r) => whole(r.boxes) },
      { name: "named right", value: (r) => r.right / r.boxes, cell: (r) => percent(r.right / r.boxes, 0) + "%" },
      { name: "what the surest find on them says", value: (r) => r.base / r.boxes, wrap: true, cell: (r) => el("div", { class: "stack" }, parts.map(([key, label, c]) =>
        r[key] ? el("i", { c, style: `flex:${r[key]}`, title: `${label}: ${r[key]} of ${r.boxes}` }) : null)) },
      { name: "taken for (cosine)", value: (r) => r.taken_for.length, wrap: true, cell: (r) => list(r.taken_for.slice(0, 3), r.boxes) },
      { name: "nearest base by text", value: (r) => r.nearest[0]?.cosine ?? null, wrap: true, cell: (r) => list(r.nearest.slice(0, 3)) },
    ], 2, true);
    return [many ? el("h3", { style: "margin:18px 0 8px" }, who(k)) : null,
      el("div", { class: "legend", style: "margin:0 0 12px" }, parts.map(([, label, c]) => el("span", { c }, el("i", { class: "box" }), label))),
      el("div", { class: "card tall" }, grid.table), el("div", { class: "later" }),
      card("Does likeness of words explain it?", scatter({ points, xLabel: "cosine of the two texts", yLabel: "share of boxes taken for it", form: (v) => percent(v, 0) }))];
  });
  section("confusion", "What novel things are taken for", "For each annotated box of a novel concept: the surest find that overlaps it (IoU 0.5), however unsure, and the base concepts whose text lies nearest.", blocks);
}

function priors() {
  const blocks = page.runs.map((run, k) => {
    const cells = [];
    if (run.priors) {
      const { source, rho, limit, splits } = run.priors;
      const rows = ["novel", "base"].filter((s) => splits[s]).map((s) => el("tr", {}, el("td", {}, star(s === "novel") + s),
        ["precision", "recall", "f1"].map((key) => el("td", {}, percent(splits[s][key]))),
        el("td", {}, splits[s].said_per_photo.toFixed(2)), el("td", {}, splits[s].there_per_photo.toFixed(2))));
      cells.push(card(`What ${source} says is there, at ρ ${rho} and at most ${limit}`, el("div", { class: "scroll" }, el("table", {}, el("thead", {}, el("tr", {},
        ["", "precision", "recall", "F1", "said a photo", "there a photo"].map((h) => el("th", {}, h)))), el("tbody", {}, rows)))));
      cells.push(card("How often it is so when it says so", lineChart({ diagonal: true, series: ["novel", "base"].filter((s) => splits[s]).map((s) => ({
        label: star(s === "novel") + s, colour: splitColour[s], dots: true, x: splits[s].reliability.map((b) => b.said), y: splits[s].reliability.map((b) => b.so) })),
        xLabel: "probability said", yLabel: "share that is there", x: [0, 1], y: [0, 1] })));
    }
    if (run.sweep) {
      const { cells: all, own, fill } = run.sweep;
      const grid = all.filter((c) => c.source !== "none" && c.source !== "oracle");
      const rhos = [...new Set(grid.map((c) => c.rho))], limits = [...new Set(grid.map((c) => c.limit))];
      const values = all.map((c) => c.novel).filter((v) => v !== null);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      const heat = (c, more = "") => el("td", { class: more, style: `--v:${c.novel === null ? 0 : (c.novel - low) / Math.max(high - low, 0.05)}`, title: `base ${percent(c.base)}` }, percent(c.novel));
      const line = (source) => { const c = all.find((one) => one.source === source); return [source === "none" ? "no priors" : "the truth as priors", c.novel, splitColour.novel, `base ${percent(c.base)}`]; };
      cells.push(card(`★ AP50 novel by ρ and L${fill === "none" ? "" : `, filled up: ${fill}`}`, el("div", { class: "scroll" }, el("table", { class: "heat" }, el("thead", {}, el("tr", {}, el("th", {}, "ρ \\ L"), limits.map((l) => el("th", {}, l)))),
        el("tbody", {}, rhos.map((r) => el("tr", {}, el("th", {}, r), limits.map((l) => heat(grid.find((c) => c.rho === r && c.limit === l), r === own.rho && l === own.limit ? "own" : ""))))))),
        el("p", { class: "note", style: "margin:8px 0 12px" }, "Outlined: the run's own. All from one pass of the encoder."), bars([line("none"), line("oracle")])));
    }
    return cells.length ? [many ? el("h3", { style: "margin:18px 0 8px" }, who(k)) : null, el("div", { class: "grid" }, cells)] : null;
  });
  section("priors", "Priors", "What the detector was told of each photo before it looked: how true that is, and what difference ρ (how sure) and L (how many) make.", blocks.filter(Boolean));
}

const kinds = { find: ["found", "var(--good)"], miss: ["missed", "var(--bad)"], false: ["not there", "var(--other)"] };

function gallery() {
  if (!page.gallery.length) return;
  let run = 0, kind = "all", truth = true;
  const host = el("div", { class: "gallery" });
  const show = () => host.replaceChildren(...page.gallery.filter((one) => kind === "all" || one.kind === kind).map((one) => tile(one, () => ({ run, truth }))));
  const present = ["all", ...Object.keys(kinds).filter((name) => page.gallery.some((one) => one.kind === name))];
  const tools = el("div", { class: "tools" }, choices(present, (name) => { kind = name; show(); }, (name) => (name === "all" ? "all" : kinds[name][0])),
    many ? choices(page.runs.map((_, k) => k), (k) => { run = k; show(); }, (k) => page.runs[k].name) : null,
    el("button", { type: "button", "aria-pressed": "true", onclick: (event) => { truth = !truth; event.currentTarget.setAttribute("aria-pressed", String(truth)); show(); } }, "annotations"));
  show();
  const legend = el("div", { class: "legend", style: "margin:0 0 14px" }, el("span", { c: "var(--novel)" }, el("i"), "★ novel"), el("span", { c: "var(--base)" }, el("i"), "base"),
    el("span", { c: "var(--dim)" }, el("i", { class: "dash" }), "annotated"), el("span", {}, "struck through: wrong"));
  section("gallery", "Look", `Novel things found, missed, and seen where there are none${many ? "; photos chosen by the first run" : ""}. Shown from the score of best F1 up, one name a thing.`, tools, legend, host);
}

function tile(one, state, large = false) {
  const { run, truth } = state();
  const svg = shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const rect = ([x, y, width, height], attributes) => shape("rect", { x, y, width, height, ...attributes });
  if (truth) for (const box of one.truth) svg.append(rect(box.box, { class: "mark under" }), rect(box.box, { class: "mark there" }));
  const finds = one.runs[run];
  // A name that would cover another one is left out: the enlarged photo has room for it.
  const wide = large ? 900 : 265, high = 19 / (wide * (one.height / one.width)), places = [];
  const chips = [...finds].sort((a, b) => b.novel - a.novel).map((find) => {
    const text = `${star(find.novel)}${find.name.replaceAll("_", " ")} ${find.score.toFixed(2)}`;
    const length = Math.min(0.7, (text.length * 6.7 + 10) / wide);
    const left = Math.max(0, Math.min(1 - length, find.box[0]));
    const up = find.box[1] - high >= 0 ? find.box[1] - high : find.box[1];
    if (places.some(([x, y, w]) => left < x + w && x < left + length && up < y + high && y < up + high)) return null;
    places.push([left, up, length]);
    return el("span", { class: "chip" + (find.right ? "" : " wrong"), c: splitColour[find.novel ? "novel" : "base"], style: `left:${100 * left}%;top:${100 * up}%` }, text);
  });
  for (const find of [...finds].reverse()) svg.append(rect(find.box, { class: "mark under" }), rect(find.box, { class: "mark", c: splitColour[find.novel ? "novel" : "base"] }));
  const [word, colour] = kinds[one.kind];
  const there = [...new Set(one.truth.map((t) => star(t.novel) + t.name.replaceAll("_", " ")))].join(", ");
  return el("article", { class: "tile" },
    el("button", { class: "photo", type: "button", "aria-label": `${one.file}, enlarge`, onclick: () => (large ? document.querySelector("dialog").close() : enlarge(one, state)) },
      el("img", { src: one.picture, alt: `photo with ${there || "nothing annotated"}`, style: `aspect-ratio:${one.width}/${one.height}`, loading: "lazy" }), svg, chips),
    el("div", { class: "say" }, el("p", {}, el("span", { class: "badge", c: colour }, word), el("b", {}, `★ ${one.concept.replaceAll("_", " ")}`)),
      el("p", { class: "note" }, `${one.file}; there: ${there || "nothing annotated"}`)));
}

function enlarge(one, state) {
  const box = el("dialog", { style: `--shape:${one.width / one.height}` }, tile(one, state, true));
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
}

function origins() {
  const table = (rows) => el("div", { class: "scroll" }, el("table", {}, el("tbody", {}, rows)));
  const row = (name, values, mark) => el("tr", {}, el("td", { class: "mono", style: mark ? "font-weight:700" : null }, name), values.map((v) => el("td", { class: "mono wrap" }, v)));
  const digests = page.runs.map((run) => new Map(run.digests));
  const names = [...new Set(page.runs.flatMap((run) => run.digests.map(([name]) => name)))];
  const options = [...new Set(page.runs.flatMap((run) => Object.keys(run.config)))];
  const differs = (name) => new Set(page.runs.map((run) => run.config[name])).size > 1;
  const head = many ? el("tr", {}, el("td", {}), page.runs.map((run, k) => el("td", { class: "wrap" }, who(k)))) : null;
  const config = (list) => table([head, ...list.map((name) => row(name, page.runs.map((run) => run.config[name] ?? "–"), many && differs(name)))].filter(Boolean));
  section("origins", "Where it comes from", "Config, digests and versions: what would have to be the same for these figures to come out again.",
    el("div", { class: "card" },
      many ? el("details", { open: "" }, el("summary", {}, `Options that differ (${options.filter(differs).length})`), config(options.filter(differs))) : null,
      el("details", many ? {} : { open: "" }, el("summary", {}, "Digests and versions"), table([head, ...names.map((name) => row(name, digests.map((one) => one.get(name) ?? "–")))].filter(Boolean))),
      el("details", {}, el("summary", {}, `All ${options.length} options`), config(options))));
}

try {
  for (const part of [top, headline, training, precision, mistakes, confusions, priors, sizes, concepts, gallery, origins]) part();
  document.getElementById("nav").append(el("div", {}, sections.map(([id, title]) => el("a", { href: "#" + id }, title))));
  drawAll();
  document.body.dataset.ready = String(sections.length);
} catch (fault) {
  document.body.dataset.fault = String(fault);
  throw fault;
}
