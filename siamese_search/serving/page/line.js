// Scores on a line, with the threshold.

import { h, score } from "./dom.js";

/** The line of an answer's candidates: filled marks reach the threshold, if one is known. */
export function scoreLine(answer) {
  const { matches, threshold } = answer;
  const known = threshold !== null;
  const low = Math.min(0, threshold ?? 0, ...matches.map((match) => match.score));
  const place = (value) => `${(100 * (value - low)) / Math.max(1 - low, 1e-9)}%`;
  const told = matches.map((match) => `${match.identity} ${score(match.score)}`).join(", ");
  const at = (node, value) => {
    node.style.left = place(value);
    return node;
  };
  const marks = matches.toReversed().map((match) => at(h("i", {
    class: `mark${known && match.score >= threshold ? " reaches" : ""}${match.distractor ? " never" : ""}`,
    title: `${match.identity} ${score(match.score)}`,
  }), match.score));
  const needed = known && at(h("i", { class: "needed" }), threshold);
  const label = known
    && at(h("span", { class: "needed-label" }, `threshold ${score(threshold)}`), threshold);
  if (known && threshold > (1 + low) / 2) label.classList.add("before");
  return h("div", {
    class: "score-line", role: "img",
    "aria-label": `Threshold ${known ? score(threshold) : "not known"}. Scores: ${told}`,
  }, h("div", { class: "axis" }, needed, ...marks),
  h("div", { class: "ends" }, h("span", {}, low === 0 ? "0" : score(low)), label, h("span", {}, "1")));
}
