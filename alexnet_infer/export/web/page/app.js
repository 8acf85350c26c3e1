// @ts-check
/** The page: photos in, labels and maps out. */

import { decode, read } from "./decode.js";
import { drawMaps, drawSquare, drawUnits, peak } from "./draw.js";
import { bytes } from "./files.js";
import { Net, largest, meanOverViews, readSite } from "./net.js";
import { meanOf, patches, squareOf } from "./preprocess.js";

/** @typedef {import("./net.js").Layer} Layer */

const FEW = 18; // maps of a column that are drawn unless all are wanted

/** @returns {any} */
const $ = (/** @type {string} */ id) => document.getElementById(id);
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
let turn = 0; // of the last photo or switch: earlier ones that are still running are dropped

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
    site.layers.forEach(addPanel);
    return site;
  } catch (error) {
    say(error, true);
    throw error;
  }
}

/**
 * Return a new element. Names are set as text: none is read as markup.
 * @param {string} tag
 * @param {string} style
 * @param {...(Node | string)} content
 */
function element(tag, style, ...content) {
  const made = document.createElement(tag);
  made.className = style;
  made.append(...content);
  return made;
}

/** Show a message, or an error. */
function say(/** @type {unknown} */ message, problem = false) {
  $("status").textContent = message instanceof Error ? message.message : String(message);
  $("status").classList.toggle("problem", problem);
}

/** Add the closed or open panel of a layer. Its pictures are drawn while it is open. */
function addPanel(/** @type {Layer} */ layer) {
  const size = layer.shape.length > 1 ? `${layer.shape[0]} maps of ${layer.shape.slice(1).join(" x ")}` : `${layer.shape[0]} units`;
  const panel = element("details", "layer", element("summary", "", element("b", "", layer.name), ` ${size}`));
  panel.append(element("p", "hint", layer.about), element("div", "maps"));
  panel.dataset.layer = layer.name;
  panel.toggleAttribute("open", !layer.name.endsWith(":pre"));
  panel.addEventListener("toggle", () => square && panel.querySelector(".maps")?.childElementCount === 0 && show());
  $("layers").append(panel);
}

/** Take a photo from somewhere. Returns its time in ms, from bytes to the drawn result. */
async function take(/** @type {Blob} */ blob) {
  stopCamera();
  const began = performance.now();
  try {
    const pixels = await decode(blob, site.max_pixels);
    const decoded = performance.now();
    square = squareOf(pixels, site.preprocessing);
    await show({ decoding: decoded - began, rescaling: performance.now() - decoded });
  } catch (error) {
    say(error, true);
  }
}

/** Run the net on the square with the switches as they are, and draw everything. */
async function show(/** @type {Record<string, number>} */ times = {}) {
  if (!square || !net) return;
  const mine = ++turn;
  const ten = $("ten").checked;
  const began = performance.now();
  const views = ten ? site.views : [site.views[site.center]];
  if (!ten) chosen = site.center;
  const columns = Array.from(document.querySelectorAll("[name=column]"), (box) => /** @type {any} */ (box).checked);
  const switches = { lrn: $("lrn").checked, columns };
  const open = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("details.layer[open]")]);
  const last = site.layers[site.layers.length - 1].name;
  const names = [...new Set([...open.map((panel) => panel.dataset.layer ?? ""), last])];
  const one = patches(square, site.preprocessing, mean, [site.views[chosen]]);
  const inside = await net.run(one, names, switches);
  const all = ten ? (await net.run(patches(square, site.preprocessing, mean, views), [last], switches))[last] : inside[last];
  if (mine !== turn) return; // there is a newer photo
  const computed = performance.now();
  const probabilities = meanOverViews(all, site.classes.length);
  $("result").hidden = $("inside").hidden = false;
  drawResult(probabilities, all, ten);
  for (const layer of site.layers) drawLayer(layer, inside[layer.name]);
  report({ ...times, net: computed - began, drawing: performance.now() - computed });
  Object.assign(document.body.dataset, { shown: String(mine), probabilities: JSON.stringify([...probabilities]) });
}

/** Say how long it took. */
function report(/** @type {Record<string, number>} */ times) {
  const parts = Object.entries(times).map(([what, ms]) => `${what} ${ms.toFixed(0)} ms`);
  const total = Object.values(times).reduce((a, b) => a + b, 0);
  $("time").textContent = `${total.toFixed(0)} ms: ${parts.join(", ")}`;
  $("time").dataset.total = String(total);
  say("");
}

/** Draw the label, the top five, the square and the votes. */
function drawResult(
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
  drawSquare($("square"), /** @type {Uint8ClampedArray} */ (square), size, patch, views, site.views[chosen]);
  $("square").setAttribute("aria-label", `The square that the net sees, with ${views.length} outlined patches`);
  $("square-text").textContent =
    `The photo as a square of ${size} x ${size} pixels. White: the patches of ${patch} x ${patch}. ` +
    `Orange: the ${site.views[chosen].name} one, whose maps are below.`;
  $("votes-part").hidden = !ten;
  if (!ten) return;
  $("winner").textContent = site.classes[top[0]];
  const focused = document.activeElement?.parentElement === $("votes") ? chosen : -1;
  $("votes").replaceChildren(
    ...site.views.map((view, v) => {
      const own = all.subarray(v * count, (v + 1) * count);
      const [best] = largest(own, 1);
      const text = element("span", "", element("b", "", view.name), ` ${site.classes[best]}, ${percent(own[best])}`);
      const button = element("button", "vote", bar(own[top[0]]), text);
      button.setAttribute("type", "button");
      button.setAttribute("aria-pressed", String(v === chosen));
      button.addEventListener("click", () => ((chosen = v), show()));
      return button;
    }),
  );
  if (focused >= 0) $("votes").children[focused].focus();
}

/** A bar for a probability. Its number is beside it. */
function bar(/** @type {number} */ probability) {
  const made = element("span", "bar");
  made.style.setProperty("--part", String(probability));
  made.setAttribute("aria-hidden", "true");
  return made;
}

/** Draw a layer's pictures, or remove those of an earlier photo if they were not computed. */
function drawLayer(/** @type {Layer} */ layer, /** @type {Float32Array | undefined} */ values) {
  const place = document.querySelector(`[data-layer="${layer.name}"] .maps`);
  if (!values) return place?.replaceChildren();
  const top = peak(values);
  if (layer.shape.length === 1) {
    const canvas = picture(`${layer.name}: ${values.length} units, the largest value ${top.toPrecision(3)}`);
    drawUnits(canvas, values, top);
    return place?.replaceChildren(canvas);
  }
  const columns = layer.columns ? site.columns : 1;
  const width = layer.shape[0] / columns;
  place?.replaceChildren(
    ...Array.from({ length: columns }, (_, i) => {
      const canvas = picture("");
      const most = $("all").checked ? width : Math.min(width, columns > 1 ? FEW : 2 * FEW);
      const maps = drawMaps(canvas, values, layer, [i * width, (i + 1) * width], most, top);
      const title = columns > 1 ? `Column ${i + 1}: ` : "";
      const text = `${title}${most} of ${width} maps; most active: ${maps.slice(0, 6).join(", ")}`;
      canvas.setAttribute("aria-label", `${layer.name}. ${text}`);
      return element("figure", "", canvas, element("figcaption", "hint", text));
    }),
  );
}

function picture(/** @type {string} */ label) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

/** Show what the camera sees until it is stopped: without pause, or with reduced motion every two seconds. */
async function startCamera() {
  const video = $("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await video.play();
  } catch (error) {
    return say(`The camera can't be used: ${/** @type {Error} */ (error).message}`, true);
  }
  video.hidden = false;
  $("camera").setAttribute("aria-pressed", "true");
  $("camera").textContent = "Stop the camera";
  $("label").setAttribute("aria-live", "off");
  while (video.srcObject) {
    const began = performance.now();
    square = squareOf(read(video, video.videoWidth, video.videoHeight, site.max_pixels), site.preprocessing);
    await show({ rescaling: performance.now() - began });
    await new Promise((done) => setTimeout(done, media("(prefers-reduced-motion: reduce)") ? 2000 : 100));
  }
}

function stopCamera() {
  const video = $("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  video.hidden = true;
  $("camera").setAttribute("aria-pressed", "false");
  $("camera").textContent = "Use the camera";
  $("label").setAttribute("aria-live", "polite");
}

/** Let photos in. */
async function listen() {
  $("file").addEventListener("change", () => $("file").files[0] && take($("file").files[0]));
  $("camera").addEventListener("click", () => ($("video").srcObject ? stopCamera() : startCamera()));
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  document.addEventListener("drop", (event) => event.dataTransfer?.files[0] && take(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => event.clipboardData?.files[0] && take(event.clipboardData.files[0]));
  for (const id of ["ten", "one", "lrn", "columns", "all"]) $(id).addEventListener("change", () => show());
  $("camera").hidden = !navigator.mediaDevices;
  for (const { file, name } of site.examples) {
    const photo = new File([await bytes(file)], name, { type: "image/jpeg" });
    const image = Object.assign(new Image(), { src: URL.createObjectURL(photo), alt: "" });
    const button = element("button", "", image, name);
    button.setAttribute("type", "button");
    button.addEventListener("click", () => take(photo));
    $("examples").append(button);
  }
  $("input").hidden = false;
}

try {
  const { bytes: runtime } = site.runtime.binary;
  say(`Loading the net (${(site.net.bytes / 1e6).toFixed(1)} MB) and onnxruntime-web (${(runtime / 1e6).toFixed(1)} MB) ...`);
  net = await Net.open(site);
  await listen();
  say("Ready.");
} catch (error) {
  say(error, true);
}
