// The camera with its live answer: a frame is asked about as soon as the last one is answered.

import { picture } from "./api.js";
import { button, h, sayError, speak } from "./dom.js";
import { ask, factsOf, headline } from "./identify.js";

const SIDE = 800; // pixels of a frame's longer side
const QUALITY = 0.9; // of its JPEG
const REST = 150; // milliseconds between an answer and the next frame

/** Show the camera in a place, with who is in front of it, until it is closed. */
export async function openCamera(context, place, asked, take) {
  if (place.firstChild) return;
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Error("The browser gives the camera only to pages from this computer or over HTTPS.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
  } catch (error) {
    throw new Error(`The camera is not to be had: ${error.message}`);
  }
  const video = h("video", { autoplay: true, muted: true, playsinline: true,
    "aria-label": "What the camera sees" });
  video.muted = true;
  video.srcObject = stream;
  const name = h("p", { class: "live-name" }, "Looking…");
  const facts = h("p", { class: "facts" });
  const best = h("div", { class: "best" });
  const ended = new AbortController();
  const close = () => {
    ended.abort();
    for (const track of stream.getTracks()) track.stop();
    place.replaceChildren();
  };
  context.signal.addEventListener("abort", close);
  place.append(h("section", { class: "camera", "aria-label": "Camera" }, video,
    h("div", { class: "beside" }, name, facts, best,
      h("div", { class: "buttons" },
        button("Take this picture", async () => take([await frameOf(video)]),
          { class: "primary" }),
        button("Close the camera", close)))));
  await video.play();
  follow({ ...context, signal: ended.signal }, video, asked, { name, facts, best });
}

async function follow(context, video, asked, { name, facts, best }) {
  let [last, shown] = [null, null];
  while (!context.signal.aborted) {
    try {
      if (!document.hidden) {
        const query = { ...asked(), k: 1, keep_unknown: false };
        const [answer] = await ask(context, [await frameOf(video)], query,
          context.signal);
        const told = answer.error ?? headline(answer);
        name.textContent = told;
        facts.textContent = answer.score == null ? "" : factsOf(answer).join(" · ");
        const nearest = answer.matches?.[0];
        if (nearest?.item !== shown) {
          shown = nearest?.item;
          best.replaceChildren(...(nearest ? [picture(
            context.api.picture(`items/${shown}/thumbnail?side=240`),
            `Nearest: enrolled picture of ${nearest.identity}`)] : []));
        }
        if (told !== last) speak(told); // the same again is not read out again
        last = told;
      }
    } catch (error) {
      if (context.signal.aborted) return;
      sayError(error);
      return;
    }
    await new Promise((done) => setTimeout(done, REST));
  }
}

/** What the camera sees now, as a file. */
function frameOf(video) {
  const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = h("canvas", {
    width: Math.round(video.videoWidth * scale), height: Math.round(video.videoHeight * scale),
  });
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  const stamp = new Date().toTimeString().slice(0, 8).replaceAll(":", "-");
  return new Promise((done, failed) => canvas.toBlob((blob) => {
    if (blob) done(new File([blob], `camera-${stamp}.jpg`, { type: "image/jpeg" }));
    else failed(new Error("The camera gave no picture."));
  }, "image/jpeg", QUALITY));
}
