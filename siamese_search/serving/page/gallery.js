// Gallery: all identities, searched, selected, renamed, merged, removed.

import { accepted, picture } from "./api.js";
import { described, enroll, merge, redo, removeIdentities, rename, undo } from "./changes.js";
import { button, counted, h, question, sayError, speak } from "./dom.js";
import { nameField } from "./names.js";
import { VirtualGrid } from "./virtual.js";

export const title = () => "Gallery";

const PAGE = 200; // identities asked for at a time
const MOST = 1000; // that are selected at once
const PAUSE = 150; // milliseconds without a key before the search begins

export async function render(context, body) {
  const search = h("input", { type: "search", autocomplete: "off", value: context.argument ?? "" });
  const count = h("p", { class: "muted count", role: "status" });
  const bar = h("div", { class: "selection", hidden: true, role: "region",
    "aria-label": "What is selected" });
  const selected = new Set();
  const list = new Identities(context);
  const grid = new VirtualGrid({
    least: 150, height: 214, gap: 14, label: "Identities", signal: context.signal,
    cell: (index) => cell(context, list.rows[index], selected, chosen),
    reach: (first, last) => list.reach(first, last),
  });
  list.arrived = (from, to) => {
    if (grid.total !== list.total) grid.size(list.total);
    for (const index of grid.cells.keys()) if (index >= from && index < to) grid.add(index);
  };
  const seek = async () => {
    await list.search(search.value.trim());
    if (context.signal.aborted) return;
    history.replaceState(null, "", context.href("gallery", list.words || null)); // to come back to
    grid.renew();
    grid.size(list.total);
    count.textContent = list.words
      ? `${counted(list.total, "identity", "identities")} found`
      : `${counted(list.total, "identity", "identities")}, ${counted(context.info.items, "picture")}`;
  };

  function chosen() {
    bar.hidden = selected.size === 0;
    const names = [...selected];
    const settle = async (done) => {
      if (!done) return;
      selected.clear();
      chosen();
      toolbar();
      await seek();
    };
    bar.replaceChildren(...[
      h("p", {}, `${selected.size} selected`),
      names.length === 1 && button("Rename", async () =>
        settle((await rename(context, names[0])) !== names[0])),
      names.length > 1 && button("Merge", async () => settle(await merge(context, names))),
      button("Remove", async () => settle((await removeIdentities(context, names), true)),
        { class: "danger" }),
      list.total > names.length && list.total <= MOST
        && button(`Select all ${list.total}`, async () => {
          for (const name of await list.names()) selected.add(name);
          chosen();
          grid.renew();
          speak(`${selected.size} selected`);
        }, { class: "plain" }),
      button("Clear", () => {
        selected.clear();
        chosen();
        grid.renew();
      }, { class: "plain" }),
    ].filter(Boolean));
  }

  const tools = h("div", { class: "row" });
  const toolbar = () => {
    const { change: last, undone } = context.info;
    tools.replaceChildren(...[
      context.writable && button("New identity", () => created(context)),
      context.writable && last?.undoable && button("Undo", () => undo(context, last.number),
        { title: described(last), "aria-label": `Undo: ${described(last)}` }),
      context.writable && undone?.undoable && button("Redo", () => redo(context, undone.number),
        { title: described(undone), "aria-label": `Redo: ${described(undone)}` }),
    ].filter(Boolean));
  };
  toolbar();
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => seek().catch(sayError), PAUSE);
  });
  body.append(
    h("div", { class: "row spread tools" },
      h("label", { class: "grow search" }, h("span", { class: "unseen" }, "Search names"), search),
      tools),
    count, grid.node, bar);
  search.placeholder = "Search names";
  await seek();
}

/** One identity, or an empty place until it is known. */
function cell(context, row, selected, chosen) {
  if (!row) return h("div", { class: "card waits", "aria-busy": "true" });
  const { name, items, distractor, cover } = row;
  const card = h("div", { class: "card" },
    h("a", { href: context.href("identity", name) },
      picture(context.api.picture(`items/${cover}/thumbnail?side=240`)),
      h("span", { class: "name" }, name)),
    h("span", { class: "facts" },
      counted(items, "picture") + (distractor ? " · never named" : "")));
  if (context.writable) {
    const box = h("input", { type: "checkbox", "aria-label": `Select ${name}` });
    box.checked = selected.has(name);
    card.classList.toggle("chosen", box.checked);
    box.addEventListener("change", () => {
      selected[box.checked ? "add" : "delete"](name);
      card.classList.toggle("chosen", box.checked);
      chosen();
      speak(`${selected.size} selected`);
    });
    card.prepend(box);
  }
  return card;
}

/** The gallery's identities by name, fetched where they are looked at, a page at a time. */
class Identities {
  constructor(context) {
    this.context = context;
    this.turn = 0; // of searches: what an older one brings is not wanted any more
    this.clear("");
  }

  clear(words) {
    Object.assign(this, { words, rows: [], total: 0, wanted: [0, 0], fetching: false });
  }

  async search(words) {
    this.clear(words);
    await this.fetch(0, ++this.turn);
  }

  /** Fetch what lies from one index to another. */
  reach(first, last) {
    this.wanted = [first, last];
    if (!this.fetching) this.fill(this.turn).catch(sayError);
  }

  async fill(turn) {
    this.fetching = true;
    try {
      // One after the other: what was scrolled past meanwhile is never asked for.
      for (let page; turn === this.turn && (page = this.missing()) !== null;) {
        await this.fetch(page, turn);
      }
    } finally {
      if (turn === this.turn) this.fetching = false;
    }
  }

  /** The first page of those wanted that is not there, or null. */
  missing() {
    const [first, last] = this.wanted;
    for (let page = Math.floor(first / PAGE); page * PAGE <= Math.min(last, this.total - 1); page++) {
      if (!this.rows[page * PAGE]) return page;
    }
    return null;
  }

  async fetch(page, turn) {
    const from = page * PAGE;
    const { identities, total } = await this.ask({ offset: from || null, limit: PAGE });
    if (turn !== this.turn) return;
    identities.forEach((row, index) => {
      this.rows[from + index] = row;
    });
    this.total = total;
    this.arrived(from, from + identities.length);
  }

  ask(query) {
    return this.context.api.call("identities", {
      query: { search: this.words, ...query }, signal: this.context.signal,
    });
  }

  /** The names of all that were found. */
  async names() {
    const { identities } = await this.ask({ limit: MOST });
    return identities.map((row) => row.name);
  }
}

async function created(context) {
  const { label, field } = nameField(context, "Name");
  const files = h("input", { type: "file", multiple: true, required: true,
    accept: accepted(context) });
  const given = await question("New identity",
    h("div", {}, label, h("label", {}, "Pictures", files)), "Enrol",
    () => ({ name: field.value.trim(), files: [...files.files] }));
  if (!given?.name) return;
  if (await enroll(context, given.files, given.name)) context.go("identity", given.name);
}
