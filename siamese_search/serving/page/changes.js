// What changes a gallery: done once, said, and offered to be taken back.

import { counted, h, lastPart, question, say } from "./dom.js";
import { askName } from "./names.js";

/** Say what was changed, with an undo of this change where the gallery can take it back. */
async function changed(context, text, change) {
  await context.refresh();
  say(text, change?.undoable ? { text: "Undo", run: () => undo(context, change.number) } : null);
}

/** What the last change was, in words. */
export function described({ what, identity, new: name, items }) {
  const whose = identity === null ? "" : ` of ${identity}`;
  const pictures = counted(items, "picture");
  if (what === "add") return `${pictures}${whose} added`;
  if (what === "remove") return `${pictures}${whose} removed`;
  if (what === "relabel") return `${pictures}${whose} moved${name === null ? "" : ` to ${name}`}`;
  if (what === "annotate") return `Other metadata of ${pictures}`;
  return `${counted(items, "unknown picture")} dropped`;
}

/** Take a change back, if it is still the last one. */
export async function undo(context, number) {
  let change;
  try {
    change = await context.api.post("undo", { number });
  } catch (error) {
    await context.refresh();
    if (context.info.change?.number === number) throw error;
    context.redraw();
    throw new Error("Something else was changed since: undo that first, on the Gallery view.");
  }
  await context.refresh();
  const { undone } = change;
  say(`Taken back: ${described(change)}`,
    undone?.undoable ? { text: "Redo", run: () => redo(context, undone.number) } : null);
  context.redraw(number);
}

/** Do again what was taken back last, if it is still that. */
export async function redo(context, number) {
  const done = await context.api.post("redo", { number });
  context.redraw();
  await changed(context, `Done again: ${described(done)}`, done.change);
}

/** Enrol files under a name, as one change. Returns a report, null where all were refused. */
export async function enroll(context, files, label) {
  const told = { added: 0, skipped: 0, rejected: [], change: null };
  for (const part of inParts(files)) {
    const body = new FormData();
    for (const file of part) body.append("image", file, file.name || "picture");
    body.append("label", label);
    if (told.change) body.append("change", told.change.number);
    const report = await context.api.call("enroll", { method: "POST", body });
    told.added += report.added;
    told.skipped += report.skipped;
    told.rejected.push(...report.rejected);
    told.change = report.change ?? told.change;
  }
  const parts = [];
  if (told.added) parts.push(`${counted(told.added, "picture")} added to ${label}`);
  if (told.skipped) parts.push(`${told.skipped} enrolled already`);
  for (const one of told.rejected.slice(0, 3)) parts.push(`${lastPart(one.path)}: ${one.reason}`);
  if (told.rejected.length > 3) parts.push(`${told.rejected.length - 3} more refused`);
  const text = parts.join("; ");
  if (told.added) await changed(context, text, told.change);
  else say(text);
  return told.rejected.length < files.length ? told : null;
}

/** Files in parts that one request may carry: at most `most` of them, 48 MiB together. */
export function inParts(files, most = 32, bytes = 48 * 2 ** 20) {
  const parts = [];
  let size = Infinity;
  for (const file of files) {
    if (size + file.size > bytes || parts.at(-1).length >= most) {
      parts.push([]);
      size = 0;
    }
    parts.at(-1).push(file);
    size += file.size;
  }
  return parts;
}

/** Rename an identity; where the name is taken, ask whether to merge. Returns the name it has. */
export async function rename(context, old) {
  const name = await askName(context, `Rename ${old}`, "New name", "Rename", old);
  if (name === null || name === old) return old;
  let change;
  try {
    ({ change } = await context.api.post("rename", { old, new: name, merge: false }));
  } catch (error) {
    if (error.status !== 409) throw error;
    const merge = await question(
      `${name} is there already`,
      h("p", {}, `Merge ${old} into ${name}? All pictures of both are ${name}'s then.`),
      "Merge",
    );
    if (!merge) return old;
    ({ change } = await context.api.post("rename", { old, new: name, merge: true }));
  }
  await changed(context, `${old} is ${name} now`, change);
  return name;
}

/** The numbers of all items of some identities. */
async function numbers(context, names) {
  const found = [];
  for (const name of names) {
    const { items } = await context.api.call("identity", { query: { name } });
    found.push(...items.map((item) => item.number));
  }
  return found;
}

/** Ask for one name for several identities and give it to them, as one change. */
export async function merge(context, names) {
  const items = await numbers(context, names);
  const name = await askName(
    context, `Merge ${names.length} identities`, "Name for all of them", "Merge", names[0],
    `${counted(items.length, "picture")} of ${names.join(", ")} will have one name.`,
  );
  if (name === null) return false;
  const { change } = await context.api.post("move", { items, to: name });
  await changed(context, `${names.length} identities are ${name} now`, change);
  return true;
}

/** Move pictures to another identity. */
export async function move(context, items, to) {
  const { change } = await context.api.post("move", { items, to });
  await changed(context, `${counted(items.length, "picture")} moved to ${to}`, change);
}

/** Remove pictures; it can be undone, so nothing is asked. */
export async function remove(context, items) {
  const { change } = await context.api.post("remove", { items });
  await changed(context, `${counted(items.length, "picture")} removed`, change);
}

/** Remove identities, as one change. */
export async function removeIdentities(context, names) {
  const one = names.length === 1;
  const gone = one ? { identity: names[0] } : { items: await numbers(context, names) };
  const { change } = await context.api.post("remove", gone);
  await changed(context, `${one ? names[0] : `${names.length} identities`} removed`, change);
}

/** Name pictures of a group of unknowns: those that were seen, as there may be more by now. */
export async function enrollGroup(context, group, label, members) {
  const report = await context.api.post(`unknowns/${group}/enroll`, { label, members });
  await changed(context, `${counted(report.added, "picture")} added to ${label}`, report.change);
}

/** Forget a group of unknowns, as it was seen. */
export async function dropGroup(context, { number, members }) {
  const { dropped, change } = await context.api.call(`unknowns/${number}`, {
    method: "DELETE", json: { members },
  });
  await changed(context, `${counted(dropped, "unknown picture")} dropped`, change);
}
