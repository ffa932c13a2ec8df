// Quality: how a gallery's own pictures and strangers score, and what a threshold costs.

import { busy, button, counted, form, h, percent, s, say, score } from "./dom.js";
import { runJob } from "./jobs.js";

export const title = () => "Quality";

const BINS = 48;
const [WIDTH, HEIGHT] = [BINS * 20, 220]; // of the drawing, which is stretched to its place

export async function render(context, body) {
  const { info } = context;
  const place = h("div", { "aria-live": "polite" });
  const run = (kind, given, done) => async () => {
    const job = await runJob(context, kind, given(), place);
    if (job.state === "done") say(done);
    context.redraw();
  };
  const measure = run("scores", () => ({}), "Measured");
  body.append(
    h("div", { class: "row spread tools" }, h("p", {}, described(info)),
      context.writable && button("Measure scores", measure)),
    place);
  const shown = h("div");
  body.append(shown);
  if (context.writable) body.append(calibrating(context, run));
  try {
    const scores = await context.api.call("scores", { signal: context.signal });
    shown.append(...drawn(context, scores, run));
  } catch (error) {
    if (error.status !== 404 && error.status !== 409) throw error;
    shown.append(h("p", { class: "empty" }, "The scores have not been measured yet."));
  }
}

function described({ calibration, threshold }) {
  if (!calibration) return `Not calibrated: the encoder's threshold ${score(threshold)} decides.`;
  if (typeof calibration === "string") return calibration;
  const { fpir, strangers, named, extrapolated } = calibration;
  return [
    `Calibrated to name ${percent(fpir)} of strangers, from ${counted(strangers, "picture")} of them`,
    extrapolated ? " (extrapolated: there were too few for this rate)" : "",
    named == null ? "." : `; ${percent(named)} of its own pictures would get their name.`,
  ].join("");
}

function calibrating(context, run) {
  const rate = h("input", { type: "number", min: 0.01, max: 50, step: "any", required: true,
    value: 100 * (context.info.calibration?.fpir ?? 0.01) });
  const start = run("calibrate", () => ({ fpir: Number(rate.value) / 100 }), "Calibrated");
  return h("section", {}, h("h2", {}, "Calibrate"),
    h("p", { class: "muted" }, "The threshold is chosen so that about this share of strangers gets"
      + " a name."),
    form(start, { class: "inline" },
      h("label", {}, "Strangers that may get a name, %", rate),
      h("button", { type: "submit", class: "primary" }, "Calibrate")));
}

function drawn(context, scores, run) {
  const known = (values) => values.filter((value) => Number.isFinite(value)).sort((a, b) => a - b);
  const [genuine, impostor] = [known(scores.genuine), known(scores.impostor)];
  const every = [...genuine, ...impostor, scores.threshold];
  const low = every.reduce((a, b) => Math.min(a, b), Infinity);
  const high = Math.max(every.reduce((a, b) => Math.max(a, b), -Infinity), low + 0.01);
  // Without a calibration the encoder's threshold decides, by scores.
  const axis = scores.standard === "the encoder's" ? "score"
    : "evidence: the score less half of the runner-up's";
  const slider = h("input", { type: "range", min: low, max: high, step: "any",
    "aria-label": "Threshold" });
  const figure = new Histogram(genuine, impostor, low, high, slider);
  const cost = h("p", { class: "cost" });
  const draw = () => {
    const at = Number(slider.value);
    const reach = (values) => values.length - firstAtLeast(values, at);
    cost.replaceChildren("At ", h("b", {}, score(at)), ": ",
      h("b", { class: "genuine" }, `${reach(genuine)} of ${scores.genuine.length}`),
      " own pictures reach it, and ",
      h("b", { class: "impostor" }, `${reach(impostor)} of ${scores.impostor.length}`),
      " strangers would get a name.");
    slider.setAttribute("aria-valuetext", score(at));
    figure.at(at);
  };
  slider.addEventListener("input", draw);
  const reset = button("Back to the gallery's threshold", () => {
    slider.value = scores.threshold;
    draw();
  }, { class: "small" });
  slider.value = scores.threshold;
  draw();
  const wanted = (point) => busy(reset, run("calibrate", () => ({ fpir: point.fpir }), "Calibrated"));
  return [
    h("section", {}, h("h2", {}, "Own pictures and strangers"),
      h("p", { class: "key" }, h("span", { class: "genuine" }, "own identity"), " ",
        h("span", { class: "impostor" }, "best other identity, as for a stranger"), " ",
        h("span", { class: "plain muted" }, axis)),
      figure.node, cost,
      h("p", { class: "row" }, h("span", { class: "facts" },
        `threshold in use ${score(scores.threshold)} (${scores.standard})`), reset)),
    rates(context, scores, wanted),
  ];
}

/** Where in ascending values the first one lies that is at least so high. */
function firstAtLeast(values, least) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < least) low = middle + 1;
    else high = middle;
  }
  return low;
}

function rates(context, { points }, wanted) {
  if (!points?.length) return null;
  const head = ["Strangers named", "Threshold", "Own pictures named"];
  const row = (point) => h("tr", {},
    h("th", { scope: "row" }, percent(point.fpir)), h("td", {}, score(point.threshold)),
    h("td", {}, percent(point.named)),
    context.writable && h("td", {}, button("Use this", () => wanted(point),
      { class: "small", "aria-label": `Calibrate to ${percent(point.fpir)}` })));
  return h("section", {}, h("h2", {}, "What each rate costs"),
    h("table", {},
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)),
        context.writable && h("td", {}))),
      h("tbody", {}, ...points.map(row))));
}

/** Two histograms of shares on one axis, with a threshold to drag. */
class Histogram {
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
