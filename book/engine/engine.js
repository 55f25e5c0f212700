// The page's side of the engine: loads networks and hands pictures to their workers. Its interface is `window.ddtb`.
// The extension puts three constants before it: WORKER (the source of the workers), KERNELS (WebAssembly in base64) and
// NETWORKS (the names of the networks in this book).

const LARGEST_PIXELS = 2 ** 20; // of the input; memory for about 1 GB of features
const LARGEST_KEPT = 2 ** 15; // of the input, for codes that are kept after a run
const NO_PICTURE = "This is no picture: expected ImageData of 8 bits a color and at least one pixel.";
const HERE = document.currentScript.src;
const kernels = bytesOf(KERNELS);
const workerAddress = URL.createObjectURL(new Blob([WORKER], { type: "text/javascript" }));

const cancelled = () => new DOMException("The run was cancelled.", "AbortError");

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

function whatIsMissing() {
  if (typeof Worker === "function" && typeof WebAssembly === "object" && WebAssembly.validate(kernels)) return "";
  return "This browser cannot compute the network: it lacks WebAssembly with SIMD. Chrome 91, Firefox 89, Safari 16.4 "
    + "and all later ones have it.";
}

// A network by name: one worker, which runs one call after the other.
class LoadedNetwork {
  #bytes;
  #worker = null;
  #tasks = []; // the first one is running
  #last = null; // {image, gates, bounds} of the last run
  #trace = null;

  constructor(name, bytes) {
    this.name = name;
    this.#bytes = bytes;
  }

  async open(signal) {
    this.facts = { name: this.name, ...await this.#ask("open", () => ({}), { signal }) };
    return this;
  }

  async upscale(image, { gates = true, bounds = {}, onProgress, signal } = {}) {
    const { width, height, data } = image ?? {};
    if (!(width >= 1 && height >= 1 && data)) throw new Error(NO_PICTURE);
    if (width * height > LARGEST_PIXELS) {
      throw new Error(`This picture has ${width}×${height} pixels, more than ${LARGEST_PIXELS.toLocaleString("en")}, `
        + "for which a browser's memory suffices. Choose a smaller one, or a part.");
    }
    if (!(data instanceof Uint8ClampedArray && data.length === 4 * width * height)) throw new Error(NO_PICTURE);
    for (const [path, pair] of Object.entries(bounds)) {
      if (!this.facts.points.includes(path) || !this.facts.method) throw new Error(`There is no quantizer at ${path}.`);
      if (!(Number.isFinite(pair?.[0]) && Number.isFinite(pair[1]) && pair[0] <= pair[1])) {
        throw new Error(`The bounds at ${path} are ${pair}, expected [lower, upper].`);
      }
    }
    const asked = { image: { width, height, data: data.slice() }, gates, bounds };
    const keep = width * height <= LARGEST_KEPT;
    const { data: pixels, ...trace } = await this.#ask("upscale", () => ({ ...asked, keep }), { onProgress, signal });
    this.#last = asked;
    this.#trace = trace;
    this.milliseconds = trace.milliseconds;
    this.bodyMilliseconds = trace.bodyMilliseconds;
    this.shape = { height, width, channels: this.facts.channels };
    return new ImageData(pixels, width * this.facts.scale, height * this.facts.scale);
  }

  codes(path) {
    this.#checkPoint(path);
    if (!this.#trace.codes[path]) {
      throw new Error(this.facts.method
        ? `Codes are kept for pictures of up to ${LARGEST_KEPT.toLocaleString("en")} pixels. Choose a smaller part.`
        : "A network in full precision has no codes.");
    }
    return interleavedCodes(this.#trace.codes[path], { ...this.shape, bits: this.facts.bits });
  }

  bounds(path) {
    this.#checkPoint(path);
    return this.#trace.bounds[path] ?? null;
  }

  betas(path) {
    this.#checkPoint(path);
    return this.#trace.betas[path] ?? null;
  }

  async activation(path, { signal } = {}) {
    this.#checkPoint(path);
    const last = this.#last; // not another run's that may come first
    return this.#ask("activation", () => ({ path, ...last }), { signal });
  }

  async quantize(path, features, height, width) {
    return this.#ask("quantize", () => ({ path, features, height, width }), {});
  }

  async sums(path, codes, height, width, offset = 0) {
    return this.#ask("sums", () => ({ path, codes, height, width, offset }), {});
  }

  close() {
    const tasks = this.#tasks;
    this.#stop();
    this.#tasks = [];
    tasks.forEach(task => task.reject(cancelled()));
  }

  #checkPoint(path) {
    if (!this.#trace) throw new Error("This network has not run yet: call upscale first.");
    if (!this.facts.points.includes(path)) throw new Error(`There is no quantization point at ${path}.`);
  }

  #ask(call, argument, { onProgress = () => {}, signal }) {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(cancelled());
      const cancel = () => this.#cancel(task);
      const settle = how => value => {
        signal?.removeEventListener("abort", cancel);
        how(value);
      };
      const task = { call, argument, onProgress, resolve: settle(resolve), reject: settle(reject) };
      signal?.addEventListener("abort", cancel);
      this.#tasks.push(task);
      if (this.#tasks.length === 1) this.#start();
    });
  }

  #start() {
    if (!this.#tasks.length) return;
    const { call, argument } = this.#tasks[0];
    if (!this.#worker) {
      this.#worker = new Worker(workerAddress);
      this.#worker.onmessage = ({ data }) => this.#receive(data);
      this.#worker.onerror = event => {
        event.preventDefault();
        this.#stop();
        this.#receive({ error: `The engine stopped: ${event.message || "its worker did not start"}. Try again.` });
      };
      if (call !== "open") this.#worker.postMessage({ call: "open", argument: this.#checkpoint(), silent: true });
    }
    this.#worker.postMessage({ call, argument: call === "open" ? this.#checkpoint() : argument() });
  }

  #checkpoint() {
    return { kernels, bytes: this.#bytes };
  }

  #receive({ progress, result, error }) {
    if (progress !== undefined) return this.#tasks[0].onProgress(progress);
    const { call, onProgress, resolve, reject } = this.#tasks.shift();
    if (error) {
      this.#stop(); // its memory may be in any state
      reject(new Error(error));
    } else {
      if (call === "upscale") onProgress(1);
      resolve(result);
    }
    this.#start();
  }

  // A kernel cannot be interrupted, but its worker can be ended; the next call starts another one.
  #cancel(task) {
    const running = this.#tasks[0] === task;
    this.#tasks = this.#tasks.filter(other => other !== task);
    if (running) this.#stop();
    task.reject(cancelled());
    if (running) this.#start();
  }

  #stop() {
    this.#worker?.terminate();
    this.#worker = null;
  }
}

const arriving = new Map(); // names to {promise, resolve, reject} of scripts that were asked for

function fetchNetwork(name) {
  if (!arriving.has(name)) {
    const script = document.createElement("script");
    const arrival = {};
    arrival.promise = new Promise((resolve, reject) => Object.assign(arrival, { resolve, reject }));
    arriving.set(name, arrival);
    script.src = new URL(`networks/${name}.js`, HERE);
    script.onload = () => arrival.reject(new Error(`The file of the network ${name} is damaged. Load the page again.`));
    script.onerror = () => {
      arriving.delete(name);
      arrival.reject(new Error(`The network ${name} cannot be loaded: engine/networks/${name}.js is missing.`));
    };
    arrival.promise.finally(() => script.remove()).catch(() => {});
    document.head.append(script);
  }
  return arriving.get(name).promise;
}

window.ddtb = {
  networks: NETWORKS,
  largestPixels: LARGEST_PIXELS,
  largestKept: LARGEST_KEPT,
  unsupported: whatIsMissing(),
  fakeQuantize,
  gridOf,

  async load(name, { signal } = {}) {
    if (this.unsupported) throw new Error(this.unsupported);
    if (!NETWORKS.includes(name)) {
      throw new Error(`There is no network ${name} in this book; there are: ${NETWORKS.join(", ")}.`);
    }
    return new LoadedNetwork(name, await fetchNetwork(name)).open(signal);
  },

  // Called by the script of a network.
  receive: (name, base64) => arriving.get(name)?.resolve(bytesOf(base64)),
};
