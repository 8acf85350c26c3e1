// @ts-check
/** From an encoded image, or a frame of the camera, to pixels. */

/** @typedef {import("./preprocess.js").Pixels} Pixels */

/**
 * Decode an image as classify does: turned as its EXIF block says, without colour conversion, on white.
 * @param {Blob} blob
 * @param {number} most pixels
 * @returns {Promise<Pixels>}
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
 * @returns {Pixels}
 */
export function read(picture, width, height, most) {
  if (width * height > most) throw new Error(`${width} x ${height} pixels are too many: shrink the photo first.`);
  const canvas = new OffscreenCanvas(width, height);
  const context = /** @type {any} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, width, height);
}
