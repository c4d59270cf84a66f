// The gallery of example images, and its enlarged view.

const galleryKinds = { found: ["found", "var(--good)"], missed: ["missed", "var(--bad)"], false: ["false detection", "var(--other)"],
  "base missed": ["base: missed", "var(--bad)"], "base false": ["base: false detection", "var(--other)"] };

function gallery() {
  if (!page.gallery.length) return;
  let run = 0, kind = "all", truth = true;
  const host = el("div", { class: "gallery" });
  const show = () => host.replaceChildren(...page.gallery.filter((one) => kind === "all" || one.kind === kind).map((one) => tile(one, () => ({ run, truth }))));
  const present = ["all", ...Object.keys(galleryKinds).filter((name) => page.gallery.some((one) => one.kind === name))];
  const tools = el("div", { class: "tools" }, choices(present, (name) => { kind = name; show(); }, (name) => (name === "all" ? "all" : galleryKinds[name][0])),
    many ? choices(page.runs.map((_, k) => k), (k) => { run = k; show(); }, (k) => page.runs[k].name) : null,
    el("button", { type: "button", "aria-pressed": "true", onclick: (event) => { truth = !truth; event.currentTarget.setAttribute("aria-pressed", String(truth)); show(); } }, "annotations"));
  show();
  const legend = el("div", { class: "legend", style: "margin:0 0 14px" }, el("span", { c: "var(--novel)" }, el("i"), "★ novel"), el("span", { c: "var(--base)" }, el("i"), "base"),
    el("span", { c: "var(--dim)" }, el("i", { class: "dash" }), "annotated"), el("span", {}, "✓ right"), el("span", {}, "✗ struck through: wrong"));
  section("gallery", "Examples", `Objects missed and false detections, of novel and of base concepts, and novel objects found${many ? "; the first run chooses the images" : ""}. Shown are detections with at least the score of the best F1, one per object.`, tools, legend, host);
}

function tile(one, state, large = false) {
  const { run, truth } = state();
  const svg = shape("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  const rect = ([x, y, width, height], attributes) => shape("rect", { x, y, width, height, ...attributes });
  if (truth) for (const box of one.truth) svg.append(rect(box.box, { class: "mark under" }), rect(box.box, { class: "mark annotated" }));
  const detections = one.runs[run];
  const chips = [...detections].sort((a, b) => b.novel - a.novel).map((detection) => {
    const text = `${detection.right ? "✓" : "✗"} ${star(detection.novel)}${detection.name.replaceAll("_", " ")} ${detection.score.toFixed(2)}`;
    return [detection.box, el("span", { class: "chip" + (detection.right ? "" : " wrong"), c: splitColour[detection.novel ? "novel" : "base"] }, text)];
  });
  for (const detection of [...detections].reverse()) svg.append(rect(detection.box, { class: "mark under" }), rect(detection.box, { class: "mark", c: splitColour[detection.novel ? "novel" : "base"] }));
  const [word, colour] = galleryKinds[one.kind];
  const annotated = [...new Set(one.truth.map((t) => star(t.novel) + t.name.replaceAll("_", " ")))].join(", ");
  const photo = el("button", { class: "photo", type: "button", "aria-label": `${one.file}, enlarge`, onclick: () => (large ? document.querySelector("dialog").close() : enlarge(one, state)) },
    el("img", { src: one.picture, alt: `image with ${annotated || "no annotations"}`, style: `aspect-ratio:${one.width}/${one.height}`, loading: "lazy" }), svg, chips.map(([, chip]) => chip));
  new ResizeObserver(() => placeChips(photo, chips)).observe(photo);
  return el("article", { class: "tile" }, photo,
    el("div", { class: "caption" }, el("p", {}, el("span", { class: "badge", c: colour }, word), el("b", {}, `${star(one.novel)}${one.concept.replaceAll("_", " ")}`)),
      el("p", { class: "note" }, `${one.file}; annotated: ${annotated || "nothing"}`)));
}

// Put each label at its box and inside the image. A label that would cover another one is left out; the enlarged
// image has room for it.
function placeChips(photo, chips) {
  const places = [], width = photo.clientWidth;
  for (const [box, chip] of chips) {
    chip.hidden = false;
    const [wide, high] = [chip.offsetWidth, chip.offsetHeight];
    const left = Math.max(0, Math.min(width - wide, box[0] * width)), top = box[1] * photo.clientHeight;
    const up = top - high >= 0 ? top - high : top;
    chip.hidden = places.some(([x, y, w, h]) => left < x + w && x < left + wide && up < y + h && y < up + high);
    if (chip.hidden) continue;
    places.push([left, up, wide, high]);
    chip.style.left = `${left}px`;
    chip.style.top = `${up}px`;
  }
}

function enlarge(one, state) {
  const box = el("dialog", { style: `--shape:${one.width / one.height}` }, tile(one, state, true));
  box.addEventListener("close", () => box.remove());
  box.addEventListener("click", (event) => { if (event.target === box) box.close(); });
  document.body.append(box);
  box.showModal();
}
