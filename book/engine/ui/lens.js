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
  // It begins where neither the curtain's line nor its knob are.
  return { draw: () => move(x, y), begin: () => move(0.65 * canvases[0].width, 0.3 * canvases[0].height) };
}
