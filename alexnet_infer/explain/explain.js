// Keys J and K go to the next and the previous part. The page is complete without this script.
const stops = [...document.querySelectorAll("h2, h3, h4")];
const hint = document.getElementById("keys");
hint.hidden = false;
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const key = event.key.toLowerCase();
  const tops = stops.map((stop) => Math.round(stop.getBoundingClientRect().top));
  const top = document.querySelector("h1");
  let target;
  if (key === "j") target = stops.find((_, i) => tops[i] > 24);
  if (key === "k") target = stops.findLast((_, i) => tops[i] < -4) ?? top;
  if (!target) return;
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
  if (target === top) scrollTo(0, 0);
  else target.scrollIntoView();
});
