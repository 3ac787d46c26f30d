// Returns what is wrong with the panels on the page: text of too little contrast, controls without a name, overflow.
() => {
  const problems = [];
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return { rgb: [r, g, b], alpha: a / 255 };
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const { rgb, alpha } = parse(getComputedStyle(one).backgroundColor);
      if (alpha > 0.99) return rgb;
    }
    return [255, 255, 255];
  };
  // WCAG 2.2, relative luminance
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [light, dark] = [luminance(one), luminance(other)].sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  for (const panel of document.querySelectorAll(".historymap")) {
    if (panel.scrollWidth > panel.clientWidth + 1) problems.push(`${panel.className} overflows`);
    for (const element of panel.querySelectorAll("*")) {
      const words = [...element.childNodes].some((node) => node.nodeType === 3 && node.nodeValue.trim());
      if (!words || !element.checkVisibility() || element.closest(".hm-hidden")) continue;
      const style = getComputedStyle(element);
      const ratio = contrast(parse(style.color).rgb, ground(element));
      if (ratio < 4.5) problems.push(`contrast ${ratio.toFixed(1)} of "${element.textContent.trim().slice(0, 40)}"`);
    }
    for (const element of panel.querySelectorAll("button, input, progress, [role=img], pre[tabindex]")) {
      const named = element.getAttribute("aria-label") || element.textContent.trim() || element.labels?.[0]?.textContent.trim();
      if (!named) problems.push(`no name: ${element.outerHTML.slice(0, 80)}`);
    }
  }
  return problems;
};
