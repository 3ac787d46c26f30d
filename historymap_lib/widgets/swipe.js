// A slider as wide as the map: left of it the photo shows, right of it what lies under the photo.
// The photo is clipped in the browser, so nothing goes to Python; and the map tells Python no mouse moves, only clicks.
function render({ el }) {
  el.classList.add("historymap", "hm-swipe");
  el.innerHTML = `<label><span>then</span>
    <input type="range" min="0" max="1" step="0.005" value="1" aria-label="Swipe between the photo and today">
    <span>now</span></label>`;
  const slider = el.querySelector("input");
  slider.dataset.lmSuppressShortcuts = "true";
  const line = document.createElement("div");
  line.className = "hm-swipe-line";
  let box = null;
  let moved = null;

  const clip = () => {
    const pane = box?.querySelector(".leaflet-photo-pane");
    const map = box?.querySelector(".leaflet-map-pane");
    if (!pane || !map) return;
    const share = Number(slider.value);
    line.hidden = share >= 1;
    line.style.left = `${100 * share}%`;
    if (share >= 1) {
      pane.style.clipPath = "";
      return;
    }
    // the pane moves with the map, the line does not
    const { m41: x, m42: y } = new DOMMatrix(getComputedStyle(map).transform);
    const [left, top, right, bottom] = [-x, -y, share * box.clientWidth - x, box.clientHeight - y];
    pane.style.clipPath = `path("M${left} ${top}H${right}V${bottom}H${left}Z")`;
  };
  const quiet = (event) => {
    if (!event.buttons) event.stopPropagation();
  };
  // the map appears when it likes
  const look = () => {
    const found = el.closest(".hm-annotate")?.querySelector(".leaflet-container");
    if (!found || found === box || !found.querySelector(".leaflet-map-pane")) return;
    moved?.disconnect();
    box = found;
    box.append(line);
    box.addEventListener("mousemove", quiet, true);
    moved = new MutationObserver(clip);
    moved.observe(box.querySelector(".leaflet-map-pane"), { attributes: true, attributeFilter: ["style"] });
    clip();
  };
  slider.addEventListener("input", clip);
  const timer = setInterval(look, 250);
  return () => {
    clearInterval(timer);
    moved?.disconnect();
    line.remove();
    box?.removeEventListener("mousemove", quiet, true);
  };
}

export default { render };
