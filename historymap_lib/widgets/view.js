// Shows the HTML that Python renders, and tells Python which button was pressed.
// The page is changed in place, so that focus, typed text and scrolling stay, and nothing flickers.
function morph(from, to) {
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  for (const { name } of [...from.attributes])
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name); // what a person has unfolded stays so
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
  for (const { name, type, checked, value } of form?.elements ?? [])
    if (name) found[name] = type === "checkbox" ? checked : value;
  return found;
}

function render({ model, el }) {
  el.classList.add("historymap");
  el.dataset.lmSuppressShortcuts = "true"; // Enter and letters belong to us here, not to the notebook
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
  model.on("change:html", show);
  model.on("msg:custom", onMessage);
  show();
  return () => {
    model.off("change:html", show);
    model.off("msg:custom", onMessage);
  };
}

export default { render };
