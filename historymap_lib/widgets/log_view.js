// The log of a job: keeps to the end unless the person has scrolled up, filters, and hands the whole file out.
const BAR = `
  <input type="search" placeholder="filter the lines" aria-label="Show only lines that hold this text">
  <button type="button" class="hm-end">to the end</button>
  <button type="button" class="hm-download">download all</button>
  <span class="hm-note" role="status"></span>`;

function render({ model, el }) {
  const name = Math.random().toString(36).slice(2); // two views of one log must not both save the file
  el.classList.add("historymap", "hm-log");
  el.addEventListener("focusin", (event) => (event.target.dataset.lmSuppressShortcuts = "true")); // as in view.js
  const bar = document.createElement("div");
  bar.className = "hm-log-bar";
  bar.innerHTML = BAR;
  const [filter, end, download, note] = bar.children;
  const pane = document.createElement("pre");
  pane.tabIndex = 0;
  pane.setAttribute("role", "log");
  pane.setAttribute("aria-live", "off"); // thousands of lines read aloud help nobody; the state of the job is announced
  pane.setAttribute("aria-label", "Output of the job");
  el.append(bar, pane);
  let follows = true;
  let pieces = [];

  const follow = () => {
    follows = pane.scrollTop + pane.clientHeight >= pane.scrollHeight - 4;
    end.hidden = follows;
  };
  const show = () => {
    const wanted = filter.value.toLowerCase();
    const lines = model.get("lines");
    const kept = wanted
      ? lines.filter((line) => line.replace(/<[^>]*>/g, "").toLowerCase().includes(wanted))
      : lines;
    const above = pane.scrollTop;
    pane.innerHTML = kept.join("\n");
    pane.scrollTop = follows ? pane.scrollHeight : Math.max(0, above - moved(kept));
    note.textContent = wanted ? `${kept.length} of the last ${lines.length} lines` : model.get("note");
    end.hidden = follows;
    last = { first: model.get("first"), top: kept.length };
  };
  let last = { first: model.get("first"), top: 0 };
  // who reads further up goes on reading there, though lines have gone at the top
  const moved = (kept) => {
    const gone = filter.value ? 0 : model.get("first") - last.first;
    return gone > 0 && kept.length ? (gone * pane.scrollHeight) / kept.length : 0;
  };
  const receive = (message, buffers) => {
    if (message.view !== name) return;
    pieces.push(...buffers.map((one) => one.buffer ?? one));
    if (!message.last) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(pieces, { type: "text/plain" }));
    link.download = message.file;
    link.click();
    pieces = [];
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  pane.addEventListener("scroll", follow);
  filter.addEventListener("input", show);
  end.addEventListener("click", () => {
    follows = true;
    show();
    pane.focus();
  });
  download.addEventListener("click", () => {
    pieces = []; // of one that broke off
    model.send({ action: "download", view: name });
  });
  model.on("change:lines", show);
  model.on("change:note", show);
  model.on("msg:custom", receive);
  show();
  return () => {
    model.off("change:lines", show);
    model.off("change:note", show);
    model.off("msg:custom", receive);
  };
}

export default { render };
