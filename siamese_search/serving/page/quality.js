// Quality: how a gallery's own pictures and strangers score, what a threshold costs, and whom.

import { picture } from "./api.js";
import { Det } from "./det.js";
import { button, counted, form, h, percent, say, score, speak } from "./dom.js";
import { Histogram } from "./histogram.js";
import { runJob } from "./jobs.js";

export const title = () => "Quality";

const PAGE = 15; // identities, or pairs of them, at a time

export async function render(context, body) {
  const { info } = context;
  const place = h("div", { "aria-live": "polite" });
  const measure = async () => {
    const job = await runJob(context, "scores", {}, place);
    if (job.state === "done") say("Measured");
    context.redraw();
  };
  const calibrate = async (fpir) => {
    const job = await runJob(context, "calibrate", { fpir }, place);
    if (job.state === "done") await runJob(context, "scores", {}, place);
    if (job.state === "done") say("Calibrated, and measured again");
    context.redraw();
  };
  body.append(
    h("div", { class: "row spread tools" }, h("p", { class: "grow" }, described(info)),
      button("Measure scores", measure)),
    place);
  const shown = h("div");
  body.append(shown);
  if (context.writable) body.append(calibrating(context, calibrate));
  try {
    const scores = await context.api.call("scores", { signal: context.signal });
    if (scores.stale) {
      shown.append(h("p", { class: "muted" },
        "The gallery has changed since these scores were measured: measure them again."));
    }
    shown.append(...drawn(context, scores, calibrate).filter(Boolean));
  } catch (error) {
    if (error.status !== 404 && error.status !== 409) throw error;
    shown.append(h("p", { class: "empty" }, "The scores have not been measured yet."));
  }
}

function described({ calibration, threshold, undecided }) {
  if (undecided) return "Not calibrated, and the encoder's threshold is not known.";
  if (!calibration) return `Not calibrated: the encoder's threshold ${score(threshold)} decides.`;
  const { fpir, strangers, named, extrapolated, metric } = calibration;
  const unseen = metric == null ? "its own pictures" : "its own pictures, each unseen before,";
  return [
    `Calibrated to name ${percent(fpir)} of strangers, from ${counted(strangers, "picture")} of them`,
    extrapolated ? " (extrapolated: there were too few for this rate)" : "",
    named == null ? "." : `; ${percent(named)} of ${unseen} would get their name.`,
  ].join("");
}

function calibrating(context, calibrate) {
  const rate = h("input", { type: "number", min: 0.1, max: 30, step: "any", required: true,
    value: Number((100 * (context.info.calibration?.fpir ?? 0.01)).toPrecision(3)) });
  const start = () => calibrate(Number(rate.value) / 100);
  return h("section", {}, h("h2", {}, "Calibrate"),
    h("p", { class: "muted" }, "The threshold is chosen so that about this share of strangers gets"
      + " a name."),
    form(start, { class: "inline" },
      h("label", {}, "Strangers that may get a name, %", rate),
      h("button", { type: "submit", class: "primary" }, "Calibrate")));
}

function drawn(context, scores, calibrate) {
  const found = scores.genuine.filter((_, index) => scores.right[index]).sort((a, b) => a - b);
  const impostor = scores.impostor.filter((value) => value !== null).sort((a, b) => a - b);
  const [own, strangers] = [scores.genuine.length, scores.impostor.length];
  const every = [...scores.genuine, ...impostor, scores.threshold];
  const low = every.reduce((a, b) => Math.min(a, b), Infinity);
  const high = Math.max(every.reduce((a, b) => Math.max(a, b), -Infinity), low + 0.01);
  const slider = h("input", { type: "range", min: low, max: high, step: "any",
    "aria-label": "Threshold" });
  const histogram = new Histogram(scores.genuine, impostor, low, high, slider);
  const det = scores.det.length > 1 ? new Det(scores) : null;
  const cost = h("p", { class: "cost" });
  const draw = () => {
    // The range rounds, and the threshold in use must count as the server counts it.
    const moved = Math.abs(Number(slider.value) - scores.threshold) > 1e-9;
    const at = moved ? Number(slider.value) : scores.threshold;
    const [named, wrongly] = [found, impostor].map((values) =>
      values.length - firstAtLeast(values, at));
    cost.replaceChildren("At ", h("b", {}, score(at)), ": ",
      h("b", { class: "genuine" }, `${named} of ${own}`), " own pictures get their name, and ",
      h("b", { class: "impostor" }, `${wrongly} of ${strangers}`), " strangers would get one.");
    slider.setAttribute("aria-valuetext", score(at));
    histogram.at(at);
    det?.at(wrongly / strangers, 1 - named / own);
  };
  slider.addEventListener("input", draw);
  const reset = button("Back to the gallery's threshold", () => {
    slider.value = scores.threshold;
    draw();
  }, { class: "small" });
  slider.value = scores.threshold;
  draw();
  const lost = own - found.length;
  return [
    h("section", {}, h("h2", {}, "Own pictures and strangers"),
      h("p", { class: "key" }, h("span", { class: "genuine" }, "own identity"), " ",
        h("span", { class: "impostor" }, "best other identity, as for a stranger"), " ",
        h("span", { class: "plain muted" }, scores.calibrated
          ? "evidence: the score less half of the runner-up's" : "score")),
      histogram.node, cost,
      h("p", { class: "row" }, h("span", { class: "facts" },
        `threshold in use ${score(scores.threshold)} (${scores.standard})`), reset),
      h("p", { class: "facts" }, counted(own, "picture"), " searched without themselves",
        lost ? `; ${lost} of them look more like another identity, whatever the threshold` : "",
        ".")),
    h("div", { class: "beside-each-other" },
      det && h("section", {}, h("h2", {}, "Trade-off"),
        h("p", { class: "key" }, h("span", { class: "used" }, "threshold in use"),
          h("span", { class: "equal" }, `both errors ${percent(scores.eer)}`),
          h("span", { class: "moved" }, "threshold dragged to")), det.node),
      rates(context, scores, calibrate)),
    perIdentity(context, scores),
    confusions(context, scores),
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

function rates(context, { points }, calibrate) {
  if (!points.length) return null;
  const unseen = context.info.calibration?.named_at ?? {}; // by rate, where it is known
  const known = Object.keys(unseen).length > 0;
  const head = ["Rate asked", "Threshold", "Strangers named", "Own named",
    ...(known ? ["Own, unseen before"] : [])];
  const row = (point) => h("tr", {},
    h("th", { scope: "row" }, percent(point.rate)), h("td", {}, score(point.threshold)),
    h("td", {}, percent(point.fpir)),
    h("td", {}, point.fnir === null ? "–" : percent(1 - point.fnir)),
    known && h("td", {}, percent(unseen[point.rate])),
    context.writable && h("td", {}, button("Use", () => calibrate(point.rate),
      { class: "small", "aria-label": `Calibrate to ${percent(point.rate)}` })));
  return h("section", {}, h("h2", {}, "What each rate costs"),
    h("div", { class: "wide-table" }, h("table", { class: "rates" },
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)),
        context.writable && h("td", {}))),
      h("tbody", {}, ...points.map(row)))));
}

// Of each identity: what it is called in the table, what it is sorted by, what is shown.
const COLUMNS = [
  ["Identity", (one) => one.name, null],
  ["Pictures", (one) => one.probes, (one) => one.probes],
  ["Most like itself", (one) => one.best / one.probes, (one) => share(one.best, one.probes)],
  ["Gets its name", (one) => one.named / one.probes, (one) => share(one.named, one.probes)],
];
const share = (part, whole) => `${percent(part / whole)} (${part})`;

/** A table that is sorted by its heads; the worst come first. */
function perIdentity(context, { per_identity: given }) {
  if (!given.length) return null;
  let [rows, shown, sorted, down] = [given, 0, null, false];
  const body = h("tbody");
  const more = button("Show more", () => {
    body.append(...rows.slice(shown, (shown += PAGE)).map(row));
    more.hidden = shown >= rows.length;
  });
  const row = (one) => h("tr", {},
    h("th", { scope: "row" }, h("a", { href: context.href("identity", one.name) }, one.name)),
    ...COLUMNS.slice(1).map(([, , text]) => h("td", {}, text(one))));
  const heads = COLUMNS.map(([text, key]) => h("th", { scope: "col" }, button(text, () => {
    down = sorted === text ? !down : false;
    sorted = text;
    rows = given.toSorted((a, b) => (down ? -1 : 1)
      * (typeof key(a) === "string" ? key(a).localeCompare(key(b)) : key(a) - key(b)));
    for (const head of heads) head.removeAttribute("aria-sort");
    heads[COLUMNS.findIndex(([one]) => one === text)].setAttribute("aria-sort",
      down ? "descending" : "ascending");
    speak(`Sorted by ${text}, ${down ? "highest" : "lowest"} first`);
    shown = 0;
    body.replaceChildren();
    more.click();
  }, { class: "sort" })));
  heads[2].setAttribute("aria-sort", "ascending");
  sorted = COLUMNS[2][0];
  more.click();
  return h("section", {}, h("h2", {}, "Each identity, the worst first",
    h("span", { class: "muted" }, ` ${given.length.toLocaleString("en")}`)),
  h("p", { class: "muted" }, "Of its pictures with others of the same identity beside them, at the"
    + " threshold in use."),
  h("div", { class: "wide-table" }, h("table", { class: "identities" },
    h("thead", {}, h("tr", {}, ...heads)), body)),
  more);
}

/** Who looks more like whom, with the pictures. */
function confusions(context, { confusions: given }) {
  const node = h("section", {}, h("h2", {}, "Taken for another",
    h("span", { class: "muted" }, ` ${given.length.toLocaleString("en")}`)));
  if (!given.length) {
    node.append(h("p", { class: "muted" }, "No picture looks more like another identity."));
    return node;
  }
  const list = h("ol", { class: "pairs" });
  let shown = 0;
  const more = button("Show more", () => {
    list.append(...given.slice(shown, (shown += PAGE)).map((one) => confused(context, one)));
    more.hidden = shown >= given.length;
  });
  node.append(list, more);
  more.click();
  return node;
}

function confused(context, { own, other, times, pairs }) {
  const [[item, nearest]] = pairs;
  const side = (number, name, text) => h("figure", {},
    picture(context.api.picture(`items/${number}/thumbnail?side=320`), `Picture of ${name}`),
    h("figcaption", {},
      h("a", { class: "name", href: context.href("identity", name) }, name),
      h("span", { class: "facts" }, text)));
  return h("li", { class: "panel" }, h("div", { class: "two" },
    side(item, own, `${counted(times, "picture")} of it`),
    side(nearest, other, times === 1 ? "looks more like this" : "look more like this")));
}
