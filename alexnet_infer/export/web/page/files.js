// @ts-check
/** The files of this folder: fetched from its server, or held by the page itself (disk.html). */

/**
 * Return the bytes of a file.
 * @param {string} name its path in this folder, or its URL
 * @param {string} [integrity] its hash, as in <script integrity>; other content is refused
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function bytes(name, integrity) {
  const held = document.getElementById(`file:${name}`);
  if (held) return Uint8Array.from(atob(held.textContent ?? ""), (c) => c.charCodeAt(0));
  let response;
  try {
    response = await fetch(name, integrity ? { integrity } : {});
  } catch {
    const wrong = integrity ? ", or it is not the file that this page expects (its hash differs)" : "";
    throw new Error(`${name} can't be loaded${wrong}.`);
  }
  if (!response.ok) throw new Error(`${name} can't be loaded: the server answers ${response.status}.`);
  return new Uint8Array(await response.arrayBuffer());
}
