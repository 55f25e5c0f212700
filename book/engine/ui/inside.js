// Inside the network: what enters a quantizer, and what leaves it, for the reader's photograph. `photo` is the address of
// a small picture to begin with, `student` and `teacher` name two networks of one architecture.
function inside(root, { photo, student: name, teacher: fullName }) {
  const MOST = 64, COLORS = [[20, 33, 61], [0, 114, 178], [0, 158, 115], [240, 228, 66]];
  const part = name => root.querySelector(`[data-part=${name}]`), canvases = [...root.querySelectorAll("canvas")];
  const plot = histogram(part("plot"), null, 150);
  let networks, path = root.querySelector("[data-block]").dataset.block + ".input", seen, wanted = 0;

  function say(text) {
    part("message").textContent = text;
  }

  function middle(image) {
    const [width, height] = [image.width, image.height].map(size => Math.min(size, MOST));
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.putImageData(image, Math.floor((width - image.width) / 2), Math.floor((height - image.height) / 2));
    return context.getImageData(0, 0, width, height);
  }

  async function look(image) {
    const own = ++wanted;
    try {
      say("Loading both networks …");
      const ddtb = await engine();
      networks ??= await Promise.all([name, fullName].map(each => ddtb.load(each)));
      say("Looking …");
      const part = middle(image ?? await pixels(photo));
      await Promise.all(networks.map(network => network.upscale(part, { gates: true })));
      if (own === wanted) await visit();
    } catch (error) {
      say(error.message);
    }
  }

  // What the last run left at the chosen place.
  async function visit() {
    if (!networks) return look();
    const own = ++wanted, [student, teacher] = networks;
    try {
      const [values, full] = await Promise.all([student.activation(path), teacher.activation(path)]);
      if (own !== wanted) return;
      seen = { values, full, codes: student.codes(path), bounds: student.bounds(path), betas: student.betas(path), shape: student.shape };
      draw();
    } catch (error) {
      say(error.message);
    }
  }

  function draw() {
    const { values, full, codes, bounds, betas, shape } = seen, { channels } = shape, channel = Number(part("channel").value);
    const [mine, whole] = [values, full].map(all => all.filter((_, at) => at % channels === channel));
    const lowest = Math.min(...mine, ...whole), range = Math.max(...mine, ...whole) - lowest || 1;
    const gray = value => Array(3).fill(255 * (value - lowest) / range), steps = 2 ** bounds.bits - 1;
    paint(canvases[0], whole, gray);
    paint(canvases[1], mine, gray);
    paint(canvases[2], codes.filter((_, at) => at % channels === channel), code => mixed(code / steps));

    const some = values.length > 4000 ? Float32Array.from({ length: 4000 }, (_, at) => values[Math.floor(at * values.length / 4000)]) : values;
    const all = [...some, bounds.lower, bounds.upper], ends = [Math.min(...all), Math.max(...all)], margin = (ends[1] - ends[0]) / 20;
    plot.load(some, [ends[0] - margin, ends[1] + margin]);
    plot.draw(bounds.lower, bounds.upper, steps);

    const share = Array.from({ length: steps + 1 }, () => 0);
    for (const code of codes) share[code] += 100 / codes.length;
    part("legend").replaceChildren(...share.map((percent, code) => {
      const item = document.createElement("span"), level = Number(((code + bounds.offset) * bounds.step).toPrecision(3));
      item.style.setProperty("--color", `rgb(${mixed(code / steps)})`);
      item.textContent = `${level}: ${percent.toFixed(0)} %`.replace("-", "−");
      return item;
    }));
    part("place").textContent = `block ${Number(path.split(".")[1]) + 1}, ${path.split(".")[2]}`;
    part("bounds").textContent = `${bounds.lower.toFixed(2)} … ${bounds.upper.toFixed(2)}`.replaceAll("-", "−");
    part("gate").textContent = betas ? `${betas.lower.toFixed(2)}, ${betas.upper.toFixed(2)}` : "none here";
    part("channel").setAttribute("aria-valuetext", part("number").textContent = `${channel + 1} of ${channels}`);
    part("channel").max = channels - 1;
    say("One of the channels: in full precision, in the 2-bit network before its quantizer, and behind it.");
  }

  function paint(canvas, numbers, color) {
    const { width, height } = seen.shape, image = new ImageData(width, height);
    numbers.forEach((number, at) => image.data.set([...color(number), 255], 4 * at));
    Object.assign(canvas, { width, height }).getContext("2d").putImageData(image, 0, 0);
  }

  // Four colours at two bits; with more bits, those between them too.
  function mixed(share) {
    const at = share * (COLORS.length - 1), from = Math.min(Math.floor(at), COLORS.length - 2);
    return COLORS[from].map((value, channel) => Math.round(value + (COLORS[from + 1][channel] - value) * (at - from)));
  }

  function choose(button, kind) {
    for (const each of root.querySelectorAll(`[data-${kind}]`)) each.setAttribute("aria-pressed", each === button);
    path = `${root.querySelector("[data-block][aria-pressed=true]").dataset.block}.${root.querySelector("[data-point][aria-pressed=true]").dataset.point}`;
    visit();
  }

  for (const kind of ["block", "point"]) {
    for (const button of root.querySelectorAll(`[data-${kind}]`)) button.addEventListener("click", () => choose(button, kind));
  }
  part("channel").addEventListener("input", () => seen && draw());
  part("start").addEventListener("click", () => look());
  document.addEventListener("ddtb:photo", event => networks ? look(event.detail) : (photo = address(event.detail)));
  root.querySelector("img.stored").hidden = true;
  part("controls").hidden = false;
}
