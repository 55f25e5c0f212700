// Two bounds that learn, played step by step. `data` is {values, domain, steps, path: [[lower, upper, push on lower, push on
// upper], …]}, values as base64 of float32; levels and errors are computed here.
function trembling(root, { values, domain, steps, path }) {
  const part = name => root.querySelector(`[data-part=${name}]`), PAUSE = 125, PUSHES = 30, WAY = 120, REACH = 70;
  values = new Float32Array(Uint8Array.from(atob(values), letter => letter.charCodeAt(0)).buffer);
  const plot = histogram(part("plot"), null, 190), last = path.length - 1, variance = meanSquare(values);
  const inSteps = path.map(([lower, upper]) => steps * lower / (upper - lower));
  const most = Math.max(...path.flatMap(([, , ...pushes]) => pushes.map(Math.abs)));
  const low = Math.min(...inSteps) - 0.03, high = Math.max(...inSteps) + 0.03;
  let timer = 0, shown = last;

  // An arrow at each bound, the longer the harder it is pushed.
  function pushes(lower, upper, ...forces) {
    const width = part("pushes").clientWidth, arrows = [lower, upper].map((bound, index) => {
      const x = (bound - domain[0]) / (domain[1] - domain[0]) * width, reach = REACH * forces[index] / most, side = Math.sign(reach);
      const end = x + reach, name = index ? "upper" : "lower", tip = 6 * side;
      return `<path class="push ${name}" d="M${x} 18H${end}"/><path class="push ${name}" stroke="none" d="M${end + tip} 18L${end - tip / 3} 12V24Z"/>`;
    });
    part("pushes").innerHTML = `<svg width="100%" height="${PUSHES}" aria-hidden="true">${arrows.join("")}</svg>`;
  }

  // The lower bound in steps; between two ties, the number of the lowest level.
  function way(now) {
    const width = part("way").clientWidth, x = step => 8 + step / last * (width - 16), y = value => (high - value) / (high - low) * WAY, sides = [];
    for (let lowest = Math.round(low) - 1; lowest <= Math.round(high) + 1; lowest++) {
      const top = Math.max(y(lowest + 0.5), 0), height = Math.min(y(lowest - 0.5), WAY) - top;
      if (height <= 0) continue;
      sides.push(`<rect class="side${lowest % 2 ? " odd" : ""}" y="${top}" width="100%" height="${height}"/>`);
      if (height > 18) sides.push(`<text x="${width - 6}" y="${top > 0 ? top + height - 6 : 14}" text-anchor="end">lowest level ${signed(lowest)}</text>`);
      if (top > 0) sides.push(`<line class="tie" x2="100%" y1="${top}" y2="${top}"/><text x="6" y="${top - 5}">tie, ${signed(lowest + 0.5)}</text>`);
    }
    const line = inSteps.map((value, step) => `${step ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    part("way").innerHTML = `<svg role="img" width="100%" height="${WAY}" aria-label="lower bound in steps, over the steps of training: now ${signed(inSteps[now].toFixed(2))}">
      ${sides.join("")}<text x="6" y="${WAY - 6}">lower bound, in steps</text><path class="way" d="${line}"/><circle class="now" cx="${x(now)}" cy="${y(inSteps[now])}" r="6"/></svg>`;
  }

  function signed(value) {
    return String(value).replace("-", "−");
  }

  function show(step) {
    shown = step;
    const [lower, upper, ...forces] = path[step], bounds = grid(lower, upper, steps);
    plot.draw(lower, upper, steps);
    pushes(lower, upper, ...forces);
    way(step);
    const error = meanSquare(values, fakeQuantize(values, lower, upper, steps)) / variance;
    const told = {
      lower: signed(lower.toFixed(1)), upper: signed(upper.toFixed(1)), levels: `${signed(bounds.lowest)} … ${signed(bounds.highest)}`, error: `${(100 * error).toFixed(1)} %`,
      step: `step ${step}`,
    };
    for (const [name, text] of Object.entries(told)) part(name).textContent = text;
    part("walk").value = step;
    part("walk").setAttribute("aria-valuetext", `step ${step}, levels ${told.levels}`);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    part("play").textContent = "play";
  }

  function play(from) {
    stop();
    part("play").textContent = "pause";
    show(from);
    timer = setInterval(() => shown < last ? show(shown + 1) : stop(), PAUSE);
  }

  part("play").addEventListener("click", () => timer ? stop() : play(shown < last ? shown : 0));
  part("walk").addEventListener("input", event => { stop(); show(Number(event.target.value)); });
  root.querySelector("img").hidden = true;
  root.querySelector(".controls").hidden = false;
  plot.load(values, domain);
  show(last);
  new ResizeObserver(() => show(shown)).observe(part("way"));
  // It begins by itself, once, where it is seen whole and nobody has asked for less motion.
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    if (shown === last && !timer) play(0);
  }, { threshold: 0.9 });
  seen.observe(root);
}
