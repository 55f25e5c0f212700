// The reader's own photograph, enlarged in the page. `ours` are [name, address] of small photographs, `networks`
// [label, name] of what can enlarge them besides bicubic.
function upscaler(root, { ours, networks, scale }) {
  const MOST_UNASKED = 512 * 512, MOST_DECODED = 50e6;
  const part = name => root.querySelector(`[data-part=${name}]`), view = part("view"), stage = view.querySelector(".stage");
  const canvases = ["before", "after"].map(side => stage.querySelector(`canvas.${side}`));
  const glass = lens(part("lens"), stage, canvases);
  const arrived = new Map();
  let image, sought, results = new Map(), choice = networks[0][0], other = "bicubic", running, link;
  swipe(view);

  function say(...sentences) {
    part("message").textContent = sentences.filter(Boolean).join(" ");
  }

  async function accept(file) {
    if (!file) return;
    running?.abort();
    try {
      const head = fileHead(new Uint8Array(await file.slice(0, 2 ** 20).arrayBuffer()));
      if (head.width * head.height > MOST_DECODED) throw Error(`A picture of ${head.width}×${head.height} pixels is more than a page can hold; cut out a part of it.`);
      const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" }).catch(() => {
        throw Error(`${file.name || "This"} is not a picture that this browser can read; try a PNG or a JPEG file.`);
      });
      take(overWhite(bitmap, head.notes), file.name, head.notes);
    } catch (error) {
      say(error.message);
    }
  }

  // Networks know no transparency.
  function overWhite(bitmap, notes) {
    const canvas = Object.assign(document.createElement("canvas"), { width: bitmap.width, height: bitmap.height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    let solid = true;
    for (let alpha = 3; solid && alpha < data.length; alpha += 4) solid = data[alpha] === 255;
    if (!solid) {
      notes.push("Where it is transparent, it is laid over white.");
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
    }
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  function take(pixels, name, notes = []) {
    const { width, height } = pixels, large = width * height * scale ** 2;
    part("ask").hidden = large <= MOST_UNASKED;
    if (large <= MOST_UNASKED) return begin(pixels, name, notes);
    say(`Enlarged, it will have ${scale * width}×${scale * height} pixels, which takes a while.`, ...notes);
    part("all").onclick = () => begin(pixels, name, notes);
    part("middle").onclick = () => begin(middle(pixels), name, notes);
  }

  function middle(pixels) {
    const side = Math.sqrt(MOST_UNASKED) / scale, [width, height] = [pixels.width, pixels.height].map(size => Math.min(size, side));
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.putImageData(pixels, Math.floor((width - pixels.width) / 2), Math.floor((height - pixels.height) / 2));
    return context.getImageData(0, 0, width, height);
  }

  function begin(pixels, name, notes) {
    image = pixels;
    image.name = (name || "picture").replace(/\.[^.]*$/, "");
    image.notes = notes;
    results = new Map([["bicubic", { image: bicubic(image, scale) }]]);
    part("ask").hidden = true;
    other = "bicubic";
    sought = false;
    root.querySelector("img.stored").hidden = true;
    stage.hidden = false;
    root.dispatchEvent(new CustomEvent("ddtb:photo", { bubbles: true, detail: image }));
    // The result's canvas stays empty until there is one; bicubic, below it, is there at once.
    paint(0, "bicubic");
    Object.assign(canvases[1], { width: 1, height: 1 });
    glass.begin();
    fit();
    compute();
  }

  // Each network once; one that did not arrive is asked for again.
  function loaded(name) {
    if (!arrived.has(name)) {
      const network = engine().then(ddtb => ddtb.load(name));
      arrived.set(name, network);
      network.catch(() => arrived.delete(name));
    }
    return arrived.get(name);
  }

  function label() {
    return choice === "bicubic" || part("gates").checked ? choice : `${choice}, gates off`;
  }

  async function compute() {
    running?.abort();
    if (!image) return;
    const wanted = label(), own = running = new AbortController(), { signal } = own, asked = image;
    if (results.has(wanted)) return finish(wanted, own);
    busy(true);
    say("Loading the network …");
    try {
      const network = await loaded(networks.find(([each]) => each === choice)[1]);
      if (own !== running) return;
      say(`Enlarging ${asked.width}×${asked.height} pixels …`);
      const onProgress = done => signal.aborted || (part("progress").value = done);
      const large = await network.upscale(asked, { gates: part("gates").checked, signal, onProgress });
      if (signal.aborted) return;
      results.set(wanted, { image: large, milliseconds: network.milliseconds, operations: network.facts.operations * asked.width * asked.height });
      finish(wanted, own);
    } catch (error) {
      if (own !== running) return; // something newer runs
      say(error.name === "AbortError" ? "Cancelled." : error.message);
      busy(false);
    }
  }

  function finish(wanted, own) {
    if (own !== running) return;
    busy(false);
    say(`${image.width}×${image.height} pixels became ${scale * image.width}×${scale * image.height}.`, ...image.notes);
    show(wanted);
  }

  function busy(is) {
    part("cancel").disabled = !is;
    part("progress").value = 0;
    root.setAttribute("aria-busy", is);
  }

  function paint(side, key) {
    const canvas = canvases[side], pixels = results.get(key).image;
    Object.assign(canvas, { width: pixels.width, height: pixels.height });
    canvas.getContext("2d", { willReadFrequently: true }).putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-label", key);
    for (const tag of root.querySelectorAll(`.tag.${canvas.classList[0]}`)) tag.textContent = key;
  }

  function show(wanted) {
    const { image: large, milliseconds, operations } = results.get(wanted);
    part("other").replaceChildren(...[...results.keys()].map(each => new Option(each, each, false, each === other)));
    paint(0, other);
    paint(1, wanted);
    part("time").textContent = milliseconds === undefined ? "–" : `${(milliseconds / 1000).toFixed(2)} s`;
    part("operations").textContent = operations === undefined ? "–" : `${(operations / 1e12).toFixed(2)} T`;
    part("size").textContent = `${large.width}×${large.height}`;
    canvases[1].toBlob(file => {
      URL.revokeObjectURL(link);
      link = part("download").href = URL.createObjectURL(file);
      part("download").download = `${image.name}, ${wanted}.png`;
    });
    fit();
    if (sought) glass.draw();
    else glass.seek();
    sought = true;
  }

  // As large as there is room for, in whole multiples of a pixel if it is enlarged.
  function fit() {
    const { width, height } = canvases[0], factor = Math.min(view.clientWidth / width, view.clientHeight / height);
    stage.style.width = `${width * (factor > 1 ? Math.floor(factor) : factor)}px`;
  }

  function press(buttons, pressed) {
    for (const button of buttons) button.setAttribute("aria-pressed", button === pressed);
  }

  const kinds = [...root.querySelectorAll("[data-kind]")];
  for (const button of kinds) {
    button.addEventListener("click", () => {
      choice = button.dataset.kind;
      press(kinds, button);
      part("gates").disabled = choice === "bicubic" || choice === "full precision";
      compute();
    });
  }
  for (const button of root.querySelectorAll("[data-photo]")) {
    button.addEventListener("click", async () => take(await pixels(ours[button.dataset.photo][1]), ours[button.dataset.photo][0]));
  }
  const input = root.querySelector("input[type=file]");
  input.addEventListener("change", () => accept(input.files[0]).finally(() => (input.value = "")));
  part("gates").addEventListener("change", compute);
  part("other").addEventListener("change", event => {
    other = event.target.value;
    paint(0, other);
    glass.draw();
  });
  part("cancel").addEventListener("click", () => running.abort());
  document.addEventListener("paste", event => accept(event.clipboardData.files[0]));
  root.addEventListener("dragover", event => event.preventDefault());
  root.addEventListener("drop", event => {
    event.preventDefault();
    accept(event.dataTransfer.files[0]);
  });
  new ResizeObserver(fit).observe(view);
  part("controls").hidden = false;
}
