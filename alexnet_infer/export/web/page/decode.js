// @ts-check
/** From an encoded image, or a frame of the camera, to pixels. */

/** @typedef {import("./preprocess.js").Pixels & {full: number}} Decoded `full`: pixels before it was shrunk */

const AT_MOST = 200e6; // pixels that are shrunk: more would need gigabytes of memory

/**
 * Decode an image as classify does: turned as its EXIF block says, without colour conversion, on white.
 * @param {Blob} blob
 * @param {number} most pixels: a larger photo is shrunk by the browser to so many (classify refuses it)
 * @returns {Promise<Decoded>}
 */
export async function decode(blob, most) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${/** @type {File} */ (blob).name ?? "This"} is not an image that this browser reads.`);
  }
  try {
    return read(bitmap, bitmap.width, bitmap.height, most);
  } finally {
    bitmap.close();
  }
}

/**
 * The pixels of a picture on white.
 * @param {CanvasImageSource} picture
 * @param {number} width
 * @param {number} height
 * @param {number} most pixels
 * @returns {Decoded}
 */
export function read(picture, width, height, most) {
  const full = width * height;
  if (full > AT_MOST) throw new Error(`${width} x ${height} pixels are too many: shrink the photo first.`);
  const scale = Math.min(1, Math.sqrt(most / full));
  const [w, h] = [width, height].map((side) => Math.max(1, Math.floor(side * scale)));
  const canvas = new OffscreenCanvas(w, h);
  const context = /** @type {any} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, w, h);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, w, h);
  return { width: w, height: h, data: context.getImageData(0, 0, w, h).data, full };
}
