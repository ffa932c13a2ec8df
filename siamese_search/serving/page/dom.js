// Elements, messages and questions. Data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element. Properties: `on` has listeners, `data` a dataset, others are attributes. */
export function h(tag, properties = {}, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** The same for a drawing. */
export function s(tag, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, { on = {}, data = {}, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  Object.assign(node.dataset, data);
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** A button; an error of what it does is shown, and it rests meanwhile. */
export function button(text, run, properties = {}) {
  const node = h("button", { type: "button", ...properties }, text);
  node.addEventListener("click", () => busy(node, run));
  return node;
}

/** Run something once at a time for a control; errors are said. */
export async function busy(node, run) {
  if (node.getAttribute("aria-busy") === "true") return;
  node.setAttribute("aria-busy", "true");
  try {
    await run();
  } catch (error) {
    sayError(error);
  } finally {
    node.removeAttribute("aria-busy");
  }
}

/** A form that runs something when it is sent. */
export function form(run, properties, ...children) {
  const node = h("form", properties, ...children);
  node.addEventListener("submit", (event) => {
    event.preventDefault();
    busy(node, run);
  });
  return node;
}

let identifiers = 0;
export const fresh = (prefix) => `${prefix}-${++identifiers}`;

// What is said

const SHORT = 8_000; // milliseconds that a message stays
const LONG = 30_000; // one that offers to undo or redo

/** Show and speak a message, perhaps with something to do about it. */
export function say(text, action = null) {
  const note = h("div", { class: "message" }, h("p", {}, text));
  let timer = 0;
  const close = () => {
    clearTimeout(timer);
    note.remove();
  };
  if (action) {
    note.append(button(action.text, async () => {
      await action.run();
      close();
    }));
  }
  note.append(button("×", close, { class: "plain", "aria-label": "Close this message" }));
  const start = () => {
    clearTimeout(timer);
    timer = setTimeout(close, action ? LONG : SHORT);
  };
  for (const event of ["mouseenter", "focusin"]) {
    note.addEventListener(event, () => clearTimeout(timer));
  }
  for (const event of ["mouseleave", "focusout"]) note.addEventListener(event, start);
  byId("said").replaceChildren(note); // the latest: what it offers to undo is the latest change
  start();
}

/** Show and speak what went wrong until it is closed. */
export function sayError(error) {
  if (error.name === "AbortError") return;
  const note = h("div", { class: "message wrong" }, h("p", {}, error.message));
  note.append(
    button("×", () => note.remove(), { class: "plain", "aria-label": "Close this message" }),
  );
  const shown = byId("wrong");
  shown.append(note);
  while (shown.children.length > 3) shown.firstChild.remove();
}

/** Speak without showing. */
export function speak(text) {
  byId("live").textContent = text;
}

// What is asked

/** A modal question. `body` goes above the buttons; the promise is `value()`, or null if left. */
export function question(title, body, action, value = () => true, danger = false) {
  return new Promise((done) => {
    const heading = fresh("question");
    const dialog = h("dialog", { "aria-labelledby": heading });
    const answer = (given) => {
      dialog.close();
      dialog.remove();
      done(given);
    };
    dialog.append(form(() => answer(value()), {},
      h("h2", { id: heading }, title),
      h("div", { class: "asked" }, body),
      h("div", { class: "buttons" },
        button("Cancel", () => answer(null)),
        h("button", { type: "submit", class: danger ? "danger" : "primary" }, action)),
    ));
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      answer(null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (dialog.querySelector("input") ?? dialog.querySelector("[type=submit]")).focus();
  });
}

/** Something to look at, until it is closed. */
export function show(title, ...body) {
  const heading = fresh("shown");
  const dialog = h("dialog", { class: "wide", "aria-labelledby": heading });
  dialog.append(
    h("div", { class: "row spread" },
      h("h2", { id: heading }, title),
      button("Close", () => dialog.close(), { class: "plain" })),
    ...body,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}

// Words and figures

export const counted = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;

export const score = (value) => (value == null ? "–" : value.toFixed(3).replace("-", "−"));

/** A share as a percentage, to two figures where it is small. */
export function percent(share) {
  if (share == null) return "–";
  const value = 100 * share;
  return `${value < 10 ? Number(value.toPrecision(2)) : Math.round(value)} %`;
}

export const lastPart = (path) => path?.split(/[\\/]/).pop() ?? "";
