// Keys J and K go to the next and the previous part. The page is complete without this script.
const stops = [...document.querySelectorAll("h2, h3, h4")];
const hint = document.getElementById("keys");
hint.hidden = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  const tops = stops.map((stop) => Math.round(stop.getBoundingClientRect().top));
  let target;
  if (key === "j") target = stops.find((_, i) => tops[i] > 24);
  if (key === "k") target = stops.findLast((_, i) => tops[i] < -4) ?? document.querySelector("h1");
  if (!target) return;
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  target.scrollIntoView();
});
