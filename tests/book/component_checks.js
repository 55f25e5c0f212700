// What tests/test_components.py and tests/test_lab.py ask of a page.
globalThis.components = {
  // Where everything is that readers could see jump.
  layout() {
    const places = [...document.querySelectorAll("figure, .stage, select, button, canvas, #end")].map(element => {
      const { x, y, width, height } = element.getBoundingClientRect();
      return [x, y, width, height].map(Math.round).join();
    });
    return [document.documentElement.scrollHeight, scrollX, scrollY, ...places];
  },

  // Where the curtain is drawn, in percent: its line, and where the picture above is cut off.
  curtain() {
    const stage = document.querySelector(".stage"), line = stage.querySelector(".line").getBoundingClientRect();
    const { left, width } = stage.getBoundingClientRect();
    const cut = getComputedStyle(stage.querySelector(".after")).clipPath.match(/([\d.]+)%\)/)[1];
    return [100 * (line.left + line.width / 2 - left) / width, Number(cut)];
  },

  // The texts that an element shows one after the other.
  watch(element) {
    const seen = [];
    new MutationObserver(() => seen.at(-1) === element.textContent || seen.push(element.textContent))
      .observe(element, { childList: true });
    return seen;
  },

  // Rows of lower bound, upper bound and eight values, quantized; both as base64 of float32.
  quantized([rows, steps]) {
    const all = new Float32Array(Uint8Array.from(atob(rows), letter => letter.charCodeAt(0)).buffer), out = [];
    for (let i = 0; i < all.length; i += 10) out.push(...fakeQuantize(all.slice(i + 2, i + 10), all[i], all[i + 1], steps));
    return base64(new Uint8Array(Float32Array.from(out).buffer));
  },

  // Width, height and RGBA of a canvas.
  pixels(selector) {
    const canvas = document.querySelector(selector), { width, height } = canvas;
    return [width, height, base64(canvas.getContext("2d").getImageData(0, 0, width, height).data)];
  },
};

function base64(bytes) {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
