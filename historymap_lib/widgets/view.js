// Shows the HTML that Python renders, and tells Python which button was pressed.
// The page is changed in place, so that focus, typed text and scrolling stay, and nothing flickers.
// Buttons and fields say in the HTML what they are about:
//   data-action    what Python does when the button is pressed, or Enter in its form
//   data-again     may be pressed again before Python has answered
//   data-change    what Python does when the field has changed
//   data-shortcut  keys that press the button or go to the field, as long as nobody types
//   data-css       the variable of the style sheet that the field sets, for all panels around it
//   data-image     which of the pictures in `images` is shown
//   data-grid      arrows move the focus among the buttons in it
const KEPT = ["open", "data-lm-suppress-shortcuts"]; // what a person has unfolded, and what we set ourselves
const TYPED = "input:not([type=range], [type=checkbox], [type=button]), select, textarea";
const OWN_KEYS = { RANGE: /^(Arrow|Page|Home|End)/, OTHER: /^(Space|Enter)$/ }; // of a slider; of a button in focus

function morph(from, to) {
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  for (const { name } of [...from.attributes])
    if (!to.hasAttribute(name) && !KEPT.includes(name) && !(name === "src" && to.dataset.image)) from.removeAttribute(name);
  children(from, to);
}

function children(from, to) {
  const wanted = [...to.childNodes];
  const byKey = new Map([...from.children].filter((one) => one.dataset.key).map((one) => [one.dataset.key, one]));
  wanted.forEach((node, index) => {
    const known = byKey.get(node.dataset?.key);
    let place = from.childNodes[index];
    if (known && known !== place) {
      from.insertBefore(known, place ?? null);
      place = known;
    }
    if (!place) from.append(node);
    else if (place.nodeName !== node.nodeName || place.dataset?.key !== node.dataset?.key) {
      // a keyed node that is wanted further on must not be thrown away here
      if (place.dataset?.key) from.insertBefore(node, place);
      else place.replaceWith(node);
    } else if (node.nodeType === Node.ELEMENT_NODE) morph(place, node);
    else if (place.nodeValue !== node.nodeValue) place.nodeValue = node.nodeValue;
  });
  while (from.childNodes.length > wanted.length) from.lastChild.remove();
}

function values(element) {
  const form = element.closest("form");
  const found = {};
  for (const { name, type, checked, value, validity } of form?.elements ?? [])
    if (name) found[name] = type === "checkbox" ? checked : validity.badInput ? "no number" : value;
  return found;
}

// The keys that were pressed, by the name that the HTML uses; empty for those that belong to the browser.
function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return "";
  const name = event.key === " " ? "Space" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return event.shiftKey && name.length === 1 && name !== "/" ? `Shift+${name}` : name;
}

function moveFocus(grid, key) {
  const cells = [...grid.querySelectorAll("button")];
  const columns = cells.filter((one) => one.offsetTop === cells[0].offsetTop).length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const here = cells.indexOf(document.activeElement);
  cells[here < 0 ? 0 : Math.min(Math.max(here + step, 0), cells.length - 1)]?.focus();
}

function render({ model, el }) {
  el.classList.add("historymap");
  // Enter and letters belong to us here, not to the notebook, which looks at the element in focus alone
  el.addEventListener("focusin", (event) => (event.target.dataset.lmSuppressShortcuts = "true"));
  const page = document.createElement("div");
  el.append(page);
  const show = () => {
    const made = document.createElement("template");
    made.innerHTML = model.get("html");
    children(page, made.content);
    const images = model.get("images") ?? {};
    for (const image of page.querySelectorAll("img[data-image]")) {
      const source = images[image.dataset.image];
      if (source && image.getAttribute("src") !== source) image.src = source;
    }
    if (subject() !== asked) waiting = false;
  };
  // for Python to answer, or to show another building: who presses twice wants it once
  let waiting = false;
  let asked;
  const subject = () => page.querySelector("[data-building]")?.dataset.building;
  const send = (element, action = element.dataset.action) => {
    if (element.getAttribute("aria-disabled") === "true") return;
    if (waiting && !element.dataset.again && !element.dataset.change) return;
    waiting = !element.dataset.again;
    asked = subject();
    const focus = page.contains(document.activeElement) ? document.activeElement.dataset.building : undefined;
    model.send({ focus, ...element.dataset, action, values: values(element) });
  };
  const onMessage = (message) => {
    if (message.answered) waiting = false;
  };
  page.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (button) {
      event.preventDefault();
      send(button);
    }
  });
  page.addEventListener("change", (event) => {
    if (event.target.dataset.change) send(event.target, event.target.dataset.change);
  });
  page.addEventListener("input", (event) => {
    const { css } = event.target.dataset;
    if (css) scope().style.setProperty(css, event.target.value);
  });
  page.addEventListener("submit", (event) => event.preventDefault());
  page.addEventListener("keydown", (event) => {
    // JupyterLab keeps Enter in a field from submitting its form
    if (event.key !== "Enter" || event.target.nodeName !== "INPUT" || event.isComposing) return;
    event.preventDefault();
    if (event.target.dataset.change || event.target.dataset.shortcut) leave(event.target);
    else send(event.target.form.querySelector("[data-action]"));
  });

  // Keys and style are shared by all panels that stand together, such as a map and what is beside it.
  const scope = () => el.closest(".hm-annotate") ?? el;
  const leave = (field) => {
    field.blur();
    el.focus({ preventScroll: true });
  };
  const onKey = (event) => {
    const group = event.target.closest?.(".hm-annotate");
    if (!group || group !== scope() || event.defaultPrevented) return;
    if (event.target.matches(TYPED)) {
      if (event.key === "Escape" && el.contains(event.target)) leave(event.target);
      return;
    }
    const key = pressed(event);
    const grid = page.querySelector("[data-grid]");
    if (grid?.checkVisibility() && key.startsWith("Arrow") && event.target.type !== "range") {
      event.preventDefault();
      moveFocus(grid, key);
      return;
    }
    const own = event.target.type === "range" ? OWN_KEYS.RANGE : OWN_KEYS.OTHER;
    const wanted = [...page.querySelectorAll("[data-shortcut]")].find(
      (one) => one.dataset.shortcut.split(" ").includes(key) && one.checkVisibility()
    );
    const leaves = event.target.closest("button, summary, input") && own.test(key);
    if (!key || !wanted || (leaves && !(key === "Enter" && grid))) return;
    event.preventDefault();
    if (wanted.nodeName === "BUTTON") wanted.click();
    else wanted.focus();
  };
  // After a click on the map or on a button the keys go on working: the focus stays here, not with the notebook.
  const onPointer = (event) => {
    if (!page.querySelector("[data-shortcut]") || !el.checkVisibility()) return;
    const group = event.target.closest?.(".hm-annotate");
    if (!group || group !== scope() || event.target.closest(`${TYPED}, [type=range], [data-grid]`)) return;
    setTimeout(() => el.focus({ preventScroll: true }));
  };
  el.tabIndex = -1;
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerup", onPointer);
  model.on("change:html", show);
  model.on("change:images", show);
  model.on("msg:custom", onMessage);
  show();
  return () => {
    document.removeEventListener("keydown", onKey);
    document.removeEventListener("pointerup", onPointer);
    model.off("change:html", show);
    model.off("change:images", show);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
