// @ts-check
/**
 * From decoded pixels to the patches that the net sees: alexnet_infer/preprocess.py in JavaScript.
 *
 * The resamplers round as Pillow's and OpenCV's do, so that the same pixels give the same patches. Every number that
 * depends on the net is in net.json.
 */

/** @typedef {{width: number, height: number, data: Uint8ClampedArray}} Pixels Four bytes per pixel: RGB, opaque. */
/** @typedef {{name: string, row: number, column: number, mirrored: boolean}} View */
/**
 * @typedef {object} Preprocessing The fields of the model file, and the limit of `crop-torchvision`.
 * @property {number} size
 * @property {number} patch
 * @property {number[] | {float32: string}} mean
 * @property {"nearest" | "bilinear" | "bicubic" | "lanczos" | "bilinear-aliased"} resample
 * @property {"crop" | "crop-torchvision" | "stretch"} fit
 * @property {"RGB" | "BGR"} channel_order
 * @property {"0-255" | "0-1"} value_range
 * @property {number} whole_pixels
 */
/** @typedef {{from: number, to: number, length: number, first: number}} Axis
 * One axis of a resampling: positions `first` ... of `length` positions between `from` and `to`, in pixels. */

const PRECISION = 22; // bits of a weight, as in Pillow

const sinc = (/** @type {number} */ x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

/** Pillow's filters: half of the width in pixels, and the weight at a distance. */
const FILTERS = {
  bilinear: { support: 1, weight: (/** @type {number} */ x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: {
    support: 2,
    weight: (/** @type {number} */ x) => {
      const d = Math.abs(x);
      if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * -0.5 : 0;
    },
  },
  lanczos: { support: 3, weight: (/** @type {number} */ x) => (-3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Round as Python does: halves to the even number. */
function round(/** @type {number} */ x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 ? down + 1 : down;
}

/**
 * Rescale an image to the square that patches are cut from: RGB, size * size * 3 bytes.
 * @param {Pixels} image
 * @param {Preprocessing} p
 */
export function squareOf(image, p) {
  const sides = [image.width, image.height];
  const short = Math.min(...sides);
  const S = p.size;
  if (p.fit === "stretch") {
    return resized(image, p, sides.map((side) => ({ from: 0, to: side, length: S, first: 0 })));
  }
  let scaled, corner;
  if (p.fit === "crop-torchvision") {
    scaled = sides.map((side) => Math.trunc((S * side) / short));
    corner = scaled.map((side) => round((side - S) / 2));
    if (p.resample !== "bilinear-aliased" && p.resample !== "nearest" && scaled[0] * scaled[1] <= p.whole_pixels) {
      const at = corner; // positions of the complete rescaled image, of which only the square is computed
      const whole = scaled;
      return resized(image, p, sides.map((side, i) => ({ from: 0, to: side, length: whole[i], first: at[i] })));
    }
  } else {
    const scale = short / S;
    scaled = sides.map((side) => Math.max(S, round(side / scale)));
    corner = scaled.map((side) => Math.floor((side - S) / 2));
  }
  const [after, begin] = [scaled, corner];
  return resized(
    image,
    p,
    sides.map((side, i) => ({
      from: (begin[i] * side) / after[i],
      to: ((begin[i] + S) * side) / after[i],
      length: S,
      first: 0,
    })),
  );
}

/**
 * Resample an image along both axes.
 * @param {Pixels} image
 * @param {Preprocessing} p
 * @param {Axis[]} axes columns, rows
 */
function resized(image, p, [columns, rows]) {
  if (p.resample === "nearest") return nearest(image, p.size, columns, rows);
  if (p.resample === "bilinear-aliased") return aliased(image, p.size, columns, rows);
  return antialiased(image, p.size, FILTERS[p.resample], columns, rows);
}

/**
 * The pixels that contribute to each position and their weights, in 2^-22.
 * @param {{support: number, weight: (x: number) => number}} filter
 * @param {number} side of the image
 * @param {Axis} axis
 * @param {number} count
 */
function windows(filter, side, axis, count) {
  const from = Math.fround(axis.from); // Pillow takes the box in float32
  const scale = Math.fround(Math.fround(axis.to) - from) / axis.length;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  return Array.from({ length: count }, (_, i) => {
    const center = from + (axis.first + i + 0.5) * scale;
    const begin = Math.max(Math.trunc(center - support + 0.5), 0);
    const end = Math.min(Math.trunc(center + support + 0.5), side);
    const weights = [];
    for (let x = begin; x < end; x++) weights.push(filter.weight((x - center + 0.5) * (1 / stretch)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return {
      begin,
      weights: Int32Array.from(weights, (w) => {
        const part = (sum ? w / sum : w) * 2 ** PRECISION;
        return Math.trunc(part + (part < 0 ? -0.5 : 0.5));
      }),
    };
  });
}

/**
 * Pillow's resampling: one axis after the other, rounded to 8 bits after each. Since Pillow 13, columns come first if
 * the image loses more than twice as many rows as columns.
 * @param {Pixels} image
 * @param {number} size
 * @param {{support: number, weight: (x: number) => number}} filter
 * @param {Axis} columns
 * @param {Axis} rows
 */
function antialiased(image, size, filter, columns, rows) {
  const { width, height, data } = image;
  const across = windows(filter, width, columns, size);
  const down = windows(filter, height, rows, size);
  const less = height - rows.length;
  if (less > 0 && less > 2 * (width - columns.length)) {
    const [left, count] = extent(across); // only these columns are needed
    const flat = pass(data, { start: 4 * left, line: 4, step: 4 * width }, down, count, { line: 3, step: 3 * count });
    return pass(flat, { start: -3 * left, line: 3 * count, step: 3 }, across, size, { line: 3 * size, step: 3 });
  }
  const [top, count] = extent(down);
  const slim = pass(data, { start: 4 * top * width, line: 4 * width, step: 4 }, across, count, { line: 3 * size, step: 3 });
  return pass(slim, { start: -3 * top * size, line: 3, step: 3 * size }, down, size, { line: 3, step: 3 * size });
}

/** @typedef {{begin: number, weights: Int32Array}[]} Windows */

/** The first pixel that windows see, and how many they see. */
function extent(/** @type {Windows} */ windows) {
  const { begin, weights } = windows[windows.length - 1];
  return [windows[0].begin, begin + weights.length - windows[0].begin];
}

/**
 * Resample `lines` lines of RGB along one axis.
 * @param {Uint8ClampedArray} from
 * @param {{start: number, line: number, step: number}} read where pixel 0 is, and how far lines and pixels are apart
 * @param {Windows} windows
 * @param {number} lines
 * @param {{line: number, step: number}} write
 */
function pass(from, read, windows, lines, write) {
  const to = new Uint8ClampedArray(3 * lines * windows.length);
  const half = 2 ** (PRECISION - 1);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < windows.length; i++) {
      const { begin, weights } = windows[i];
      let [r, g, b] = [half, half, half];
      let at = read.start + line * read.line + begin * read.step;
      for (let k = 0; k < weights.length; k++, at += read.step) {
        const weight = weights[k];
        r += from[at] * weight;
        g += from[at + 1] * weight;
        b += from[at + 2] * weight;
      }
      const out = line * write.line + i * write.step;
      to[out] = r >> PRECISION;
      to[out + 1] = g >> PRECISION;
      to[out + 2] = b >> PRECISION;
    }
  }
  return to;
}

/**
 * Pillow's nearest pixel.
 * @param {Pixels} image
 * @param {number} size
 * @param {Axis} columns
 * @param {Axis} rows
 */
function nearest(image, size, columns, rows) {
  const positions = (/** @type {Axis} */ axis, /** @type {number} */ side) => {
    const step = (Math.fround(axis.to) - Math.fround(axis.from)) / axis.length;
    let at = Math.fround(axis.from) + step * 0.5;
    return Array.from({ length: size }, () => {
      const pixel = Math.min(Math.floor(at), side - 1);
      at += step;
      return pixel;
    });
  };
  const across = positions(columns, image.width);
  const square = new Uint8ClampedArray(size * size * 3);
  let to = 0;
  for (const y of positions(rows, image.height)) {
    for (const x of across) {
      for (let c = 0; c < 3; c++) square[to++] = image.data[4 * (y * image.width + x) + c];
    }
  }
  return square;
}

/**
 * OpenCV's bilinear filter, alexnet_infer/bilinear.py: four pixels at any scale, with weights of 11 bits.
 * @param {Pixels} image
 * @param {number} size
 * @param {Axis} columns
 * @param {Axis} rows
 */
function aliased(image, size, columns, rows) {
  const taps = (/** @type {Axis} */ axis) =>
    Array.from({ length: size }, (_, i) => {
      const position = Math.fround(axis.from + (i + 0.5) * ((axis.to - axis.from) / size) - 0.5);
      const before = Math.floor(position);
      const fraction = Math.fround(position - before);
      return { before, weights: [round(Math.fround(1 - fraction) * 2048), round(fraction * 2048)] };
    });
  const { width, height, data } = image;
  const clip = (/** @type {number} */ x, /** @type {number} */ side) => Math.min(Math.max(x, 0), side - 1);
  const across = taps(columns).map(({ before, weights }) => ({
    at: [clip(before, width), clip(before + 1, width)],
    weights: before < 0 || before >= width - 1 ? [2048, 0] : weights,
  }));
  const square = new Uint8ClampedArray(size * size * 3);
  let to = 0;
  for (const { before, weights } of taps(rows)) {
    const lines = [clip(before, height), clip(before + 1, height)].map((y) => 4 * y * width);
    for (const x of across) {
      for (let c = 0; c < 3; c++) {
        let total = 2;
        for (let k = 0; k < 2; k++) {
          const [left, right] = x.at.map((column) => data[lines[k] + 4 * column + c]);
          total += (((left * x.weights[0] + right * x.weights[1]) >> 4) * weights[k]) >> 16;
        }
        square[to++] = total >> 2;
      }
    }
  }
  return square;
}

/**
 * The mean that is subtracted, one value per channel, or one per pixel and channel.
 * @param {Preprocessing} p
 */
export function meanOf(p) {
  if (Array.isArray(p.mean)) return Float32Array.from(p.mean);
  const bytes = Uint8Array.from(atob(p.mean.float32), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer); // little-endian, as every browser's arrays are
}

/**
 * Cut views out of a square, ready for the net: float32 [views, 3, patch, patch].
 * @param {Uint8ClampedArray} square RGB
 * @param {Preprocessing} p
 * @param {Float32Array} mean
 * @param {View[]} views
 */
export function patches(square, p, mean, views) {
  const { size, patch } = p;
  const perPixel = mean.length > 3;
  const out = new Float32Array(views.length * 3 * patch * patch);
  let to = 0;
  for (const view of views) {
    for (let c = 0; c < 3; c++) {
      const channel = p.channel_order === "BGR" ? 2 - c : c;
      for (let y = 0; y < patch; y++) {
        for (let x = 0; x < patch; x++) {
          const column = view.column + (view.mirrored ? patch - 1 - x : x);
          const pixel = (view.row + y) * size + column;
          const raw = square[3 * pixel + channel];
          const value = p.value_range === "0-1" ? Math.fround(raw / 255) : raw;
          out[to++] = value - mean[perPixel ? 3 * pixel + c : c];
        }
      }
    }
  }
  return out;
}
