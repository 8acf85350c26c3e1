// @ts-check
/** Pictures: the square with its patches, a layer's maps, a layer of units. */

import { largest } from "./net.js";

/** @typedef {import("./net.js").Layer} Layer */
/** @typedef {import("./preprocess.js").View} View */

const TILE = 56; // pixels of a map's picture, about the side of the largest maps
const ACROSS = 6; // maps in a row
const CELL = 5; // pixels of a unit's picture
const UNITS = 64; // units in a row

/** The colours of values from -1 to 1 in 511 steps, as ImageData holds them: blue, black at 0, white. */
const COLOURS = Uint32Array.from({ length: 511 }, (_, i) => {
  const v = (i - 255) / 255;
  const [r, g, b] = v < 0 ? [-v * 90, -v * 140, -v * 255] : [v * 255, v * 255, v * 255];
  return new Uint32Array(Uint8ClampedArray.of(r, g, b, 255).buffer)[0];
});

/**
 * Draw the square, and an outline around each view.
 * @param {HTMLCanvasElement} canvas
 * @param {Uint8ClampedArray} square RGB
 * @param {number} size
 * @param {number} patch
 * @param {View[]} views
 * @param {View} chosen
 */
export function drawSquare(canvas, square, size, patch, views, chosen) {
  const small = new OffscreenCanvas(size, size);
  const pixels = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    pixels.data.set([square[3 * i], square[3 * i + 1], square[3 * i + 2], 255], 4 * i);
  }
  context(small).putImageData(pixels, 0, 0);
  const zoom = Math.max(1, Math.round(384 / size));
  canvas.width = canvas.height = size * zoom;
  const c = context(canvas);
  c.imageSmoothingEnabled = false;
  c.drawImage(small, 0, 0, canvas.width, canvas.height);
  const outline = (/** @type {View} */ view, /** @type {string} */ colour, /** @type {number} */ width) => {
    c.strokeStyle = colour;
    c.lineWidth = width;
    c.strokeRect(view.column * zoom + width / 2, view.row * zoom + width / 2, patch * zoom - width, patch * zoom - width);
  };
  for (const view of views) if (!view.mirrored) outline(view, "rgb(255 255 255 / 70%)", 2);
  outline(chosen, "#000", 6);
  c.setLineDash(chosen.mirrored ? [12, 8] : []);
  outline(chosen, "#ffb000", 4);
  c.setLineDash([]);
}

/**
 * Draw some maps of a layer as tiles, the most active first. Returns their numbers, from 0.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} values [channels, height, width]
 * @param {Layer} layer
 * @param {number[]} range the first map and the one after the last
 * @param {number} most how many to draw
 * @param {number} top the value that is white; its negative is blue
 */
export function drawMaps(canvas, values, layer, [first, end], most, top) {
  const [, height, width] = layer.shape;
  const area = height * width;
  const activity = Array.from({ length: end - first }, (_, i) => {
    let sum = 0;
    for (let k = (first + i) * area; k < (first + i + 1) * area; k++) sum += Math.abs(values[k]);
    return sum;
  });
  const shown = largest(activity, most).map((i) => first + i);
  const across = Math.min(ACROSS, shown.length);
  const down = Math.ceil(shown.length / across);
  const picture = new ImageData(across * (TILE + 1) - 1, down * (TILE + 1) - 1);
  const pixels = new Uint32Array(picture.data.buffer);
  const columns = Int32Array.from({ length: TILE }, (_, x) => Math.floor((x * width) / TILE));
  shown.forEach((map, place) => {
    const [left, above] = [(place % across) * (TILE + 1), Math.floor(place / across) * (TILE + 1)];
    for (let y = 0; y < TILE; y++) {
      const row = map * area + Math.floor((y * height) / TILE) * width;
      let at = (above + y) * picture.width + left;
      for (let x = 0; x < TILE; x++) pixels[at++] = COLOURS[255 + Math.round((255 * values[row + columns[x]]) / top)];
    }
  });
  put(canvas, picture);
  return shown;
}

/**
 * Draw the units of a fully-connected layer in their order, 64 in a row.
 * @param {HTMLCanvasElement} canvas
 * @param {Float32Array} values
 * @param {number} top the value that is white; its negative is blue
 */
export function drawUnits(canvas, values, top) {
  const across = Math.min(UNITS, values.length);
  const picture = new ImageData(across * CELL, Math.ceil(values.length / across) * CELL);
  const pixels = new Uint32Array(picture.data.buffer);
  values.forEach((value, i) => {
    const [left, above] = [(i % across) * CELL, Math.floor(i / across) * CELL];
    const colour = COLOURS[255 + Math.round((255 * value) / top)];
    for (let y = 0; y < CELL - 1; y++) pixels.fill(colour, (above + y) * picture.width + left, (above + y) * picture.width + left + CELL - 1);
  });
  put(canvas, picture);
}

/** The lowest and the highest value, and the larger of their absolute values, or 1 if all are 0. */
export function extremes(/** @type {Float32Array} */ values) {
  let [lowest, highest] = [Infinity, -Infinity];
  for (const value of values) {
    lowest = Math.min(lowest, value);
    highest = Math.max(highest, value);
  }
  return { lowest, highest, top: Math.max(-lowest, highest) || 1 };
}

function put(/** @type {HTMLCanvasElement} */ canvas, /** @type {ImageData} */ picture) {
  [canvas.width, canvas.height] = [picture.width, picture.height];
  context(canvas).putImageData(picture, 0, 0);
}

/** @returns {any} */
function context(/** @type {HTMLCanvasElement | OffscreenCanvas} */ canvas) {
  return canvas.getContext("2d");
}
