// Runs beside the page, in a test only: measures what a reader sees and writes it down as JSON.
window.addEventListener("load", () => {
  const frame = document.getElementById("page");
  const view = frame.contentWindow, page = frame.contentDocument;
  const all = (selector) => [...page.querySelectorAll(selector)];
  const box = (element) => element.getBoundingClientRect();
  const folded = all("details:not([open])");
  folded.forEach((element) => { element.open = true; });

  const color = (text) => {
    const parts = (text.match(/[\d.]+/g) || []).map(Number);
    return { rgb: parts.slice(0, 3), alpha: parts.length > 3 ? parts[3] : 1 };
  };
  const luminance = (rgb) => {
    const linear = rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const background = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = color(view.getComputedStyle(at).backgroundColor);
      if (found.alpha === 1) return found.rgb;
    }
    return [255, 255, 255];
  };
  const contrast = (element) => {
    const style = view.getComputedStyle(element);
    const ink = color(element instanceof view.SVGElement ? style.fill : style.color).rgb;
    const [a, b] = [luminance(ink), luminance(background(element))];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };

  const texts = [];
  const walker = page.createTreeWalker(page.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.textContent.trim() && box(element).width > 0) {
      texts.push({ contrast: contrast(element), text: element.textContent.slice(0, 60) });
    }
  }
  const worst = texts.reduce((a, b) => (b.contrast < a.contrast ? b : a), { contrast: 21, text: "" });
  const heat = all(".heat"), lines = all("polyline");
  const visible = (element) => box(element).width > 0 && box(element).height > 0;
  const drawn = (element) => box(element).width > 0 || box(element).height > 0;
  const root = page.scrollingElement;
  const outside = all("body *").filter((e) => box(e).right > root.clientWidth + 0.5 && !e.closest(".scroll"));
  const facts = {
    innerWidth: view.innerWidth,
    clientWidth: root.clientWidth,
    scrollWidth: root.scrollWidth,
    overflowing: outside.slice(0, 5).map((e) => e.outerHTML.slice(0, 120)),
    sections: all("section").map((e) => ({ width: box(e).width, height: box(e).height })),
    heatCells: heat.length,
    heatCellsVisible: heat.filter(visible).length,
    heatColors: new Set(heat.map((e) => view.getComputedStyle(e).backgroundColor)).size,
    polylines: lines.length,
    polylinesVisible: lines.filter(drawn).length,
    scrollingBoxes: all(".scroll").filter((e) => e.scrollWidth > e.clientWidth).length,
    texts: texts.length,
    leastContrast: worst.contrast,
    leastContrastText: worst.text,
    leastHeatContrast: Math.min(21, ...heat.map(contrast)),
  };
  // As tall as a reader finds it, before unfolding anything.
  folded.forEach((element) => { element.open = false; });
  facts.height = root.scrollHeight;
  document.getElementById("facts").textContent = JSON.stringify(facts);
});
