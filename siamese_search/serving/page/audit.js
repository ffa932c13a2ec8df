// Audit: labels that may be wrong, beside what they look like; pictures that are nearly the same.

import { picture } from "./api.js";
import { merge, move, remove } from "./changes.js";
import { button, counted, h, sayError, score, speak } from "./dom.js";
import { follow, latestJob } from "./jobs.js";
import { askName } from "./names.js";

export const title = () => "Audit";

const PAGE = 20; // of a kind at a time
const KEPT = "siasearch-kept"; // what was looked at and left as it is, for this tab

export async function render(context, body) {
  const place = h("div", { "aria-live": "polite" });
  const found = h("div");
  const run = async () => {
    found.replaceChildren();
    await follow(context, await context.api.post("jobs", { kind: "audit", arguments: {} }), place);
    context.redraw();
  };
  body.append(
    h("div", { class: "row spread tools" },
      h("p", { class: "muted grow" }, "Every picture is searched without itself. Nothing is changed"
        + " unless you change it."),
      button("Audit now", run)),
    place, found);
  let job = await latestJob(context, "audit");
  if (!job) {
    found.append(h("p", { class: "empty" }, "This gallery has not been audited yet."));
    return;
  }
  if (job.state !== "done") job = await follow(context, job, place);
  if (job.state !== "done" || !job.result) return;
  const kept = new Kept(context.gallery);
  const { suspects, duplicates, confusable } = job.result;
  const doubtful = suspects.filter((one) => one.doubt > 0 && !kept.has(`item ${one.item}`));
  const pairs = duplicates.filter(([a, b]) => !kept.has(`pair ${a} ${b}`));
  found.append(
    h("p", { class: "facts" }, `${counted(job.result.items, "picture")} audited, ${
      new Date(job.ended).toLocaleString("en-GB")}. What was changed since is left out: audit again to see it.`),
    section("Likely wrong labels", doubtful, "No picture looks more like another identity.",
      (one) => suspect(context, one, kept)),
    section("Nearly the same picture", pairs, "No two pictures are nearly the same.",
      (pair) => twins(context, pair, kept)),
    section("Taken for each other", confusable, "No two identities are taken for each other.",
      (pair) => confused(context, pair, suspects)));
}

/** What was decided to stay, so that it is not shown again. */
class Kept {
  constructor(gallery) {
    this.key = `${KEPT} ${gallery}`;
    this.all = new Set(JSON.parse(sessionStorage.getItem(this.key) ?? "[]"));
  }

  has(what) {
    return this.all.has(what);
  }

  add(what) {
    this.all.add(what);
    sessionStorage.setItem(this.key, JSON.stringify([...this.all]));
  }
}

function section(heading, rows, none, draw) {
  const list = h("ol", { class: "pairs" });
  const node = h("section", {}, h("h2", {}, heading,
    h("span", { class: "muted" }, ` ${rows.length.toLocaleString("en")}`)));
  if (!rows.length) return node.append(h("p", { class: "muted" }, none)), node;
  let shown = 0;
  const more = button("Show more", () => {
    list.append(...rows.slice(shown, (shown += PAGE)).map(draw));
    more.hidden = shown >= rows.length;
  });
  node.append(list, more);
  more.click();
  return node;
}

/** A row that goes once it is settled, and hands the focus on. */
function row(...children) {
  const node = h("li", { class: "panel" }, ...children);
  const settle = async (run) => {
    await run?.();
    const next = node.nextElementSibling ?? node.previousElementSibling;
    node.remove();
    next?.querySelector("button")?.focus();
    speak(next ? "Next one" : "That was the last one");
  };
  return { node, settle };
}

/** Take a row away if its items are not what the audit found any more. */
async function dropIfChanged(context, node, labels) {
  try {
    for (const [number, identity] of labels) {
      const item = await context.api.call(`items/${number}`, { signal: context.signal });
      if (item.identity !== identity) node.remove();
    }
  } catch (error) {
    if (error.status === 404) node.remove();
    else sayError(error);
  }
}

function side(context, number, identity, text) {
  return h("figure", {},
    picture(context.api.picture(`items/${number}/thumbnail?side=320`), `Picture of ${identity}`),
    h("figcaption", {}, link(context, identity), h("span", { class: "facts" }, text)));
}

function link(context, identity) {
  return h("a", { class: "name", href: context.href("identity", identity) }, identity);
}

function suspect(context, one, kept) {
  const { node, settle } = row(h("div", { class: "two" },
    side(context, one.item, one.identity, `its label, which fits by ${score(one.own)}`),
    side(context, one.other_item, one.other, `fits better, by ${score(one.doubt + one.own)}`)));
  dropIfChanged(context, node, [[one.item, one.identity], [one.other_item, one.other]]);
  const about = (text) => ({ "aria-label": `${text}: item ${one.item}` });
  if (context.writable) {
    node.append(h("div", { class: "buttons" },
      button("Keep", () => settle(() => kept.add(`item ${one.item}`)), about("Keep")),
      button(`Move to ${one.other}`, () => settle(() => move(context, [one.item], one.other)),
        { class: "primary" }),
      button("Move to…", async () => {
        const to = await askName(context, "Move 1 picture", "To which identity", "Move");
        if (to !== null) await settle(() => move(context, [one.item], to));
      }, about("Move to another")),
      button("Remove", () => settle(() => remove(context, [one.item])),
        { class: "danger", ...about("Remove") })));
  }
  return node;
}

function twins(context, [a, b, cosine], kept) {
  const two = h("div", { class: "two" });
  const { node, settle } = row(two, h("p", { class: "facts" }, `cosine ${score(cosine)}`));
  const draw = async () => {
    const items = await Promise.all([a, b].map((number) =>
      context.api.call(`items/${number}`, { signal: context.signal })));
    two.append(...items.map((item) =>
      side(context, item.number, item.identity, `item ${item.number}`)));
    if (!context.writable) return;
    const [one, other] = items;
    const buttons = h("div", { class: "buttons" },
      button("Keep both", () => settle(() => kept.add(`pair ${a} ${b}`))),
      ...(one.identity === other.identity ? [] : [
        button(`Both are ${one.identity}`, () => settle(() => move(context, [b], one.identity))),
        button(`Both are ${other.identity}`,
          () => settle(() => move(context, [a], other.identity)))]),
      button("Remove left", () => settle(() => remove(context, [a])), { class: "danger" }),
      button("Remove right", () => settle(() => remove(context, [b])), { class: "danger" }));
    node.append(buttons);
  };
  draw().catch((error) => {
    if (error.status === 404) node.remove(); // one of them was removed since
    else two.append(h("p", { class: "error" }, error.message));
  });
  return node;
}

function confused(context, [a, b, count, total], suspects) {
  // One that is taken for the other, either way round, beside what it is taken for.
  const seen = suspects.find((one) => one.doubt > 0
    && ((one.identity === a && one.other === b) || (one.identity === b && one.other === a)));
  const { node, settle } = row(
    seen ? h("div", { class: "two" }, side(context, seen.item, seen.identity, ""),
      side(context, seen.other_item, seen.other, ""))
      : h("p", {}, link(context, a), " and ", link(context, b)),
    h("p", { class: "facts" }, `${count} of ${counted(total, "picture")} ${
      count === 1 ? "fits" : "fit"} the other better`));
  if (seen) {
    dropIfChanged(context, node, [[seen.item, seen.identity], [seen.other_item, seen.other]]);
  }
  if (context.writable) {
    node.append(h("div", { class: "buttons" }, button("Merge", async () => {
      if (await merge(context, [a, b])) await settle();
    }, { "aria-label": `Merge ${a} and ${b}` })));
  }
  return node;
}
