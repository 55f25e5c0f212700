// Two small windows that show the same real pixels of two canvases, wherever the pointer or the arrow keys lead them.
function lens(place, stage, canvases) {
  const SIDE = 20, frame = stage.querySelector(".frame"), windows = [...place.querySelectorAll("canvas")];
  let x = 0, y = 0;

  function move(toX, toY) {
    const { width, height } = canvases[0], wide = Math.min(SIDE, width), high = Math.min(SIDE, height);
    x = Math.round(Math.min(Math.max(toX, 0), width - wide));
    y = Math.round(Math.min(Math.max(toY, 0), height - high));
    windows.forEach((window, index) => {
      Object.assign(window, { width: wide, height: high });
      window.getContext("2d").drawImage(canvases[index], x, y, wide, high, 0, 0, wide, high);
    });
    const percent = (part, whole) => `${100 * part / whole}%`;
    Object.assign(frame.style, { left: percent(x, width), top: percent(y, height), width: percent(wide, width), height: percent(high, height) });
    place.setAttribute("aria-label", `lens on ${wide}×${high} pixels from ${x}, ${y}; the arrow keys move it`);
  }

  stage.addEventListener("pointermove", event => {
    const box = stage.getBoundingClientRect();
    const at = (event.clientX - box.left) / box.width * canvases[0].width, down = (event.clientY - box.top) / box.height * canvases[0].height;
    move(at - SIDE / 2, down - SIDE / 2);
  });
  place.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] }[event.key];
    if (!step) return;
    event.preventDefault();
    move(x + step[0], y + step[1]);
  });
  // Where the two differ most.
  function seek() {
    const { width, height } = canvases[0], [one, other] = canvases.map(canvas =>
      canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, width, height).data);
    const columns = Math.ceil(width / SIDE), different = new Float64Array(columns * Math.ceil(height / SIDE));
    for (let at = 0; at < one.length; at += 4) {
      const pixel = at / 4, block = Math.floor(Math.floor(pixel / width) / SIDE) * columns + Math.floor(pixel % width / SIDE);
      different[block] += (one[at] - other[at]) ** 2 + (one[at + 1] - other[at + 1]) ** 2 + (one[at + 2] - other[at + 2]) ** 2;
    }
    const block = different.indexOf(Math.max(...different));
    move(SIDE * (block % columns), SIDE * Math.floor(block / columns));
  }

  return { draw: () => move(x, y), begin: () => move(0, 0), seek };
}
