// Identity: its pictures, doubtful ones first; add, move, remove.

import { accepted, picture } from "./api.js";
import { enroll, move, remove, removeIdentities, rename } from "./changes.js";
import { button, counted, h, lastPart, sayError, score, show } from "./dom.js";
import { catchPictures } from "./identify.js";
import { askName } from "./names.js";

export const title = (context) => context.argument ?? "Identity";

const PAGE = 60; // pictures at a time

export async function render(context, body) {
  const name = context.argument;
  const ask = (path) => context.api.call(path, { query: { name }, signal: context.signal });
  const [whole, doubts] = await Promise.all([ask("identity"), doubtsOf(ask)]);
  const doubt = (item) => doubts.get(item.number)?.doubt ?? -Infinity;
  const items = whole.items.toSorted((a, b) => doubt(b) - doubt(a));
  const selected = new Set();
  const bar = h("div", { class: "selection", hidden: true, role: "region",
    "aria-label": "What is selected" });
  const redraw = () => (selected.size === items.length ? context.go("gallery") : context.redraw());
  const chosen = () => {
    const numbers = [...selected];
    bar.hidden = numbers.length === 0;
    bar.replaceChildren(
      h("p", {}, `${numbers.length} selected`),
      button("Move to…", async () => {
        const to = await askName(context, `Move ${counted(numbers.length, "picture")}`,
          "To which identity", "Move");
        if (to === null) return;
        await move(context, numbers, to);
        redraw();
      }),
      button("Remove", async () => {
        await remove(context, numbers);
        redraw();
      }, { class: "danger" }));
  };
  const tools = h("div", { class: "row" });
  body.append(
    h("p", {}, h("a", { href: context.href("gallery") }, "All identities")),
    h("div", { class: "row spread tools" },
      h("p", { class: "muted" }, counted(items.length, "picture")
        + (whole.distractor ? " · never named: what looks like it is called unknown" : "")
        + (items.some((item) => doubt(item) > 0)
          ? " · those that look more like another come first" : "")),
      tools));
  if (context.writable) {
    const input = h("input", { type: "file", multiple: true, hidden: true,
      accept: accepted(context), "aria-label": `Pictures to add to ${name}` });
    const add = async (files) => {
      if (await enroll(context, [...files], name)) context.redraw();
    };
    input.addEventListener("change", () => add(input.files));
    const zone = h("section", { class: "drop slim", "aria-label": "Add pictures" },
      h("p", {}, `Drop or paste pictures here to add them to ${name}`),
      button("Choose pictures", () => input.click()), input);
    tools.append(
      button("Rename", async () => {
        const renamed = await rename(context, name);
        if (renamed !== name) context.go("identity", renamed);
      }),
      button("Remove", async () => {
        await removeIdentities(context, [name]);
        context.go("gallery");
      }, { class: "danger" }));
    body.append(zone);
    catchPictures(context.signal, zone, add);
  }
  const list = h("ul", { class: "items", "aria-label": `Pictures of ${name}` });
  const more = button("Show more", () => {
    const shown = list.children.length;
    list.append(...items.slice(shown, shown + PAGE).map((item) =>
      h("li", {}, card(context, item, doubts.get(item.number), selected, chosen))));
    more.hidden = list.children.length >= items.length;
  });
  more.click();
  body.append(list, h("p", { class: "buttons centre" }, more), bar);
}

/** How much another identity fits better, by item; nothing where that cannot be told. */
async function doubtsOf(ask) {
  try {
    const { doubts } = await ask("doubts");
    return new Map(doubts.map((one) => [one.item, one]));
  } catch (error) {
    if (error.status !== 404) sayError(error); // the pictures are shown all the same
    return new Map();
  }
}

function card(context, item, doubtful, selected, chosen) {
  const called = lastPart(item.source) || `item ${item.number}`;
  const node = h("div", { class: "card" },
    button("", () => look(context, item, called), { class: "bare", "aria-label": `Look at ${called}` }),
    h("span", { class: "name" }, called),
    h("span", { class: "facts" }, item.added.slice(0, 10)),
    doubtful?.doubt > 0 && h("span", { class: "note" }, "more like ",
      h("a", { href: context.href("identity", doubtful.other) }, doubtful.other),
      ` by ${score(doubtful.doubt)}`));
  node.querySelector("button").append(
    picture(context.api.picture(`items/${item.number}/thumbnail?side=320`)));
  if (context.writable) {
    const box = h("input", { type: "checkbox", "aria-label": `Select ${called}` });
    box.addEventListener("change", () => {
      selected[box.checked ? "add" : "delete"](item.number);
      node.classList.toggle("chosen", box.checked);
      chosen();
    });
    node.prepend(box);
  }
  return node;
}

/** A picture, large, and what is known of it. */
export function look(context, item, called) {
  const facts = [
    ["Identity", item.identity], ["Number", item.number], ["Added", item.added],
    ["File", item.source], ...Object.entries(item.metadata),
  ].filter(([, value]) => value != null);
  show(called,
    picture(context.api.picture(`items/${item.number}/picture`), `Picture of ${item.identity}`,
      "large"),
    h("dl", { class: "known" },
      ...facts.flatMap(([key, value]) => [h("dt", {}, key), h("dd", {}, value)])));
}
