// @ts-check
/** The page: photos in, labels and maps out. */

import { Camera } from "./camera.js";
import { decode, read } from "./decode.js";
import { $, bar, button, element, say } from "./dom.js";
import { drawSquare } from "./draw.js";
import { bytes } from "./files.js";
import { addPanel, drawLayer, openLayers } from "./layers.js";
import { Net, largest, meanOverViews, readSite } from "./net.js";
import { meanOf, patches, squareOf } from "./preprocess.js";

const percent = (/** @type {number} */ p) => `${(100 * p).toFixed(1)} %`;
const media = (/** @type {string} */ query) => matchMedia(query).matches;

$("unstarted").hidden = true;
const site = await start();
const mean = meanOf(site.preprocessing);
/** @type {Net} */
let net;
/** @type {Uint8ClampedArray | null} */
let square = null; // of the photo that is shown
let chosen = site.center; // the view whose maps are shown
let photo = 0; // the number of the last photo or start of the camera: what an earlier one does is dropped
let turn = 0; // of the last photo, frame or switch that asks for a result: earlier ones are dropped
let last = Promise.resolve(); // the computation before: one runs, and of those that wait only the newest will
const camera = new Camera($("video"), showCamera, (error) => say(`The camera can't be used: ${error.message}`, true));

/** Read net.json and build what depends on it. */
async function start() {
  try {
    const site = await readSite();
    $("about").textContent = site.about;
    $("made").textContent = `${site.name}: SHA-256 ${site.sha256}. onnxruntime-web ${site.runtime.version}.`;
    $("lrn-label").hidden = !site.lrn;
    for (let i = 0; i < site.columns && site.columns > 1; i++) {
      const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true, name: "column" });
      $("columns").append(element("label", "", box, ` Column ${i + 1}`), " ");
    }
    for (const layer of site.layers) addPanel(layer, show);
    return site;
  } catch (error) {
    say(error, true);
    throw error;
  }
}

/** Take a photo from somewhere. A photo that is taken while it is decoded replaces it. */
async function take(/** @type {Blob} */ blob, note = "") {
  camera.stop();
  const mine = ++photo;
  const began = performance.now();
  busy();
  try {
    const { full, ...pixels } = await decode(blob, site.max_pixels);
    if (mine !== photo) return;
    const decoded = performance.now();
    square = squareOf(pixels, site.preprocessing);
    const shrunk = full === pixels.width * pixels.height ? "" : `The browser has shrunk the photo to ${pixels.width} x ${pixels.height} first.`;
    await show({ decoding: decoded - began, rescaling: performance.now() - decoded }, `${note} ${shrunk}`.trim());
  } catch (error) {
    if (mine === photo) problem(error);
  }
}

/** Take what was dropped or pasted. */
function given(/** @type {DataTransfer | null} */ data, /** @type {string} */ what) {
  const files = [...(data?.files ?? [])];
  if (data?.items[0]?.webkitGetAsEntry?.()?.isDirectory) return say(`${what} is a folder: expected a photo.`, true);
  if (!files.length) return say(`${what} is not a file: expected a photo.`, true);
  take(files[0], files.length > 1 ? `Of ${files.length} files, the first is shown: ${files[0].name}.` : "");
}

/** Say that a result is being computed. */
function busy() {
  say("Computing ...");
  $("result").setAttribute("aria-busy", "true");
}

/** Say what went wrong with the newest photo or switch. */
function problem(/** @type {unknown} */ error) {
  const below = $("result").hidden ? "" : " What is below was computed before.";
  say(`${error instanceof Error ? error.message : error}${below}`, true);
  $("result").removeAttribute("aria-busy");
}

/** Run the net on the square with the switches as they are, and draw everything, unless there is a newer request. */
function show(/** @type {Record<string, number>} */ times = {}, note = "") {
  if (!square || !net) return last;
  const mine = ++turn;
  if (camera.state !== "on") busy();
  last = last.then(() => (mine === turn ? compute(mine, times, note) : undefined));
  last = last.catch((error) => (mine === turn ? (camera.stop(), problem(error)) : undefined));
  return last;
}

async function compute(/** @type {number} */ mine, /** @type {Record<string, number>} */ times, /** @type {string} */ note) {
  const seen = /** @type {Uint8ClampedArray} */ (square);
  const ten = $("ten").checked;
  const began = performance.now();
  const views = ten ? site.views : [site.views[site.center]];
  if (!ten) chosen = site.center;
  const columns = Array.from(document.querySelectorAll("[name=column]"), (box) => /** @type {any} */ (box).checked);
  const switches = { lrn: $("lrn").checked, columns };
  const end = site.layers[site.layers.length - 1].name;
  const names = [...new Set([...openLayers(), end])];
  const inside = await net.run(patches(seen, site.preprocessing, mean, [site.views[chosen]]), names, switches);
  if (mine !== turn) return;
  const all = ten ? (await net.run(patches(seen, site.preprocessing, mean, views), [end], switches))[end] : inside[end];
  if (mine !== turn) return;
  const computed = performance.now();
  const probabilities = meanOverViews(all, site.classes.length);
  $("result").hidden = $("inside").hidden = false;
  drawResult(seen, probabilities, all, ten);
  for (const layer of site.layers) drawLayer(layer, inside[layer.name], site.columns);
  report({ ...times, net: computed - began, drawing: performance.now() - computed }, note);
  Object.assign(document.body.dataset, { shown: String(mine), probabilities: JSON.stringify([...probabilities]) });
}

/** Say how long it took. What went wrong with a newer photo stays. */
function report(/** @type {Record<string, number>} */ times, /** @type {string} */ note) {
  const parts = Object.entries(times).map(([what, ms]) => `${what} ${ms.toFixed(0)} ms`);
  const total = Object.values(times).reduce((a, b) => a + b, 0);
  $("time").textContent = `${total.toFixed(0)} ms: ${parts.join(", ")}`;
  $("time").dataset.total = String(total);
  $("result").removeAttribute("aria-busy");
  if (!$("status").classList.contains("problem")) say(note);
}

/** Draw the label, the top five, the square and the votes. */
function drawResult(
  /** @type {Uint8ClampedArray} */ seen,
  /** @type {Float32Array} */ probabilities,
  /** @type {Float32Array} */ all,
  /** @type {boolean} */ ten,
) {
  const count = site.classes.length;
  const top = largest(probabilities, 5);
  $("label").textContent = `${site.classes[top[0]]}, ${percent(probabilities[top[0]])}`;
  $("top").replaceChildren(
    ...top.map((i) => element("li", "", bar(probabilities[i]), `${percent(probabilities[i])} ${site.classes[i]}`)),
  );
  const { size, patch } = site.preprocessing;
  const views = ten ? site.views : [site.views[site.center]];
  drawSquare($("square"), seen, size, patch, views, site.views[chosen]);
  $("square").setAttribute("aria-label", `The square that the net sees, with ${views.length} outlined patches`);
  $("square-text").textContent =
    `The photo as a square of ${size} x ${size} pixels. White: the patches of ${patch} x ${patch}. ` +
    `Orange: the ${site.views[chosen].name} one, whose maps are below.`;
  $("votes-part").hidden = !ten;
  if (!ten) return;
  $("winner").textContent = site.classes[top[0]];
  site.views.forEach((view, v) => {
    const own = all.subarray(v * count, (v + 1) * count);
    const [best] = largest(own, 1);
    const text = element("span", "", element("b", "", view.name), ` ${site.classes[best]}, ${percent(own[best])}`);
    const vote = $("votes").children[v] ?? $("votes").appendChild(button(() => ((chosen = v), show()), "vote"));
    vote.replaceChildren(bar(own[top[0]]), text);
    vote.setAttribute("aria-pressed", String(v === chosen));
  });
}

/** Show what the camera sees until it is stopped: without pause, or with reduced motion every two seconds. */
function startCamera() {
  photo++;
  const video = $("video");
  const use = async () => {
    const began = performance.now();
    square = squareOf(read(video, video.videoWidth, video.videoHeight, site.max_pixels), site.preprocessing);
    await show({ rescaling: performance.now() - began });
  };
  camera.start(use, () => (media("(prefers-reduced-motion: reduce)") ? 2000 : 100));
}

function showCamera(/** @type {import("./camera.js").CameraState} */ state) {
  $("video").hidden = state !== "on";
  $("camera").disabled = state === "starting";
  $("camera").setAttribute("aria-pressed", String(state === "on"));
  $("camera").textContent = { off: "Use the camera", starting: "The camera starts ...", on: "Stop the camera" }[state];
  $("label").setAttribute("aria-live", state === "on" ? "off" : "polite");
}

/** Let photos in. */
function listen() {
  $("file").addEventListener("change", () => {
    const [file] = $("file").files;
    $("file").value = ""; // so that the same file can be chosen again
    if (file) take(file);
  });
  $("camera").addEventListener("click", () => (camera.state === "on" ? camera.stop() : startCamera()));
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  document.addEventListener("drop", (event) => given(event.dataTransfer, "What was dropped"));
  document.addEventListener("paste", (event) => given(event.clipboardData, "What was pasted"));
  for (const id of ["ten", "one", "lrn", "columns", "all"]) $(id).addEventListener("change", () => show());
  $("camera").hidden = !navigator.mediaDevices;
  $("input").hidden = false;
}

/** Add the example photos. One that can't be loaded is named in its place. */
async function addExamples() {
  for (const { file, name } of site.examples) {
    try {
      const photo = new File([await bytes(file)], name, { type: "image/jpeg" });
      const image = Object.assign(new Image(), { src: URL.createObjectURL(photo), alt: "" });
      $("examples").append(button(() => take(photo), "", image, name));
    } catch (error) {
      $("examples").append(element("span", "hint", /** @type {Error} */ (error).message));
    }
  }
}

try {
  const { bytes: runtime } = site.runtime.binary;
  say(`Loading the net (${(site.net.bytes / 1e6).toFixed(1)} MB) and onnxruntime-web (${(runtime / 1e6).toFixed(1)} MB) ...`);
  net = await Net.open(site);
  listen();
  await addExamples();
  if ($("status").textContent.startsWith("Loading")) say("Ready.");
} catch (error) {
  say(error, true);
}
