"use strict";
// Charts, drawn at the width of their container and again when it changes, so that text stays readable on a phone.

const SVG = "http://www.w3.org/2000/svg";

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "c") node.style.setProperty("--c", value);
    else if (name === "style" && value) node.style.cssText += value; // keep a colour set before
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

function shape(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "c") node.style.setProperty("--c", value);
    else node.setAttribute(name, value);
  }
  if (text !== "") node.textContent = text;
  return node;
}

// About `count` round numbers that span [low, high].
function ticks(low, high, count) {
  const span = high - low || 1;
  const raw = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999);
  const answer = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) answer.push(+(k * step).toPrecision(12));
  return answer;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + "M";
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + "k";
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  return String(+value.toPrecision(4));
}

const tip = {
  show(event, head, rows) {
    const box = document.getElementById("tip");
    box.replaceChildren(head, ...rows.map(([name, value]) => el("div", {}, el("span", {}, name), el("span", {}, value))));
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = event.clientX + 16 + width > innerWidth ? event.clientX - width - 16 : event.clientX + 16;
    box.style.left = Math.max(6, left) + "px";
    box.style.top = Math.max(6, Math.min(event.clientY - height / 2, innerHeight - height - 6)) + "px";
  },
  hide() { document.getElementById("tip").hidden = true; },
};

const drawings = [];

// Draw when the page is complete (drawAll), and again when the width of `host` changes.
function drawn(host, draw) {
  let last = 0;
  const again = () => {
    const width = Math.floor(host.clientWidth);
    if (width > 0 && width !== last) { last = width; draw(width); }
  };
  drawings.push(() => { again(); new ResizeObserver(() => requestAnimationFrame(again)).observe(host); });
  return host;
}

function drawAll() { for (const one of drawings) one(); }

// series: [{label, colour, dash, dots, x: [...], y: [...]}]; a y of null breaks its line.
function lineChart({ series, xLabel, yLabel, x: xRange, y: yRange, height = 250, diagonal = false, form = short }) {
  const shown = series.filter((one) => one.y && one.y.some((v) => v !== null));
  const xs = shown.flatMap((one) => one.x), ys = shown.flatMap((one) => one.y).filter((v) => v !== null);
  if (!shown.length) return el("p", { class: "note" }, "No data.");
  const [x0, x1] = xRange ?? [Math.min(...xs), Math.max(...xs)];
  const pad = (Math.max(...ys) - Math.min(...ys)) * 0.06 || Math.abs(ys[0]) * 0.1 || 1;
  const [y0, y1] = yRange ?? [Math.min(...ys) >= 0 ? Math.max(0, Math.min(...ys) - pad) : Math.min(...ys) - pad, Math.max(...ys) + pad];
  const host = el("div");
  const legend = el("div", { class: "legend" }, shown.map((one) =>
    el("span", { c: one.colour }, el("i", { class: one.dash ? "dash" : "" }), one.label)));
  drawn(host, (width) => {
    const left = 46, right = 10, top = 22, bottom = 38;
    const sx = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (width - left - right);
    const sy = (v) => height - bottom - ((v - y0) / (y1 - y0 || 1)) * (height - top - bottom);
    const svg = shape("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} over ${xLabel}` });
    for (const v of ticks(y0, y1, 5)) {
      svg.append(shape("line", { class: "axis", x1: left, x2: width - right, y1: sy(v), y2: sy(v) }));
      svg.append(shape("text", { x: left - 8, y: sy(v) + 4, "text-anchor": "end" }, form(v)));
    }
    for (const v of ticks(x0, x1, Math.max(2, width / 95)))
      svg.append(shape("text", { x: sx(v), y: height - bottom + 17, "text-anchor": "middle" }, short(v)));
    svg.append(shape("text", { class: "title", x: left - 40, y: 11 }, yLabel));
    svg.append(shape("text", { class: "title", x: width - right, y: height - 4, "text-anchor": "end" }, xLabel));
    if (diagonal) svg.append(shape("line", { class: "cursor", x1: sx(x0), y1: sy(x0), x2: sx(x1), y2: sy(x1) }));
    for (const one of shown) {
      let path = "", pen = "M";
      one.y.forEach((v, k) => {
        if (v === null) { pen = "M"; return; }
        path += `${pen}${sx(one.x[k]).toFixed(1)} ${sy(Math.max(y0, Math.min(y1, v))).toFixed(1)}`;
        pen = "L";
      });
      svg.append(shape("path", { class: "line" + (one.dash ? " dash" : ""), d: path, c: one.colour }));
      if (one.dots || one.y.length === 1) one.y.forEach((v, k) => {
        if (v !== null) svg.append(shape("circle", { cx: sx(one.x[k]), cy: sy(v), r: 4, c: one.colour }));
      });
    }
    const cursor = shape("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
    svg.append(cursor);
    svg.addEventListener("pointermove", (event) => {
      const at = x0 + ((event.clientX - svg.getBoundingClientRect().left - left) / (width - left - right)) * (x1 - x0);
      const rows = [];
      let place = null;
      for (const one of shown) {
        let best = 0;
        one.x.forEach((v, k) => { if (Math.abs(v - at) < Math.abs(one.x[best] - at)) best = k; });
        place ??= one.x[best];
        if (one.y[best] !== null) rows.push([one.label, form(one.y[best])]);
      }
      cursor.setAttribute("x1", sx(place)); cursor.setAttribute("x2", sx(place));
      cursor.setAttribute("visibility", "visible");
      tip.show(event, `${xLabel} ${short(place)}`, rows);
    });
    svg.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); tip.hide(); });
    host.replaceChildren(svg);
  });
  return el("div", {}, host, legend);
}

// points: [{x, y, r, colour, label, rows}]
function scatter({ points, xLabel, yLabel, y: yRange, height = 270, form = short }) {
  if (!points.length) return el("p", { class: "note" }, "No data.");
  const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
  const pad = (Math.max(...xs) - Math.min(...xs)) * 0.05 || 0.05;
  const [x0, x1] = [Math.min(...xs) - pad, Math.max(...xs) + pad], [y0, y1] = yRange ?? [0, Math.max(...ys) * 1.08 || 1];
  const host = el("div");
  return drawn(host, (width) => {
    const left = 46, right = 12, top = 22, bottom = 38;
    const sx = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
    const sy = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - top - bottom);
    const svg = shape("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${yLabel} over ${xLabel}` });
    for (const v of ticks(y0, y1, 5)) {
      svg.append(shape("line", { class: "axis", x1: left, x2: width - right, y1: sy(v), y2: sy(v) }));
      svg.append(shape("text", { x: left - 8, y: sy(v) + 4, "text-anchor": "end" }, form(v)));
    }
    for (const v of ticks(x0, x1, Math.max(2, width / 95)))
      svg.append(shape("text", { x: sx(v), y: height - bottom + 17, "text-anchor": "middle" }, short(v)));
    svg.append(shape("text", { class: "title", x: left - 40, y: 11 }, yLabel));
    svg.append(shape("text", { class: "title", x: width - right, y: height - 4, "text-anchor": "end" }, xLabel));
    for (const p of points) {
      const dot = shape("circle", { cx: sx(p.x), cy: sy(p.y), r: p.r ?? 4.5, c: p.colour, "fill-opacity": 0.8 });
      dot.addEventListener("pointermove", (event) => tip.show(event, p.label, p.rows ?? []));
      dot.addEventListener("pointerleave", tip.hide);
      svg.append(dot);
    }
    host.replaceChildren(svg);
  });
}
