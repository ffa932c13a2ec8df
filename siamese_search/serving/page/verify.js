// Verify: whether two pictures show the same identity, and what matched.

import { accepted } from "./api.js";
import { button, h, percent, score, speak } from "./dom.js";
import { catchPictures, needed, preview, showDrawing } from "./identify.js";
import { scoreLine } from "./line.js";

export const title = () => "Verify";

export function render(context, body) {
  const answer = h("section", { class: "panel verdict", hidden: true });
  let turn = 0; // of comparisons: what an older one brings is not wanted any more
  const compare = async () => {
    const mine = ++turn;
    const pictures = slots.map((slot) => slot.file);
    answer.hidden = pictures.includes(null);
    if (answer.hidden) return;
    answer.replaceChildren(h("h2", { class: "muted" }, "Looking…"));
    let shown;
    try {
      const found = await send(context, "verify", pictures);
      shown = verdict(context, found, pictures);
    } catch (error) {
      if (error.name === "AbortError") return;
      shown = [h("h2", {}, "Not answered"), h("p", { class: "error" }, error.message)];
    }
    if (mine !== turn) return;
    answer.replaceChildren(...shown);
    speak(shown[0].textContent);
  };
  const slots = ["First picture", "Second picture"].map((name) => new Slot(context, name, compare));
  // What is dropped on a place goes there; else the empty ones come first.
  const take = (files, target = null) => {
    const under = slots.filter((slot) => slot.node.contains(target));
    const empty = slots.filter((slot) => slot.file === null);
    const places = [...new Set([...(files.length > 1 ? [] : [...under, ...empty]), ...slots])];
    [...files].slice(0, places.length).forEach((file, index) => places[index].put(file));
    compare();
  };
  body.append(
    h("p", { class: "muted tools" }, "Drop, paste or choose two pictures: of anything, enrolled or"
      + " not. The encoder's own threshold decides."),
    h("div", { class: "slots" }, ...slots.map((slot) => slot.node)), answer);
  catchPictures(context.signal, body, take);
}

/** The place of one picture; `changed` is told when another is chosen for it. */
class Slot {
  constructor(context, name, changed) {
    this.file = null;
    this.input = h("input", { type: "file", accept: accepted(context), hidden: true,
      "aria-label": name });
    this.input.addEventListener("change", () => {
      if (!this.input.files.length) return;
      this.put(this.input.files[0]);
      this.input.value = "";
      changed();
    });
    this.shown = h("div", { class: "frame probe" }, h("span", { class: "none" }, name));
    this.called = h("figcaption", { class: "muted" });
    const text = "Choose a picture";
    this.node = h("section", { class: "drop slot", "aria-label": name },
      h("figure", {}, this.shown, this.called),
      button(text, () => this.input.click(), { "aria-label": `${text}: ${name}` }), this.input);
  }

  put(file) {
    this.file = file;
    this.shown.replaceChildren(preview(file));
    this.called.textContent = file.name || "picture";
  }
}

function send(context, path, [a, b], options = {}) {
  const body = new FormData();
  body.append("a", a, a.name || "a");
  body.append("b", b, b.name || "b");
  return context.api.call(path, { method: "POST", body, signal: context.signal, ...options });
}

function verdict(context, found, pictures) {
  const said = found.same ? "The same" : "Not the same";
  const facts = [`score ${score(found.score)}`, needed(found.threshold)];
  if (found.confidence !== null) {
    facts.unshift(`the same with a probability of ${percent(found.confidence)}`);
  }
  return [
    h("h2", { class: found.same ? "named" : "unnamed" }, found.same === null ? "Not known" : said),
    h("p", { class: "facts" }, facts.join(" · ")),
    scoreLine({ threshold: found.threshold,
      matches: [{ identity: "the two pictures", score: found.score }] }),
    context.info.takes ? "" : button("What matched", async () => showDrawing("What matched",
      await send(context, "verify/explain", pictures, { blob: true }),
      "Which parts of the two pictures are alike")),
  ];
}
