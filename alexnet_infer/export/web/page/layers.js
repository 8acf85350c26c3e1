// @ts-check
/** The panels of the layers. */

import { $, element } from "./dom.js";
import { drawMaps, drawUnits, extremes } from "./draw.js";

/** @typedef {import("./net.js").Layer} Layer */

const FEW = 18; // maps of a column that are drawn unless all are wanted

/**
 * Add the closed or open panel of a layer. Its pictures are drawn while it is open.
 * @param {Layer} layer
 * @param {() => void} opened called if it is opened without pictures
 */
export function addPanel(layer, opened) {
  const size = layer.shape.length > 1 ? `${layer.shape[0]} maps of ${layer.shape.slice(1).join(" x ")}` : `${layer.shape[0]} units`;
  const panel = element("details", "layer", element("summary", "", element("b", "", layer.name), ` ${size}`));
  panel.append(element("p", "hint", layer.about), element("p", "hint range"), element("div", "maps"));
  panel.dataset.layer = layer.name;
  panel.toggleAttribute("open", !layer.name.endsWith(":pre"));
  panel.addEventListener("toggle", () => panel.querySelector(".maps")?.childElementCount === 0 && opened());
  $("layers").append(panel);
}

/** The names of the layers whose panels are open. */
export function openLayers() {
  const open = /** @type {HTMLElement[]} */ ([...document.querySelectorAll("details.layer[open]")]);
  return open.map((panel) => panel.dataset.layer ?? "");
}

/**
 * Draw a layer's pictures, or remove those of an earlier photo if they were not computed.
 * @param {Layer} layer
 * @param {Float32Array | undefined} values
 * @param {number} apart the net's columns
 */
export function drawLayer(layer, values, apart) {
  const panel = document.querySelector(`[data-layer="${layer.name}"]`);
  const place = panel?.querySelector(".maps");
  const range = /** @type {HTMLElement} */ (panel?.querySelector(".range"));
  if (!values) {
    range.textContent = "";
    return place?.replaceChildren();
  }
  const { lowest, highest, top } = extremes(values);
  const said = `values from ${lowest.toPrecision(3)} to ${highest.toPrecision(3)}`;
  range.textContent = `V${said.slice(1)}.`;
  if (layer.shape.length === 1) {
    const canvas = picture(`${layer.name}: ${values.length} units, ${said}`);
    drawUnits(canvas, values, top);
    return place?.replaceChildren(canvas);
  }
  const columns = layer.columns ? apart : 1;
  const width = layer.shape[0] / columns;
  place?.replaceChildren(
    ...Array.from({ length: columns }, (_, i) => {
      const canvas = picture("");
      const most = $("all").checked ? width : Math.min(width, columns > 1 ? FEW : 2 * FEW);
      const maps = drawMaps(canvas, values, layer, [i * width, (i + 1) * width], most, top);
      const title = columns > 1 ? `Column ${i + 1}: ` : "";
      const part = values.subarray((i * values.length) / columns, ((i + 1) * values.length) / columns);
      const active = part.some((value) => value !== 0);
      const text = `${title}${most} of ${width} maps; ` +
        (active ? `most active: ${maps.slice(0, 6).join(", ")}` : "all of them are 0");
      canvas.setAttribute("aria-label", `${layer.name}, ${said}. ${text}`);
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
