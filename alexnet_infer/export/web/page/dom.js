// @ts-check
/** Elements of the page. */

/** @returns {any} */
export const $ = (/** @type {string} */ id) => document.getElementById(id);

/**
 * Return a new element. Names are set as text: none is read as markup.
 * @param {string} tag
 * @param {string} style
 * @param {...(Node | string)} content
 */
export function element(tag, style, ...content) {
  const made = document.createElement(tag);
  made.className = style;
  made.append(...content);
  return made;
}

/** Return a new button. */
export function button(/** @type {() => void} */ click, /** @type {string} */ style, /** @type {(Node | string)[]} */ ...content) {
  const made = element("button", style, ...content);
  made.setAttribute("type", "button");
  made.addEventListener("click", click);
  return made;
}

/** Show a message, or an error, which stays until the next message. */
export function say(/** @type {unknown} */ message, problem = false) {
  $("status").textContent = message instanceof Error ? message.message : String(message);
  $("status").classList.toggle("problem", problem);
}

/** A bar for a probability. Its number is beside it. */
export function bar(/** @type {number} */ probability) {
  const made = element("span", "bar");
  made.style.setProperty("--part", String(probability));
  made.setAttribute("aria-hidden", "true");
  return made;
}
