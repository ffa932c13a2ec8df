// Two histograms of shares on one axis, with a threshold to drag.

import { counted, h, s, score } from "./dom.js";

const BINS = 48;
const [WIDTH, HEIGHT] = [BINS * 20, 220]; // of the drawing, which is stretched to its place

/** `low` and `high` are the ends of the axis; `slider` is moved by dragging in the drawing, too. */
export class Histogram {
  constructor(genuine, impostor, low, high, slider) {
    Object.assign(this, { low, high });
    const heights = [genuine, impostor].map((values) => shares(values, low, high));
    const top = Math.max(...heights.flat(), 1e-9);
    const bars = heights.map((all, kind) => s("path", {
      class: kind ? "impostor" : "genuine",
      d: all.map((share, bin) => {
        const tall = (share / top) * (HEIGHT - 6);
        return share ? `M${(bin * WIDTH) / BINS} ${HEIGHT}v${-tall}h${WIDTH / BINS - 1.5}v${tall}z` : "";
      }).join(""),
    }));
    this.line = s("line", { class: "threshold", y1: 0, y2: HEIGHT });
    const drawing = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none",
      role: "img", "aria-label": `How ${counted(genuine.length, "own picture")} and ${
        counted(impostor.length, "stranger")} score` }, ...bars, this.line);
    const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => h("span", {}, score(low + part * (high - low))));
    this.node = h("div", { class: "histogram panel" }, drawing, slider,
      h("div", { class: "ticks", "aria-hidden": "true" }, ...ticks));
    const drag = (event) => {
      if (!event.buttons) return;
      const box = drawing.getBoundingClientRect();
      slider.value = low + ((event.clientX - box.left) / box.width) * (high - low);
      slider.dispatchEvent(new Event("input"));
    };
    drawing.addEventListener("pointerdown", (event) => {
      drawing.setPointerCapture(event.pointerId);
      drag(event);
    });
    drawing.addEventListener("pointermove", drag);
  }

  at(threshold) {
    const x = ((threshold - this.low) / (this.high - this.low)) * WIDTH;
    this.line.setAttribute("x1", x);
    this.line.setAttribute("x2", x);
  }
}

function shares(values, low, high) {
  const bins = new Array(BINS).fill(0);
  for (const value of values) {
    bins[Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS))] += 1;
  }
  return bins.map((count) => count / Math.max(1, values.length));
}
