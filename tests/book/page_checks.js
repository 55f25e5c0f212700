// What tests/test_book.py asks of a page. Each function returns the list of what is wrong with it.
globalThis.checks = {
  imagesWithoutText() {
    return [...document.images].filter(image => {
      const alt = (image.getAttribute("alt") || "").trim();
      if (image.closest(".navbar-brand")) return false; // the logo stands beside the title that it would repeat
      return !alt || alt.includes("_images/") || image.currentSrc.endsWith(alt); // a file name says nothing
    }).map(image => image.currentSrc.slice(0, 90));
  },

  async imagesNotShown() {
    const found = [];
    for (const image of document.images) {
      image.loading = "eager";
      await image.decode().catch(() => null);
      if (!image.naturalWidth) found.push(image.currentSrc.slice(0, 90));
    }
    return found;
  },

  rawMaths() {
    const expected = document.querySelectorAll(".math").length;
    const shown = document.querySelectorAll("mjx-container").length;
    const errors = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(e => e.textContent);
    return shown < expected ? [`${shown} of ${expected} equations are set`, ...errors] : errors;
  },

  rawTables() {
    return [...document.querySelectorAll(".bd-article p")].map(p => p.textContent).filter(text => /\|\s*:?-+:?\s*\|/.test(text))
      .map(text => text.slice(0, 60));
  },

  overflow() {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const right = element => Math.round(element.getBoundingClientRect().right);
    const scrolls = element => element &&
      (getComputedStyle(element).overflowX !== "visible" || scrolls(element.parentElement.closest(".bd-article *")));
    return [...document.querySelectorAll(".bd-article *")]
      .filter(element => right(element) > width + 1 && !scrolls(element))
      .map(element => `${describe(element)} reaches ${right(element)} px`)
      .slice(0, 4)
      .concat(`the page is ${document.documentElement.scrollWidth} px wide`);
  },

  // Text whose contrast with what lies behind it is below WCAG's 4.5, or 3 if it is large.
  illegible() {
    const found = new Map();
    for (const element of document.querySelectorAll(".bd-article *")) {
      if (element.closest("svg, mjx-assistive-mml, .headerlink, button")) continue;
      const words = [...element.childNodes].filter(n => n.nodeType === Node.TEXT_NODE).map(n => n.data).join("").trim();
      if (!words || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const style = getComputedStyle(element);
      const size = parseFloat(style.fontSize);
      const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
      const ratio = contrast(element, style.color);
      if (ratio < (large ? 3 : 4.5)) found.set(describe(element), `${ratio.toFixed(2)} '${words.slice(0, 30)}'`);
    }
    return [...found].map(([place, what]) => `${place} ${what}`).slice(0, 8);
  },

  // Explorers in which a moved slider changes neither picture nor text.
  deadExplorers() {
    return [...document.querySelectorAll("figure.explorer, figure.swipe")].filter(figure => {
      const input = figure.querySelector("input[type=range]");
      if (!input) return true;
      const state = () => [
        figure.outerHTML,
        ...[...figure.querySelectorAll("output")].map(output => output.value),
        ...[...figure.querySelectorAll("img, svg")].map(picture => {
          const { clipPath, display, width } = getComputedStyle(picture);
          return [picture.currentSrc, clipPath, display, width].join();
        }),
      ].join("\n");
      const before = state();
      const step = Number(input.step) || 1;
      const up = Number(input.value) + step <= Number(input.max);
      input.value = Number(input.value) + (up ? step : -step);
      input.dispatchEvent(new Event("input", { bubbles: true }));
      input.dispatchEvent(new Event("change", { bubbles: true }));
      return state() === before;
    }).map(figure => figure.id || figure.innerText.slice(0, 60));
  },
};

function describe(element) {
  const classes = [...element.classList].map(name => `.${name}`).join("");
  return element.tagName.toLowerCase() + classes;
}

// Any CSS colour, also a mixed or transparent one, is painted onto a pixel and read back.
function paint(colours) {
  paint.canvas ??= new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  for (const colour of colours) {
    paint.canvas.fillStyle = colour;
    paint.canvas.fillRect(0, 0, 1, 1);
  }
  return paint.canvas.getImageData(0, 0, 1, 1).data;
}

function luminance([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map(value => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(element, colour) {
  const layers = ["white"];
  for (let e = element; e; e = e.parentElement) layers.splice(1, 0, getComputedStyle(e).backgroundColor);
  const [a, b] = [luminance(paint(layers)), luminance(paint([...layers, colour]))];
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}
