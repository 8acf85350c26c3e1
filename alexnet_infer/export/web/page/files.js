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
  try {
    const response = await fetch(name, integrity ? { integrity } : {});
    if (response.ok) return new Uint8Array(await response.arrayBuffer());
  } catch {
    // Of another content, or not there at all: the next request tells which.
  }
  const answer = await fetch(name, { method: "HEAD" }).catch(() => null);
  if (!answer) throw new Error(`${name} can't be loaded: its server can't be reached.`);
  if (!answer.ok) throw new Error(`${name} can't be loaded: the server answers ${answer.status}.`);
  throw new Error(`${name} is not the file that this page expects: its hash differs, or it was cut off.`);
}
