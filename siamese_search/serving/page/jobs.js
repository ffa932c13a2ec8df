// Jobs: what takes long, how far it is, and a way to stop it.

import { call } from "./api.js";
import { button, h, say } from "./dom.js";

export const title = () => "Jobs";

const PAUSE = 700; // milliseconds between looks at what runs
const NAMES = {
  calibrate: "Calibrate", audit: "Audit", scores: "Measure scores", rebuild: "Rebuild the index",
  compact: "Compact",
};
const STATES = {
  queued: "waits", running: "runs", done: "done", failed: "failed", cancelled: "cancelled",
};
const RESULTS = { audit: "audit", scores: "quality", calibrate: "quality" }; // view of the result

const active = (job) => job.state === "queued" || job.state === "running";
const list = async (signal) => {
  const answer = await call("jobs", { signal });
  return answer.jobs ?? answer;
};

/** Start a job, and wait until it has ended with its progress shown in a place. Returns the job. */
export async function runJob(context, kind, given, place) {
  const job = await context.api.post("jobs", { kind, arguments: given });
  return follow(context, job, place);
}

/** Wait for a job that was started, in this view or elsewhere. Raises what it failed with. */
export async function follow(context, job, place) {
  let latest = job;
  const row = h("div", { class: "panel" });
  place.replaceChildren(row);
  while (active(latest)) {
    drawJob(row, latest);
    await pause(context.signal);
    latest = await call(`jobs/${encodeURIComponent(job.id)}`, { signal: context.signal });
  }
  row.remove();
  if (latest.state === "failed") throw new Error(latest.error ?? "It failed.");
  return latest;
}

/** The latest job of a kind that runs, or is done, for the gallery; null where there is none. */
export async function latestJob(context, kind) {
  const jobs = (await list(context.signal)).filter((job) =>
    job.gallery === context.gallery && job.kind === kind
    && (active(job) || job.state === "done"));
  const [latest] = jobs.toSorted((a, b) => (b.started ?? "~").localeCompare(a.started ?? "~"));
  return latest ? call(`jobs/${encodeURIComponent(latest.id)}`, { signal: context.signal }) : null;
}

function pause(signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, PAUSE);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(signal.reason);
    }, { once: true });
  });
}

export async function render(context, body) {
  const rows = h("ol", { class: "jobs", "aria-label": "Jobs, latest first" });
  const empty = h("p", { class: "empty" }, "Nothing has been started yet.");
  if (context.writable) {
    body.append(h("div", { class: "row tools" }, ...["compact", "rebuild"].map((kind) =>
      button(NAMES[kind], async () => {
        await context.api.post("jobs", { kind, arguments: {} });
        say(`${NAMES[kind]}: started`);
        context.redraw();
      }))));
  }
  body.append(empty, rows);
  const drawn = new Map(); // of each job: its row, and what it shows
  const look = async () => {
    const jobs = await list(context.signal);
    empty.hidden = jobs.length > 0;
    for (const job of jobs) {
      const shown = JSON.stringify(job);
      let row = drawn.get(job.id);
      if (!row) {
        row = { node: h("li", { class: "panel" }) };
        drawn.set(job.id, row);
        rows.prepend(row.node);
      }
      if (row.shown !== shown) drawJob(row.node, job, context);
      row.shown = shown;
    }
    return jobs.some(active);
  };
  if (await look()) poll(context, look);
}

async function poll(context, look) {
  try {
    do await pause(context.signal); while (await look());
  } catch (error) {
    if (!context.signal.aborted) throw error;
  }
}

function drawJob(row, job, context = null) {
  const times = [job.started, job.ended].filter(Boolean).map((time) =>
    new Date(typeof time === "number" ? 1000 * time : time).toLocaleTimeString("en-GB"));
  const bar = h("progress", { "aria-label": `${NAMES[job.kind] ?? job.kind}, progress` });
  if (job.total) [bar.max, bar.value] = [job.total, job.done];
  const facts = [STATES[job.state] ?? job.state, active(job) && job.stage, times.join(" – ")];
  if (job.total && active(job)) facts.splice(2, 0, `${job.done} of ${job.total}`);
  const keep = row.contains(document.activeElement);
  row.replaceChildren(
    h("div", { class: "row spread" },
      h("h2", {}, NAMES[job.kind] ?? job.kind,
        context && h("span", { class: "muted" }, ` ${job.gallery}`)),
      active(job) ? button("Cancel", () =>
        call(`jobs/${encodeURIComponent(job.id)}`, { method: "DELETE" }))
        : context && job.state === "done" && RESULTS[job.kind] && job.gallery === context.gallery
          && h("a", { href: context.href(RESULTS[job.kind]) }, "See the result")),
    ...[active(job) && bar,
      h("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      job.error && h("p", { class: "error" }, job.error)].filter(Boolean));
  if (keep) row.querySelector("button")?.focus();
}
