// Shows the HTML that Python renders, and tells Python which button was pressed.
// The page is changed in place, so that focus, typed text and scrolling stay, and nothing flickers.
const KEPT = ["open", "data-lm-suppress-shortcuts"]; // what a person has unfolded, and what we set ourselves

function morph(from, to) {
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  for (const { name } of [...from.attributes])
    if (!to.hasAttribute(name) && !KEPT.includes(name)) from.removeAttribute(name);
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
  };
  let waiting = false; // for Python to answer: who presses twice wants it once
  const send = (element) => {
    if (waiting || element.getAttribute("aria-disabled") === "true") return;
    waiting = true;
    model.send({ ...element.dataset, values: values(element) });
  };
  const onMessage = (message) => {
    if (message.answered) waiting = false;
  };
  page.addEventListener("click", (event) => {
    const pressed = event.target.closest("button[data-action]");
    if (pressed) {
      event.preventDefault();
      send(pressed);
    }
  });
  page.addEventListener("submit", (event) => event.preventDefault());
  page.addEventListener("keydown", (event) => {
    // JupyterLab keeps Enter in a field from submitting its form
    if (event.key !== "Enter" || event.target.nodeName !== "INPUT" || event.isComposing) return;
    event.preventDefault();
    send(event.target.form.querySelector("[data-action]"));
  });
  model.on("change:html", show);
  model.on("msg:custom", onMessage);
  show();
  return () => {
    model.off("change:html", show);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
