// The idea in ten seconds: a photograph at two bits, computed here, and two bounds on real activations. Moving them
// moves the bounds of every quantizer of the network by the same share of its own range, and the photograph answers.
function hero(root, { network: name, path, start, values, domain, versions, live, small, scale }) {
  const part = name => root.querySelector(`[data-part=${name}]`), choices = root.querySelectorAll("[data-bounds]");
  const sample = new Float32Array(Uint8Array.from(atob(values), letter => letter.charCodeAt(0)).buffer), steps = 3;
  const gap = (domain[1] - domain[0]) / 100;
  let [lower, upper] = start, mirrored = false, network, picture, truth, waiting = false, running = false;
  swipe(root.querySelector(".swipe"), versions);

  const plot = histogram(part("plot"), (bound, value) => {
    if (mirrored) {
      upper = Math.max(Math.abs(value), gap);
      lower = -upper;
    } else if (bound === "lower") lower = Math.min(value, upper - gap);
    else upper = Math.max(value, lower + gap);
    show();
  }, 150);

  function show() {
    const used = plot.draw(lower, upper, steps), quantized = fakeQuantize(sample, lower, upper, steps);
    part("levels").textContent = `${used} of ${steps + 1}`;
    part("error").textContent = `${(100 * meanSquare(sample, quantized) / meanSquare(sample)).toFixed(0)} %`;
    waiting = true;
    compute();
  }

  // Every quantizer's bounds, moved as those on the histogram were.
  function moved() {
    const width = start[1] - start[0], down = (lower - start[0]) / width, up = (upper - start[1]) / width;
    return Object.fromEntries(Object.entries(network.facts.trained).map(([each, own]) => {
      const range = own.upper - own.lower, limit = Math.max(Math.abs(own.lower), Math.abs(own.upper));
      if (mirrored) return [each, [-limit * upper / largest(), limit * upper / largest()]];
      const pair = [own.lower + down * range, own.upper + up * range];
      return [each, pair[0] < pair[1] ? pair : [own.lower, own.upper]];
    }));
  }

  function largest() {
    return Math.max(...start.map(Math.abs));
  }

  // One run at a time; of all moves in between, the last one counts.
  async function compute() {
    if (!network || running) return;
    running = true;
    while (waiting) {
      waiting = false;
      const began = performance.now();
      const result = await network.upscale(picture, { gates: false, bounds: moved() });
      versions[live][1] = address(result);
      for (const side of ["before", "after"]) {
        const menu = root.querySelector(`select.${side}`);
        if (Number(menu.value) === live) root.querySelector(`img.${side}`).src = versions[live][1];
      }
      tell(psnr(result, truth, scale), performance.now() - began);
    }
    running = false;
  }

  function tell(quality, milliseconds) {
    const gauge = part("gauge"), [from, to] = [gauge.dataset.bicubic, gauge.dataset.full].map(Number);
    gauge.style.setProperty("--at", `${100 * Math.min(Math.max((quality - from) / (to - from), -0.1), 1)}%`);
    part("quality").textContent = `${quality.toFixed(1)} dB`;
    part("status").textContent = `computed here in ${Math.round(milliseconds)} ms`;
  }

  for (const button of choices) {
    button.addEventListener("click", () => {
      mirrored = button.dataset.bounds === "one";
      [lower, upper] = mirrored ? [-largest(), largest()] : start;
      choices.forEach(each => each.setAttribute("aria-pressed", each === button));
      show();
    });
  }
  root.querySelector("img.stored").hidden = true;
  root.querySelector(".controls").hidden = false;
  plot.load(sample, domain);
  show();

  (async () => {
    try {
      const ddtb = await engine();
      [picture, truth] = await Promise.all([small, versions.at(-1)[1]].map(pixels));
      part("status").textContent = "loading the 2-bit network …";
      network = await ddtb.load(name);
      compute();
    } catch (error) {
      part("status").textContent = error.message;
    }
  })();
}
