// The frame of the page: which gallery and view the address names, and the way between them.

import { call, galleryApi } from "./api.js";
import * as audit from "./audit.js";
import { button, byId, h, sayError } from "./dom.js";
import * as gallery from "./gallery.js";
import * as identify from "./identify.js";
import * as identity from "./identity.js";
import * as jobs from "./jobs.js";
import * as quality from "./quality.js";
import * as unknowns from "./unknowns.js";
import * as verify from "./verify.js";

// In the order of the navigation; an identity is reached from elsewhere.
const VIEWS = { identify, verify, gallery, unknowns, audit, quality, jobs, identity };
const SHOWN = ["identify", "verify", "gallery", "unknowns", "audit", "quality", "jobs"];

let galleries = [];
let leave = null; // aborts what the view shown has started

/** An address of the page: a gallery, a view, and what the view shows of it. */
function href(name, view, argument = null) {
  const parts = [name, view, ...(argument === null ? [] : [argument])];
  return `#/${parts.map(encodeURIComponent).join("/")}`;
}

function address() {
  const parts = location.hash.replace(/^#\/?/, "").split("/");
  try {
    return parts.map(decodeURIComponent);
  } catch {
    return [];
  }
}

/** What a view needs: the gallery it is about, and the signal that ends it. */
function contextOf(name, view, argument, signal) {
  return {
    gallery: name,
    argument,
    signal,
    api: galleryApi(name),
    info: null,
    writable: false,
    href: (to, about = null) => href(name, to, about),
    go: (to, about = null) => {
      location.hash = href(name, to, about);
    },
    redraw: () => draw(false), // after a change, or once one was taken back: its number is given
    // Not ended with the view: what was changed in it can be taken back from another one.
    async refresh() {
      this.info = await this.api.call("");
      this.writable = !this.info.read_only;
    },
  };
}

async function draw(moved = true) {
  leave?.abort();
  leave = new AbortController();
  const { signal } = leave;
  const main = byId("view");
  try {
    if (!galleries.length) galleries = await call("galleries");
    if (signal.aborted) return;
    if (!galleries.length) throw new Error("This server has no gallery.");
    let [name, view, argument = null] = address();
    const known = galleries.some((one) => one.name === name);
    if (!known) name = galleries[0].name;
    if (!known || !Object.hasOwn(VIEWS, view)) [view, argument] = ["identify", null];
    drawFrame(name, view);
    const context = contextOf(name, view, argument, signal);
    await context.refresh();
    if (signal.aborted) return;
    const place = scrollY;
    const within = main.contains(document.activeElement);
    const heading = h("h1", { tabindex: "-1" }, VIEWS[view].title(context));
    const body = h("div", { class: `view ${view}` });
    const { undecided } = context.info;
    main.replaceChildren(heading, ...(undecided ? [h("p", { class: "muted" }, `${
      undecided[0].toUpperCase()}${undecided.slice(1)}.`)] : []), body);
    document.title = `${heading.textContent} – ${name} – siasearch`;
    if (moved) {
      scrollTo(0, 0);
      if (arrived) heading.focus({ preventScroll: true });
    }
    arrived = true;
    await VIEWS[view].render(context, body);
    if (!moved) scrollTo(0, place);
    if (!moved && within) heading.focus({ preventScroll: true }); // what had it is gone
  } catch (error) {
    if (error.name === "AbortError") return;
    main.replaceChildren(h("h1", {}, "That did not work"), h("p", {}, error.message),
      button("Try again", () => draw()));
  }
}

let arrived = false; // the first view leaves the focus where the browser has it

function drawFrame(name, view) {
  const links = SHOWN.map((one) => h("li", {}, h("a", {
    href: href(name, one),
    "aria-current": one === view || (one === "gallery" && view === "identity") ? "page" : null,
  }, VIEWS[one].title({ argument: null }))));
  const list = h("ul", {}, ...links);
  byId("nav").replaceChildren(list);
  const current = list.querySelector("[aria-current]");
  if (current) list.scrollLeft = current.offsetLeft - list.offsetLeft - 16; // on a narrow screen
  const chooser = byId("chooser");
  if (galleries.length === 1) {
    chooser.replaceChildren(h("span", { class: "muted" }, name));
    return;
  }
  const select = h("select", { id: "galleries" },
    ...galleries.map((one) => h("option", { value: one.name }, one.name)));
  select.value = name;
  select.addEventListener("change", () => {
    location.hash = href(select.value, view === "identity" ? "gallery" : view);
  });
  chooser.replaceChildren(h("label", { for: "galleries", class: "unseen" }, "Gallery"), select);
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the hash is the address of a view
  byId("view").focus();
});
addEventListener("hashchange", () => draw());
// A file that misses its place must not replace the page.
for (const event of ["dragover", "drop"]) addEventListener(event, (one) => one.preventDefault());
addEventListener("unhandledrejection", (event) => sayError(event.reason));
draw();
