// The DET curve: strangers that get a name against own pictures that do not get theirs.

import { h, percent, s } from "./dom.js";

const SIDE = 1000; // of the drawing, which is stretched to its place
const STEPS = [1, 2, 5];
const MOST = 5; // labels on an axis, about

/** From the points {fpir, fnir} of the curve; `at(fpir, fnir)` moves the mark of a threshold. */
export class Det {
  constructor(scores) {
    const { det, fpir, fnir, eer } = scores;
    this.across = new Scale(det.map((point) => point.fpir));
    this.up = new Scale(det.map((point) => point.fnir));
    const path = det.map((point, index) =>
      `${index ? "L" : "M"}${this.x(point.fpir)} ${this.y(point.fnir)}`).join("");
    const grid = [
      ...this.across.ticks.map((tick) => `M${this.x(tick)} 0V${SIDE}`),
      ...this.up.ticks.map((tick) => `M0 ${this.y(tick)}H${SIDE}`),
    ].join("");
    const drawing = s("svg", {
      viewBox: `0 0 ${SIDE} ${SIDE}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `At the threshold in use ${percent(fpir)} of strangers get a name, and ${
        percent(fnir)} of own pictures do not get theirs; both are ${percent(eer)} at another`,
    }, s("path", { class: "grid", d: grid }), s("path", { class: "curve", d: path }));
    this.mark = h("i", { class: "moved" });
    const used = this.place(h("i", { class: "used" }), fpir, fnir);
    const equal = this.place(h("i", { class: "equal" }), eer, eer);
    const label = (scale, tick) => h("span", {}, tick === scale.least ? "0" : plain(tick));
    const below = [...this.across.ticks, this.across.least].map((tick) =>
      left(label(this.across, tick), this.x(tick)));
    const beside = [...this.up.ticks, this.up.least].map((tick) =>
      top(label(this.up, tick), this.y(tick)));
    this.node = h("div", { class: "det panel" },
      h("p", { class: "axis-name" }, "Own pictures that do not get their name, %"),
      h("div", { class: "beside-ticks", "aria-hidden": "true" }, ...beside),
      h("div", { class: "plot" }, drawing, equal, this.mark, used),
      h("div", { class: "below-ticks", "aria-hidden": "true" }, ...below),
      h("p", { class: "axis-name across" }, "Strangers that get a name, %"));
  }

  x(share) {
    return SIDE * this.across.place(share);
  }

  y(share) {
    return SIDE * (1 - this.up.place(share));
  }

  place(mark, fpir, fnir) {
    return top(left(mark, this.x(fpir)), this.y(fnir));
  }

  at(fpir, fnir) {
    this.place(this.mark, fpir, fnir);
  }
}

const left = (node, x) => {
  node.style.left = `${(100 * x) / SIDE}%`;
  return node;
};
const top = (node, y) => {
  node.style.top = `${(100 * y) / SIDE}%`;
  return node;
};
const plain = (share) => String(Number((100 * share).toPrecision(3)));

/** A logarithmic axis up to 1; nought lies at its end, at half of the least share that is not. */
class Scale {
  constructor(shares) {
    this.least = shares.reduce((low, share) => (share > 0 ? Math.min(low, share) : low), 1) / 2;
    const all = [];
    for (let power = Math.floor(Math.log10(this.least)); power <= 0; power++) {
      for (const step of STEPS) all.push(Number((step * 10 ** power).toPrecision(1)));
    }
    const inside = all.filter((tick) => tick >= 1.5 * this.least && tick <= 1);
    const whole = inside.filter((tick) => Number.isInteger(Math.round(1e6 * Math.log10(tick)) / 1e6));
    this.ticks = inside.length > 2 * MOST ? whole : inside;
  }

  place(share) {
    return 1 - Math.log(Math.max(share, this.least)) / Math.log(this.least);
  }
}
