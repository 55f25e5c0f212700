// The quantizer lab. `samples` are [{label, values, bounds: {bits: {method: [lower, upper, steps]}}, paths: {bits:
// [[step, lower, upper], …]}}], values as base64 of float32; everything that shows a number is computed here.
function lab(root, samples) {
  const part = name => root.querySelector(`[data-part=${name}]`);
  for (const each of samples) each.values = new Float32Array(Uint8Array.from(atob(each.values), letter => letter.charCodeAt(0)).buffer);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let sample, lower, upper, steps, bits, frame = 0;

  const plot = histogram(part("plot"), (name, value) => {
    const gap = (sample.domain[1] - sample.domain[0]) / 200;
    stop();
    if (name === "lower") lower = Math.min(value, upper - gap);
    else upper = Math.max(value, lower + gap);
    show({ steps: 2 ** bits - 1 });
  });

  function show(changed = {}) {
    steps = changed.steps ?? steps;
    const used = plot.draw(lower, upper, steps), quantized = fakeQuantize(sample.values, lower, upper, steps);
    const clipped = sample.values.filter(value => value < lower || value > upper).length / sample.values.length;
    const error = meanSquare(sample.values, quantized) / meanSquare(sample.values), percent = share => `${(100 * share).toFixed(1)} %`;
    const told = {
      lower: number(lower), upper: number(upper), levels: `${used} of ${steps + 1}`, error: percent(error), clipped: percent(clipped),
    };
    for (const [name, text] of Object.entries(told)) part(name).textContent = text;
    for (const button of root.querySelectorAll("[data-method]")) button.setAttribute("aria-pressed", button.dataset.method === changed.method);
  }

  function number(value) {
    return Number(value.toPrecision(3)).toString().replace("-", "−");
  }

  function place(method) {
    [lower, upper, steps] = sample.bounds[bits][method];
    show({ method });
  }

  function choose(index) {
    sample = samples[index];
    plot.load(sample.values, sample.domain);
  }

  // A trained pair of bounds walks its path again.
  function walk(position) {
    const path = sample.paths[bits], [step, ...bounds] = path[Math.min(position, path.length - 1)];
    [lower, upper] = bounds;
    part("walk").value = position;
    part("walk").setAttribute("aria-valuetext", part("step").textContent = `step ${step}`);
    show({ steps: 2 ** bits - 1 });
  }

  function stop() {
    cancelAnimationFrame(frame);
    frame = 0;
    if (part("play")) part("play").textContent = "play";
  }

  function play() {
    if (frame) return stop();
    const last = sample.paths[bits].length - 1, start = performance.now();
    if (still.matches) return walk(last);
    part("play").textContent = "stop";
    frame = requestAnimationFrame(function next(now) {
      const position = Math.min(Math.max(Math.floor((now - start) / 40), 0), last);
      walk(position);
      if (position < last) frame = requestAnimationFrame(next);
      else stop();
    });
  }

  function setBits(to) {
    bits = to;
    for (const button of root.querySelectorAll("[data-bits]")) button.setAttribute("aria-pressed", Number(button.dataset.bits) === bits);
    if (part("walk")) part("walk").max = sample.paths[bits].length - 1;
  }

  part("sample")?.addEventListener("change", event => {
    stop();
    choose(event.target.value);
    setBits(bits);
    place(Object.keys(sample.bounds[bits])[0]);
  });
  for (const button of root.querySelectorAll("[data-bits]")) {
    button.addEventListener("click", () => {
      const method = root.querySelector("[data-method][aria-pressed=true]")?.dataset.method;
      stop();
      setBits(Number(button.dataset.bits));
      if (method) place(method);
      else show({ steps: 2 ** bits - 1 });
    });
  }
  for (const button of root.querySelectorAll("[data-method]")) button.addEventListener("click", () => { stop(); place(button.dataset.method); });
  part("play")?.addEventListener("click", play);
  part("walk")?.addEventListener("input", event => { stop(); walk(Number(event.target.value)); });

  root.querySelector("img").hidden = true;
  root.querySelector(".controls").hidden = false;
  choose(0);
  setBits(Number(Object.keys(sample.bounds)[0]));
  place(Object.keys(sample.bounds[bits])[0]);
}
