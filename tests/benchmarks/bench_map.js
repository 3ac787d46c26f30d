// A stopwatch in the page: how long after an event of a person what it causes is seen there.
() => {
  const all = (what) => [...document.querySelectorAll(what)], map = () => document.querySelector(".hm-map");
  const box = (one) => one.getBoundingClientRect();
  const holds = ([x, y]) => (one) => ((at) => at.left <= x && x <= at.right && at.top <= y && y <= at.bottom)(box(one));
  const middle = (one) => ((at) => [at.left + at.width / 2, at.top + at.height / 2])(box(one));
  const first = () => document.querySelector(".hm-map path.hm-building:not(.hm-changed)");
  const checks = {
    tiles: () => all(".hm-map .leaflet-photo-pane img.leaflet-tile").length
      && !all(".hm-map .leaflet-photo-pane img.leaflet-tile:not(.leaflet-tile-loaded)").length,
    panel: (before) => ![before, undefined].includes(eye.building()) && all(".hm-map path.hm-chosen").length
      && all(".hm-judge img").some((one) => one.naturalWidth && one.dataset.image === eye.building()),
    recoloured: (place) => all(".hm-map path.hm-changed.hm-existed.hm-annotated").some(holds(place)),
    learned: (before) => eye.learned() !== before,
    peer: (place) => all(".leaflet-container path[fill='#00aa00']").some(holds(place)),
    drawn: (side) => {
      if (!map()) return false;
      const at = box(map()), right = side > 0 ? at.right : at.left + at.width / 4;
      if (first() !== eye.first && all(".hm-map path.hm-building").some((one) => box(one).width
        && holds(middle(one))(map()) && right - at.width / 4 <= middle(one)[0] && middle(one)[0] <= right)) return true;
      const far = document.querySelector(".hm-map img.leaflet-image-layer");
      return far?.src.includes("png") && far.complete && Math.abs(middle(far)[0] - middle(map())[0]) < 9;
    },
  };
  const eye = window.eye = {
    tasks: [], when: {},
    building: () => document.querySelector(".hm-building-head strong")?.textContent,
    learned: () => document.querySelector(".hm-legend .hm-learned")?.textContent ?? "",
    existed: () => Number(document.querySelector(".hm-legend strong").textContent.replaceAll(",", "")),
    chosen: () => middle(document.querySelector(".hm-map path.hm-chosen")),
    zoom: () => {
      const tile = document.querySelector(".hm-map .leaflet-photo-pane img.leaflet-tile-loaded");
      return Number(tile.src.match(/tiles\/\w+\/(\d+)/)[1]) + Math.round(Math.log2(box(tile).width / 256));
    },
    pick: (what, within, chance) => {
      const at = box(document.querySelector(within));
      const chosen = all(".hm-chosen").map((one) => one.getAttribute("d"));
      const found = all(what).filter((one) => {
        const [x, y] = middle(one), own = one.getBBox();
        return Math.abs(x - at.left - at.width / 2) < at.width * 0.35 && !chosen.includes(one.getAttribute("d"))
          && Math.abs(y - at.top - at.height / 2) < at.height * 0.35
          && one.isPointInFill(new DOMPoint(own.x + own.width / 2, own.y + own.height / 2));
      });
      return found.length ? middle(found[Math.floor(chance * found.length)]) : null;
    },
    watch: (kind, wanted) => {  // from the next event of a kind (none: from now), until each check holds
      const found = eye.found = {}, left = new Map(Object.entries(wanted));
      eye.when[kind] = kind ? 0 : performance.now();
      eye.first = first();  // another one, as soon as a view is drawn
      const look = () => {
        const begun = eye.when[kind] && performance.now() - eye.when[kind] > 8;  // the map has had the event too
        for (const [name, value] of begun ? left : []) if (checks[name](value)) {
          left.delete(name);
          const dom = performance.now() - eye.when[kind];
          requestAnimationFrame(() => setTimeout(() => {
            found[name] = [dom, performance.now() - eye.when[kind]];
            eye.done = Object.keys(found).length === Object.keys(wanted).length;
          }));
        }
        if (!left.size) changes.disconnect();
      };
      const changes = new MutationObserver(look);
      changes.observe(document, {subtree: true, childList: true, attributes: true});
      const frame = () => { look(); if (left.size) requestAnimationFrame(frame); };
      eye.done = false;
      frame();
    },
  };
  eye.served = () => performance.getEntriesByType("resource")
    .filter((one) => one.name.includes("/historymap/tiles/") && one.transferSize)  // not from the browser's cache
    .map((one) => [one.startTime, one.requestStart, one.responseEnd]);
  performance.setResourceTimingBufferSize(100000);
  const note = (list) => eye.tasks.push(...list.getEntries().map((one) => one.duration));
  new PerformanceObserver(note).observe({type: "longtask"});
  for (const kind of ["keydown", "pointerup"])
    document.addEventListener(kind, (event) => (eye.when[kind] ||= event.timeStamp), true);
}
