// @ts-check
/** The net, run by onnxruntime-web in WebAssembly. */

import { bytes } from "./files.js";

/** @typedef {import("./preprocess.js").Preprocessing} Preprocessing */
/** @typedef {import("./preprocess.js").View} View */
/** @typedef {{name: string, shape: number[], columns: boolean, about: string}} Layer */
/**
 * @typedef {object} Site What net.json says.
 * @property {string} name
 * @property {string} about
 * @property {string} sha256
 * @property {{file: string, bytes: number, integrity: string}} net
 * @property {string[]} classes
 * @property {Preprocessing} preprocessing
 * @property {View[]} views the ten views, the centre at `center`
 * @property {number} center
 * @property {number} max_pixels
 * @property {Layer[]} layers the last is the probabilities
 * @property {boolean} lrn whether the net has LRN
 * @property {number} columns
 * @property {{file: string, name: string}[]} examples
 * @property {{version: string, script: {url: string, integrity: string},
 *   binary: {url: string, integrity: string, bytes: number}}} runtime
 */
/** @typedef {{lrn: boolean, columns: boolean[]}} Switches */

/** Read net.json. @returns {Promise<Site>} */
export async function readSite() {
  const text = new TextDecoder().decode(await bytes("net.json"));
  try {
    return JSON.parse(text);
  } catch {
    throw new Error("net.json is damaged: write the page again.");
  }
}

export class Net {
  /**
   * @param {any} ort
   * @param {any} session
   * @param {Site} site
   */
  constructor(ort, session, site) {
    this.ort = ort;
    this.session = session;
    this.site = site;
  }

  /**
   * Load the runtime and the net. Both files of the runtime are checked against the hashes in net.json.
   * @param {Site} site
   */
  static async open(site) {
    const { script, binary } = site.runtime;
    const [code, wasm, model] = await Promise.all([
      bytes(script.url, script.integrity),
      bytes(binary.url, binary.integrity),
      bytes(site.net.file, site.net.integrity),
    ]);
    // Imported from memory: what was checked is what runs. The address stays valid for the runtime's threads.
    const ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    ort.env.wasm.wasmBinary = wasm.buffer;
    ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(navigator.hardwareConcurrency, 4) : 1;
    ort.env.wasm.proxy = location.protocol !== "file:"; // in a worker, so that the page stays responsive
    ort.env.logLevel = "error";
    return new Net(ort, await ort.InferenceSession.create(model, { executionProviders: ["wasm"] }), site);
  }

  /**
   * Compute layers of some patches, one call at a time: for each name, float32 [patches, ...shape of the layer].
   * @param {Float32Array} patches [patches, 3, patch, patch]
   * @param {string[]} names
   * @param {Switches} switches
   * @returns {Promise<Record<string, Float32Array>>}
   */
  async run(patches, names, switches) {
    const { Tensor } = this.ort;
    const p = this.site.preprocessing.patch;
    /** @type {Record<string, unknown>} */
    const feeds = { patches: new Tensor("float32", patches, [patches.length / (3 * p * p), 3, p, p]) };
    if (this.site.lrn) feeds["switch.lrn"] = new Tensor("bool", [switches.lrn], []);
    if (this.site.columns > 1) {
      const factors = Float32Array.from(switches.columns, Number);
      feeds["switch.columns"] = new Tensor("float32", factors, [this.site.columns]);
    }
    const outputs = await this.session.run(feeds, names);
    await new Promise((done) => setTimeout(done)); // without a worker: first what happened meanwhile
    return Object.fromEntries(names.map((name) => [name, outputs[name].data]));
  }
}

/**
 * The mean over the views: float32 [classes].
 * @param {Float32Array} probabilities [views, classes]
 * @param {number} classes
 */
export function meanOverViews(probabilities, classes) {
  const views = probabilities.length / classes;
  return Float32Array.from({ length: classes }, (_, i) => {
    let sum = 0;
    for (let v = 0; v < views; v++) sum += probabilities[v * classes + i];
    return sum / views;
  });
}

/** The indices of the `count` largest values, the largest first; of equal ones, the lower index first. */
export function largest(/** @type {ArrayLike<number>} */ values, /** @type {number} */ count) {
  const order = Array.from(values, (_, i) => i).sort((a, b) => values[b] - values[a] || a - b);
  return order.slice(0, count);
}
