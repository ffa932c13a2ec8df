// The server's API: one function to call it, and pictures as blobs, since they need the token, too.

import { form, fresh, h } from "./dom.js";

const BASE = new URL("api/v1/", document.baseURI);
const TOKEN = "siasearch-token";
const TRIES = 4; // of a request that a busy server puts off

/** What the server refused, in its words. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.name = "Problem";
    this.status = status;
  }
}

/** Ask the API: the JSON it answers, or a blob. `query` leaves out what is null or empty. */
export async function call(path, { method = "GET", json, body, query = {}, blob, signal } = {}) {
  const url = new URL(path, BASE);
  for (const [key, value] of Object.entries(query)) {
    if (value != null && value !== "" && value !== false) url.searchParams.append(key, value);
  }
  for (let attempt = 1; ; attempt++) {
    const answer = await send(url, { method, json, body, signal });
    if (answer.ok) {
      if (blob) return answer.blob();
      return answer.status === 204 ? null : answer.json();
    }
    if (answer.status === 401) {
      await askToken(sessionStorage.getItem(TOKEN) !== null);
    } else if ((answer.status === 503 || answer.status === 429) && attempt < TRIES) {
      await later(Math.min(10, Number(answer.headers.get("Retry-After")) || 1), signal);
    } else {
      throw await problem(answer);
    }
  }
}

async function send(url, { method, json, body, signal }) {
  const headers = {};
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(url, {
      method, headers, signal, body: json === undefined ? body : JSON.stringify(json),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. Is `siasearch serve` still running?");
  }
}

async function problem(answer) {
  let told = {};
  try {
    told = await answer.json();
  } catch {
    // No problem document: the status has to do.
  }
  const text = told.detail || told.title || `${answer.status} ${answer.statusText}`.trim();
  return new Problem(answer.status, text);
}

function later(seconds, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(signal.reason);
    });
  });
}

let asked = null;

/** Ask for the token once, however many requests wait for it. */
function askToken(refused) {
  asked ??= new Promise((done) => {
    const [heading, hint] = [fresh("token"), fresh("token")];
    const field = h("input", {
      type: "password", autocomplete: "off", required: true, "aria-describedby": hint,
    });
    const dialog = h("dialog", { "aria-labelledby": heading });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.append(form(() => {
      sessionStorage.setItem(TOKEN, field.value.trim());
      dialog.close();
      dialog.remove();
      asked = null;
      done();
    }, {},
    h("h2", { id: heading }, "This server asks for its token"),
    h("div", { class: "asked" },
      h("p", { id: hint }, refused
        ? "That token was refused. Try again."
        : "It is in the file that the server was started with. The page keeps it until this"
          + " tab is closed."),
      h("label", {}, "Token", field)),
    h("div", { class: "buttons" }, h("button", { class: "primary" }, "Continue"))));
    document.body.append(dialog);
    dialog.showModal();
    field.focus();
  });
  return asked;
}

/** The calls of one gallery. */
export function galleryApi(name) {
  const root = `galleries/${encodeURIComponent(name)}`;
  return {
    call: (path, options) => call(path ? `${root}/${path}` : root, options),
    post: (path, json) => call(`${root}/${path}`, { method: "POST", json }),
    picture: (path) => `${root}/${path}`,
  };
}

// Pictures

const KEPT = 600; // object URLs
const AT_ONCE = 6;
const urls = new Map(); // path → promise of an object URL, oldest first
const waiting = []; // the latest asked for is fetched first: it is what is looked at
let running = 0;

function pictureUrl(path) {
  const known = urls.get(path);
  if (known) {
    urls.delete(path);
    urls.set(path, known);
    return known;
  }
  const found = new Promise((done, failed) => waiting.push({ path, done, failed }));
  urls.set(path, found);
  found.catch((error) => error.status === 404 || urls.delete(path)); // else it may be there later
  if (urls.size > KEPT) {
    const [oldest, url] = urls.entries().next().value;
    urls.delete(oldest);
    url.then(URL.revokeObjectURL, () => {});
  }
  pump();
  return found;
}

function pump() {
  while (running < AT_ONCE && waiting.length) {
    const { path, done, failed } = waiting.pop();
    running++;
    call(path, { blob: true })
      .then((blob) => done(URL.createObjectURL(blob)), failed)
      .finally(() => {
        running--;
        pump();
      });
  }
}

/** What a field to choose files with accepts: pictures, or what the gallery's encoder takes. */
export function accepted(context) {
  return context.info.takes?.join() ?? "image/*,.heic,.heif";
}

/** A picture of the server's; a quiet box where there is none. */
export function picture(path, alt = "", kind = "thumbnail") {
  const frame = h("span", { class: `frame ${kind}` });
  // Scrolling past costs nothing: what is gone after a moment is never asked for.
  setTimeout(async () => {
    if (!frame.isConnected) return;
    try {
      frame.append(h("img", { src: await pictureUrl(path), alt, draggable: "false" }));
    } catch {
      frame.append(h("span", { class: "none" }, "no picture"));
    }
  }, 30);
  return frame;
}
