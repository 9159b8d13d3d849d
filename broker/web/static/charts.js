// Charts as SVG. Each has a sentence for screen readers, and a legend with the newest numbers beside it.
import { duration, el, say } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150, LEFT = 42, BOTTOM = 18, TOP = 8;

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/** The next number of the kind 1, 2 or 5 times a power of ten. */
export function nice(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  for (const factor of [1, 2, 5, 10]) if (factor * power >= value) return factor * power;
  return 10 * power;
}

const short = (value) => (Math.abs(value) >= 1e6 ? `${+(value / 1e6).toFixed(1)}M`
  : Math.abs(value) >= 1e3 ? `${+(value / 1e3).toFixed(1)}k` : `${+value.toFixed(2)}`);

function frame() {
  const legend = el("div", { class: "legend" });
  const chart = svg("svg", { class: "chart", role: "img" });
  const box = el("div", {}, chart, legend);
  return { box, chart, legend };
}

/** The width of a chart in pixels: its coordinates are pixels, so that text is not stretched. */
function widthOf(chart, height) {
  const width = chart.clientWidth || 600;
  chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return width;
}

function axes(width, low, high, leftLabel, rightLabel) {
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - share);
    parts.push(svg("line", { class: "gridline", x1: LEFT, x2: width, y1: y, y2: y }));
    parts.push(svg("text", { x: LEFT - 5, y: y + 4, "text-anchor": "end" }, short(low + (high - low) * share)));
  }
  parts.push(svg("text", { x: LEFT, y: HEIGHT - 4 }, leftLabel));
  parts.push(svg("text", { x: width - 2, y: HEIGHT - 4, "text-anchor": "end" }, rightLabel));
  return parts;
}

function showLegend(legend, entries) {
  while (legend.children.length > entries.length) legend.lastChild.remove();
  entries.forEach(([name, mark, value], i) => {
    let entry = legend.children[i];
    if (!entry) {
      entry = el("span", {}, el("span", { class: "mark" }), el("span"));
      legend.append(entry);
    }
    entry.firstChild.className = `mark f${mark}`;
    say(entry.lastChild, value === "" ? name : `${name} ${value}`);
  });
}

/** Lines over time. update([{name, values, shown}], leftLabel, rightLabel). */
export function lineChart(what) {
  const { box, chart, legend } = frame();
  box.update = (series, leftLabel, rightLabel) => {
    const width = widthOf(chart, HEIGHT);
    const values = series.flatMap((one) => one.values).filter((value) => value !== null);
    const lowest = Math.min(0, ...values);
    const high = nice(Math.max(1, ...values)), low = lowest < 0 ? -nice(-lowest) : 0;
    const parts = axes(width, low, high, leftLabel, rightLabel);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low));
    series.forEach((one, i) => {
      const step = (width - LEFT) / Math.max(1, one.values.length - 1);
      const points = one.values.map((value, k) => (value === null ? null : `${(LEFT + k * step).toFixed(1)},${y(value).toFixed(1)}`));
      parts.push(svg("polyline", { class: `line s${i} dash${i}`, points: points.filter(Boolean).join(" ") }));
    });
    chart.replaceChildren(...parts);
    chart.setAttribute("aria-label", `${what}: ${series.map((one) => `${one.name} now ${one.shown}, highest ${short(Math.max(0, ...one.values))}`).join("; ")}`);
    showLegend(legend, series.map((one, i) => [one.name, i, one.shown]));
  };
  return box;
}

/** Bars, each of several parts. update([{title, parts: [number, ...]}], names, leftLabel, rightLabel, summary). */
export function barChart(what) {
  const { box, chart, legend } = frame();
  box.update = (bars, names, leftLabel, rightLabel, summary) => {
    const width = widthOf(chart, HEIGHT);
    const high = nice(Math.max(1, ...bars.map((bar) => bar.parts.reduce((a, b) => a + b, 0))));
    const parts = axes(width, 0, high, leftLabel, rightLabel);
    const each = (width - LEFT) / Math.max(1, bars.length), tall = HEIGHT - TOP - BOTTOM;
    const thick = Math.min(64, each * 0.8);
    bars.forEach((bar, i) => {
      let floor = HEIGHT - BOTTOM;
      const group = svg("g", {}, svg("title", {}, bar.title));
      bar.parts.forEach((number, k) => {
        const size = (tall * number) / high;
        floor -= size;
        if (number > 0) {
          group.append(svg("rect", {
            class: `f${Math.min(k, 5)}`, x: (LEFT + i * each + (each - thick) / 2).toFixed(2), y: floor.toFixed(2),
            width: thick.toFixed(2), height: Math.max(0.5, size).toFixed(2),
          }));
        }
      });
      parts.push(group);
    });
    chart.replaceChildren(...parts);
    chart.setAttribute("aria-label", `${what}: ${summary}`);
    showLegend(legend, names.map((name, i) => [name, Math.min(i, 5), ""]));
  };
  return box;
}

/** Steps as horizontal bars: how long a batch took to fill, and how long it was trained on. update(steps, nowMs). */
export function stepChart(what) {
  const { box, chart, legend } = frame();
  box.update = (steps, nowMs) => {
    const shown = steps.filter((step) => step.first_ms).slice(-12);
    const height = 28 + 16 * Math.max(1, shown.length);
    chart.style.height = `${height}px`;
    const width = widthOf(chart, height);
    const from = Math.min(nowMs, ...shown.map((step) => step.first_ms));
    const to = Math.max(nowMs, from + 1000);
    const x = (ms) => LEFT + ((width - LEFT - 4) * (ms - from)) / (to - from);
    const parts = [];
    shown.forEach((step, i) => {
      const y = 6 + i * 16;
      const sealed = step.sealed_ms || nowMs;
      const group = svg("g", {}, svg("title", {}, `step ${step.step}: ${step.size} rollouts`));
      group.append(svg("text", { x: LEFT - 6, y: y + 9, "text-anchor": "end" }, String(step.step)));
      group.append(svg("rect", { class: "f0", x: x(step.first_ms), y, width: Math.max(1, x(sealed) - x(step.first_ms)), height: 10 }));
      if (step.sealed_ms) {
        const end = step.trained_ms || nowMs;
        group.append(svg("rect", { class: step.trained_ms ? "f1" : "f2", x: x(step.sealed_ms), y, width: Math.max(1, x(end) - x(step.sealed_ms)), height: 10 }));
      }
      parts.push(group);
    });
    parts.push(svg("text", { x: LEFT, y: height - 4 }, shown.length ? `${duration((to - from) / 1000)} ago` : ""));
    parts.push(svg("text", { x: width - 2, y: height - 4, "text-anchor": "end" }, "now"));
    chart.replaceChildren(...parts);
    const last = shown[shown.length - 1];
    chart.setAttribute("aria-label", `${what}: ${last ? `step ${last.step}, ${last.size} rollouts, ${last.sealed_ms ? "sealed" : "filling"}` : "no step yet"}`);
    showLegend(legend, [["batch fills", 0, ""], ["trained", 1, ""], ["being trained", 2, ""]]);
  };
  return box;
}
