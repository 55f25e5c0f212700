// The quantizer lab. `samples` are [{values, domain, bounds: {bits: {method: [lower, upper, steps]}}, paths: {bits: {method:
// [[step, lower, upper], …]}}}], values as base64 of float32; everything that shows a number is computed here.
function lab(root, samples) {
  const part = name => root.querySelector(`[data-part=${name}]`);
  for (const each of samples) each.values = new Float32Array(Uint8Array.from(atob(each.values), letter => letter.charCodeAt(0)).buffer);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let sample, lower, upper, steps, bits, frame = 0;

  const plot = histogram(part("plot"), (name, value) => {
    if (name === "lower") move(Math.min(value, upper - gap()), upper);
    else move(lower, Math.max(value, lower + gap()));
  });
  const map = part("map") && errorMap(part("map"), (left, right) => move(left, Math.max(right, left + gap())));

  const gap = () => (sample.domain[1] - sample.domain[0]) / 200;

  function move(...to) {
    stop();
    [lower, upper] = to;
    show({ steps: 2 ** bits - 1 });
  }

  function show(changed = {}) {
    steps = changed.steps ?? steps;
    const used = plot.draw(lower, upper, steps), quantized = fakeQuantize(sample.values, lower, upper, steps);
    const clipped = sample.values.filter(value => value < lower || value > upper).length / sample.values.length;
    const error = meanSquare(sample.values, quantized) / meanSquare(sample.values), percent = share => `${(100 * share).toFixed(1)} %`;
    const told = {
      lower: number(lower), upper: number(upper), levels: `${used} of ${steps + 1}`, error: percent(error), clipped: percent(clipped),
    };
    for (const [name, text] of Object.entries(told)) part(name).textContent = text;
    map?.draw(lower, upper, told.error);
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

  // Where training took the bounds; which method's, if there are several, buttons say.
  function path() {
    const chosen = root.querySelector("[data-path][aria-pressed=true]")?.dataset.path, all = sample.paths[bits] ?? {};
    return all[chosen] ?? Object.values(all)[0];
  }

  // A trained pair of bounds walks its path again.
  function walk(position) {
    const [step, ...bounds] = path()[Math.min(position, path().length - 1)];
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
    const last = path().length - 1, start = performance.now();
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
    for (const button of root.querySelectorAll("[data-method]")) button.disabled = !(button.dataset.method in sample.bounds[bits]);
    for (const element of root.querySelectorAll("[data-path], [data-part=play], [data-part=walk]")) element.disabled = !path();
    if (path()) part("walk").max = path().length - 1;
    map?.load(sample.values, sample.domain, 2 ** bits - 1, sample.paths[bits] ?? {});
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
  for (const button of root.querySelectorAll("[data-path]")) {
    button.addEventListener("click", () => {
      stop();
      for (const each of root.querySelectorAll("[data-path]")) each.setAttribute("aria-pressed", each === button);
      part("walk").max = path().length - 1;
      walk(0);
    });
  }
  part("play")?.addEventListener("click", play);
  part("walk")?.addEventListener("input", event => { stop(); walk(Number(event.target.value)); });

  root.querySelector("img").hidden = true;
  root.querySelector(".controls").hidden = false;
  choose(0);
  setBits(Number(Object.keys(sample.bounds)[0]));
  place(Object.keys(sample.bounds[bits])[0]);
}
