// Unknowns: pictures that got no name, in groups of what looks alike; name them or drop them.

import { picture } from "./api.js";
import { dropGroup, enrollGroup } from "./changes.js";
import { button, counted, form, fresh, h, score } from "./dom.js";
import { nameField } from "./names.js";

export const title = () => "Unknowns";

const PAGE = 30; // groups at a time
const SHOWN = 24; // pictures of a group, until all are asked for

export async function render(context, body) {
  const list = h("ol", { class: "groups", "aria-label": "Groups" });
  const more = h("p", { class: "buttons centre" });
  let after = null;
  const fetchMore = async () => {
    const page = await context.api.call("unknowns", {
      query: { after, limit: PAGE }, signal: context.signal,
    });
    list.append(...page.groups.map((group) => card(context, group)));
    after = page.next;
    more.replaceChildren(...(after === null ? [] : [button("Show more groups", fetchMore)]));
  };
  await fetchMore();
  if (!list.children.length) {
    body.append(h("p", { class: "empty" }, "No unknown pictures are kept. On Identify, the option"
      + " “Keep pictures that get no name” keeps them for this place."));
    return;
  }
  body.append(h("p", { class: "muted" }, context.writable
    ? "Untick what does not belong; the rest gets the name."
    : "Pictures that got no name, by what looks alike."), list, more);
}

function card(context, group) {
  const heading = fresh("group");
  const without = new Set();
  const members = h("ul", { class: "members" });
  const draw = (count) => members.append(
    ...group.members.slice(members.children.length, count).map((member, index) =>
      h("li", {}, one(context, member, members.children.length + index + 1, without))));
  draw(SHOWN);
  const node = h("li", { class: "panel", "aria-labelledby": heading },
    h("h2", { id: heading }, `Group ${group.number}: ${counted(group.count, "picture")}`));
  if (group.nearest) {
    const { identity, item } = group.nearest;
    node.append(h("p", { class: "row muted" },
      picture(context.api.picture(`items/${item}/thumbnail?side=96`), "", "tiny"),
      h("span", {}, "most like ", h("a", { href: context.href("identity", identity) }, identity),
        ` (${score(group.nearest.score)})`)));
  }
  node.append(members);
  if (group.members.length > SHOWN) {
    const all = button(`Show all ${group.members.length}`, () => {
      draw(Infinity);
      all.remove();
    });
    node.append(all);
  }
  if (context.writable) node.append(naming(context, group, without));
  return node;
}

function one(context, member, position, without) {
  const shown = picture(context.api.picture(`unknowns/${member}/thumbnail`), "", "member");
  if (!context.writable) return shown;
  const box = h("input", { type: "checkbox", "aria-label": `Picture ${position} belongs to it` });
  box.checked = true;
  box.addEventListener("change", () => without[box.checked ? "delete" : "add"](member));
  return h("label", { class: "member" }, shown, box);
}

function naming(context, group, without) {
  const { label, field } = nameField(context, "Name");
  const node = form(async () => {
    const name = field.value.trim();
    if (without.size === group.members.length) throw new Error("No picture is ticked.");
    if (!name) return;
    const members = group.members.filter((member) => !without.has(member));
    await enrollGroup(context, group.number, name, members);
    context.redraw();
  }, { class: "inline" }, label,
  h("button", { type: "submit", class: "primary" }, "Enrol"),
  group.nearest && !group.nearest.distractor && button(`It is ${group.nearest.identity}`, () => {
    field.value = group.nearest.identity;
    node.requestSubmit();
  }),
  button("Drop", async () => {
    await dropGroup(context, group);
    context.redraw();
  }, { class: "danger", title: "Forget these pictures" }));
  return node;
}
