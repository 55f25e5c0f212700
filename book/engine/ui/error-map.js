// A map of the error: the lower bound to the right, up to zero, the upper one upwards, from zero, and the darker the
// less. Pointer and arrow keys walk on it: `moved(lower, upper)` hears of it. `trails` are paths of bounds, by name.
function errorMap(place, moved) {
  const CELLS = 64, BUNCHES = 400, SHADES = 16, COLORS = ["#882255", "#e69f00"];
  place.classList.add("error-map");
  place.innerHTML = `<span data-axis="upper"></span>
    <div class="ground" role="group" tabindex="0"><canvas width="${CELLS}" height="${CELLS}"></canvas>
    <svg viewBox="0 0 100 100" aria-hidden="true"><g></g><circle class="here" r="3"/><circle class="here" r="3"/></svg></div>
    <span data-axis="lower"></span><ul></ul>`;
  const ground = place.querySelector(".ground"), canvas = place.querySelector("canvas"), marks = place.querySelectorAll(".here");
  let lowest, highest, shown;

  const x = lower => 100 * (1 - lower / lowest), y = upper => 100 * (1 - upper / highest);
  const tidy = value => Number(value.toPrecision(2)).toString().replace("-", "−");

  function load(values, domain, steps, trails) {
    [lowest, highest] = domain;
    const { means, counts } = bunched(values, domain), all = values.length * meanSquare(values);
    const errors = Float64Array.from({ length: CELLS ** 2 }, (_, cell) => {
      const lower = lowest * (1 - (cell % CELLS + 0.5) / CELLS), upper = highest * (1 - (Math.floor(cell / CELLS) + 0.5) / CELLS);
      return fakeQuantize(means, lower, upper, steps).reduce((sum, level, at) => sum + counts[at] * (level - means[at]) ** 2, 0) / all;
    });
    // Logarithmic shades, as lines of equal height are; from 1 on, where nothing would be as good, all is light.
    const least = Math.min(...errors, 0.9), image = new ImageData(CELLS, CELLS);
    errors.forEach((error, cell) => {
      const height = Math.min(Math.max(Math.log(error / least) / Math.log(1 / least), 0), 1);
      const shade = 40 + 205 * Math.round(height * SHADES) / SHADES;
      image.data.set([shade, shade, shade, 255], 4 * cell);
    });
    canvas.getContext("2d").putImageData(image, 0, 0);
    place.querySelector("[data-axis=upper]").textContent = `↑ upper bound, 0 to ${tidy(highest)}`;
    place.querySelector("[data-axis=lower]").textContent = `→ lower bound, ${tidy(lowest)} to 0`;
    place.querySelector("g").innerHTML = Object.values(trails).map(drawn).join("");
    place.querySelector("ul").innerHTML = Object.entries(trails).map(([name, path], index) => {
      const [, lower, upper] = path.at(-1), error = meanSquare(values, fakeQuantize(values, lower, upper, steps)) / meanSquare(values);
      return `<li style="--color:${COLORS[index]}">${name} rests at ${(100 * error).toFixed(1)} %</li>`;
    }).join("");
  }

  // Values that lie close together count as one: their mean, so many times.
  function bunched(values, [from, to]) {
    const sums = new Map(), counts = new Map();
    for (const value of values) {
      const bunch = Math.floor((value - from) / (to - from) * BUNCHES);
      sums.set(bunch, (sums.get(bunch) ?? 0) + value);
      counts.set(bunch, (counts.get(bunch) ?? 0) + 1);
    }
    return { means: Float32Array.from(sums, ([bunch, sum]) => sum / counts.get(bunch)), counts: [...counts.values()] };
  }

  // From a ring to a dot. Whoever trains one number alone walks on a line, which is dashed.
  function drawn(path, index) {
    const points = path.map(([, lower, upper]) => [x(lower), y(upper)]), [start, end] = [points[0], points.at(-1)];
    const turns = path.map(([, lower, upper]) => lower / upper), straight = Math.max(...turns) - Math.min(...turns) < 1e-3;
    const far = Math.min(lowest / (path[0][1] || -1e-9), highest / path[0][2]);
    const line = straight ? `<line class="only" x1="100" y1="100" x2="${x(far * path[0][1])}" y2="${y(far * path[0][2])}"/>` : "";
    return `${line}<g style="--color:${COLORS[index]}"><polyline class="trail" points="${points.map(point => point.join()).join(" ")}"/>
      <circle cx="${start[0]}" cy="${start[1]}" r="2.4"/><circle class="end" cx="${end[0]}" cy="${end[1]}" r="2"/></g>`;
  }

  function draw(lower, upper, error) {
    shown = { lower, upper };
    const inside = share => Math.min(Math.max(share, 0), 100);
    for (const mark of marks) {
      mark.setAttribute("cx", inside(x(lower)));
      mark.setAttribute("cy", inside(y(upper)));
    }
    ground.setAttribute("aria-label", `map of the error, at ${tidy(lower)} and ${tidy(upper)} ${error}; the arrow keys move both bounds`);
  }

  const walk = (lower, upper) => moved(Math.min(Math.max(lower, lowest), 0), Math.min(Math.max(upper, 0), highest));

  function follow(event) {
    const { left, top, width, height } = ground.getBoundingClientRect();
    walk(lowest * (1 - (event.clientX - left) / width), highest * (1 - (event.clientY - top) / height));
  }

  ground.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    event.preventDefault();
    ground.focus({ preventScroll: true, focusVisible: false });
    ground.setPointerCapture(event.pointerId);
    follow(event);
  });
  ground.addEventListener("pointermove", event => ground.hasPointerCapture(event.pointerId) && follow(event));
  ground.addEventListener("keydown", event => {
    const step = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key], size = event.shiftKey ? 10 : 1;
    if (!step) return;
    event.preventDefault();
    walk(shown.lower + size * step[0] * lowest / 100, shown.upper + size * step[1] * highest / 100);
  });
  return { load, draw };
}
