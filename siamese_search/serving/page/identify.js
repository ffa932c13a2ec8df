// Identify: pictures dropped, pasted, chosen or taken, and who they show.

import { accepted, picture } from "./api.js";
import { openCamera } from "./camera.js";
import { enroll, inParts } from "./changes.js";
import {
  button, form, fresh, h, percent, say, score, show, speak,
} from "./dom.js";
import { scoreLine } from "./line.js";
import { nameField } from "./names.js";

export const title = () => "Identify";

const PART = 8; // pictures in a request after the first, which is answered alone, at once
const SHOWN = 200; // answers that stay on the page

const kept = new Map(); // by gallery, while other views are looked at: a context and the answers

/** Ask who is shown. Returns an answer for each file, in their order. */
export async function ask(context, files, asked, signal) {
  const body = new FormData();
  for (const file of files) body.append("image", file, file.name || "picture");
  const { answers } = await context.api.call("identify", {
    method: "POST", body, query: asked, signal,
  });
  return answers;
}

export function render(shown, body) {
  if (!kept.has(shown.gallery)) {
    kept.set(shown.gallery, [{}, h("ol", { class: "answers", "aria-label": "Answers" })]);
  }
  const [context, answers] = kept.get(shown.gallery);
  Object.assign(context, shown);
  // What was taken back is not said to be enrolled any more; the answers stay.
  context.redraw = (undone) => {
    answers.querySelector(`[data-change="${undone}"]`)?.remove();
    if (context.signal.aborted) shown.redraw(); // another view, which may show it, too
  };
  const options = optionsOf(context);
  const take = (files) => answerAll(context, [...files], options.values(), answers);
  const input = h("input", {
    type: "file", multiple: true, accept: accepted(context), hidden: true,
    "aria-label": "Pictures to identify",
  });
  input.addEventListener("change", () => {
    take(input.files);
    input.value = "";
  });
  const camera = h("div");
  const zone = h("section", { class: "drop", "aria-label": "Pictures to identify" },
    h("p", { class: "lead" }, "Drop pictures here, or paste one"),
    h("p", { class: "buttons centre" },
      button("Choose pictures", () => input.click(), { class: "primary" }),
      context.info.takes ? null : button("Use the camera", () => openCamera(context, camera, options.values, take))),
    input, options.node);
  body.append(zone, camera, answers, h("p", { class: "buttons centre" },
    button("Clear the answers", () => answers.replaceChildren(), { class: "plain" })));
  catchPictures(context.signal, zone, take);
}

/** Take what is dropped anywhere on the page, or pasted, while the view is shown: files, and where. */
export function catchPictures(signal, zone, take) {
  let inside = 0;
  const over = (on) => zone.classList.toggle("over", on);
  addEventListener("dragenter", () => over(++inside > 0), { signal });
  addEventListener("dragleave", () => over(--inside > 0), { signal });
  addEventListener("drop", ({ dataTransfer, target }) => {
    over((inside = 0) > 0);
    const items = [...dataTransfer.items];
    if (items.some((item) => item.webkitGetAsEntry?.()?.isDirectory)) {
      say("Folders are for `siasearch add` and `siasearch query`; drop the pictures in it here.");
    } else if (dataTransfer.files.length) {
      take(dataTransfer.files, target);
    }
  }, { signal });
  addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData?.files.length) take(clipboardData.files);
  }, { signal });
}

function optionsOf(context) {
  const calibration = context.info.calibration?.looked ?? context.info.calibration;
  const many = h("input", { type: "number", min: 1, max: 50, value: 5, required: true });
  const turns = h("select", {},
    ...[[1, "as they are"], [4, "in 4 turns"], [8, "in 8 turns"]].map(([value, text]) =>
      h("option", { value }, text)));
  turns.value = [1, 4, 8].includes(calibration?.turns) ? calibration.turns : 1;
  const rate = h("select", {}, h("option", { value: "" }, "as calibrated"));
  const rates = Object.keys(calibration?.thresholds ?? {}).map(Number).sort((a, b) => a - b);
  rate.append(...rates.map((one) => h("option", { value: one }, percent(one))));
  const where = h("input", { type: "text", placeholder: "key=value", autocomplete: "off" });
  const keep = h("input", { type: "checkbox" });
  const node = h("details", { class: "options" }, h("summary", {}, "Options"),
    h("div", { class: "fields" },
      h("label", {}, "Candidates shown", many),
      context.info.takes ? null : h("label", {}, "Look at pictures", turns),
      calibration && h("label", {}, "Strangers that may get a name", rate),
      h("label", {}, "Only items with metadata", where),
      context.writable && h("label", { class: "check" }, keep,
        "Keep pictures that get no name, for Unknowns")));
  const values = () => ({
    k: many.value || 5, turns: turns.value === "1" ? null : turns.value, fpir: rate.value,
    where: where.value.trim(), keep_unknown: keep.checked,
  });
  return { node, values };
}

async function answerAll(context, files, asked, list) {
  const cards = files.map((file) => card(file));
  list.prepend(...cards.map(({ node }) => node));
  while (list.children.length > SHOWN) list.lastChild.remove();
  const waiting = files.map((file, index) => ({ file, card: cards[index], size: file.size }));
  const [first, ...rest] = waiting;
  const parts = [[first], ...inParts(rest, PART)];
  const named = [];
  const next = async () => {
    for (let part = parts.shift(); part; part = parts.shift()) {
      try {
        const answers = await ask(context, part.map(({ file }) => file), asked);
        part.forEach((one, index) => {
          one.card.fill(context, answers[index]);
          named.push(spoken(one.file, answers[index]));
        });
      } catch (error) {
        for (const one of part) one.card.fail(error.message);
        named.push(error.message);
      }
    }
  };
  await Promise.all([next(), next()]);
  speak(named.length > 5 ? `${named.length} pictures answered` : named.join(". "));
}

function spoken(file, answer) {
  if (answer.error) return `${file.name}: ${answer.error}`;
  const sure = answer.identity === null ? [] : sureness(answer);
  return [`${file.name}: ${headline(answer)}`, ...sure].join(", ");
}

/** Who it is, in a word. */
export function headline(answer) {
  if (answer.identity !== null) return answer.identity;
  const like = answer.matches[0];
  return like?.distractor ? `Unknown, like ${like.identity}, which is never named` : "Unknown";
}

/** How sure the best identity is; nothing where that is not known. */
const sureness = ({ confidence }) => (confidence === null ? [] : [`${percent(confidence)} sure`]);

/** What a score must reach. */
export const needed = (threshold) => `threshold ${threshold === null ? "not known" : score(threshold)}`;

/** The facts of an answer: how sure the best identity is, by its name where it is not the answer. */
export function factsOf(answer) {
  const [nearest] = answer.matches;
  const whose = answer.identity !== null || !nearest ? [] : [`nearest: ${nearest.identity}`];
  const facts = [[...whose, ...sureness(answer)].join(", ")].filter(Boolean);
  if (answer.score !== null) facts.push(`score ${score(answer.score)}`);
  return [...facts, needed(answer.threshold)];
}

/** What a file shows, as far as the browser can tell. */
export function preview(file) {
  const seen = pictureOf(file, "");
  seen.addEventListener("error", () => seen.replaceWith(h("span", { class: "none" }, "no preview")));
  return seen;
}

function pictureOf(blob, alt) {
  const address = URL.createObjectURL(blob);
  const seen = h("img", { src: address, alt });
  for (const event of ["load", "error"]) {
    seen.addEventListener(event, () => URL.revokeObjectURL(address));
  }
  return seen;
}

/** A picture and its answer, which comes later. */
function card(file) {
  const heading = fresh("answer");
  const content = h("div", { class: "content" },
    h("h2", { id: heading, class: "muted" }, "Looking…"));
  const node = h("li", { class: "answer", "aria-labelledby": heading },
    h("figure", {}, h("span", { class: "frame probe" }, preview(file)),
      h("figcaption", { class: "muted" }, file.name || "picture")),
    content);
  const fail = (text) => content.replaceChildren(
    h("h2", { id: heading }, "Not answered"), h("p", { class: "error" }, text));
  const fill = (context, answer) => {
    if (answer.error) fail(answer.error);
    else content.replaceChildren(...filled(context, file, answer, heading));
  };
  return { node, fill, fail };
}

function filled(context, file, answer, heading) {
  const facts = factsOf(answer);
  if (answer.p_value !== null) facts.push(`${percent(answer.p_value)} of strangers fit as well`);
  const known = answer.identity !== null;
  const parts = [
    h("h2", { id: heading, class: known ? "named" : "unnamed" }, headline(answer)),
    h("p", { class: "facts" }, facts.join(" · ")),
  ];
  if (!answer.matches.length) {
    parts.push(h("p", {}, "There is nothing to compare it with."));
  } else {
    const done = h("p", { class: "facts" });
    const list = h("ol", { class: "candidates", "aria-label": "Candidates, best first" });
    const enrolled = (name, change) => {
      done.replaceChildren(h("span", { data: change && { change: change.number } },
        `Enrolled as ${name}.`));
    };
    for (const match of answer.matches) {
      list.append(candidate(context, file, answer, match, enrolled));
    }
    parts.push(scoreLine(answer), list, done);
    if (context.writable) parts.push(enrolAs(context, file, enrolled));
    return parts;
  }
  if (context.writable) parts.push(enrolAs(context, file, () => {}));
  return parts;
}

function candidate(context, file, answer, match, enrolled) {
  const name = h("a", { class: "name", href: context.href("identity", match.identity) },
    match.identity);
  const looked = Math.abs(match.closer ?? 0); // what the closer look has added
  const closer = looked < 0.0005 ? "" : ` ${match.closer < 0 ? "−" : "+"}${looked.toFixed(3)}`;
  const known = Object.entries(match.metadata ?? {}).map(([key, value]) => `${key}: ${value}`);
  let note = match.score < (answer.threshold ?? -1) ? "below the threshold" : null;
  if (match.distractor) note = "never named";
  const labelled = (text) => ({ class: "quiet", "aria-label": `${text}: ${match.identity}` });
  const item = h("li", { class: "candidate" },
    picture(context.api.picture(`items/${match.item}/thumbnail?side=240`),
      `Enrolled picture of ${match.identity}`));
  const beside = h("div", { class: "about" }, name,
    h("span", { class: "facts" }, [`${score(match.score)}${closer}`, ...known].join(" · ")),
    note && h("span", { class: "note" }, note));
  const actions = h("div", { class: "actions" });
  if (context.writable && !match.distractor) {
    actions.append(button("Right", async () => {
      const told = await enroll(context, [file], match.identity);
      if (told) enrolled(match.identity, told.change);
    }, { ...labelled("Right, add this picture"), title: `Add this picture to ${match.identity}` }));
  }
  actions.append(
    button("Not this one", () => {
      const list = item.parentElement;
      const next = item.nextElementSibling ?? item.previousElementSibling;
      item.remove();
      speak(list.children.length
        ? `Next: ${list.querySelector(".name").textContent}`
        : "No candidate is left");
      next?.querySelector("button")?.focus();
    }, labelled("Not this one")),
    context.info.takes ? "" : button("What matched", () => explain(context, file, match), labelled("What matched")),
  );
  beside.append(actions);
  item.append(beside);
  return item;
}

async function explain(context, file, match) {
  const body = new FormData();
  body.append("image", file, file.name || "picture");
  const drawn = await context.api.call("explain", {
    method: "POST", body, query: { item: match.item }, blob: true,
  });
  showDrawing(`What matched: ${match.identity}`, drawn,
    `Which parts of the picture and of ${match.identity}'s are alike`);
}

/** Show a drawing of the server's until it is closed. */
export function showDrawing(heading, drawn, alt) {
  show(heading, h("div", { class: "drawing" }, pictureOf(drawn, alt)));
}

function enrolAs(context, file, enrolled) {
  const { label, field } = nameField(context, "Enrol as");
  const node = form(async () => {
    const name = field.value.trim();
    const told = name && (await enroll(context, [file], name));
    if (!told) return;
    enrolled(name, told.change);
    field.value = "";
  }, { class: "inline" }, label, h("button", { type: "submit" }, "Enrol"));
  return node;
}
