// EDSR, layer by layer.

const DIV2K_MEAN = [0.4488, 0.4371, 0.4040].map(mean => float(255 * float(mean)));

class Network {
  constructor(kernels, checkpoint) {
    const { header, tensors, sha256 } = checkpoint;
    const { architecture: { n_blocks: blocks, n_feats: channels }, quantization, scale } = header;
    check(header);
    this.memory = new Memory(kernels);
    Object.assign(this, { scale, blocks, channels, quantization, bits: quantization?.bits ?? 32 });
    this.head = new Convolution(this.memory, tensors, "head.0");
    this.first = quantization?.variant === "convolutions" ? "branch" : "input";
    this.rounded = quantization?.variant !== "convolutions"; // whether the shortcut is quantized as well
    this.quantizers = new Map();
    this.convolutions = new Map();
    for (let block = 0; block < blocks; block++) {
      for (const part of ["body.0", "body.2"]) {
        const path = `body.${block}.${part}`;
        this.convolutions.set(path, quantization
          ? new LookUpConvolution(this.memory, tensors, path, quantization.bits)
          : new Convolution(this.memory, tensors, path));
      }
    }
    const parts = this.rounded ? [this.first, "hidden", "output"] : [this.first, "hidden"];
    this.points = Array.from({ length: blocks }, (_, block) => parts.map(part => `body.${block}.${part}`)).flat();
    const live = header.phase === "live" ? header.gated : [];
    for (const path of quantization ? this.points : []) {
      this.quantizers.set(path, new ActivationQuantizer(tensors, path, quantization, live.includes(path) && channels));
    }
    this.last = new Convolution(this.memory, tensors, `body.${blocks}`);
    this.upsampler = new Upsampler(this.memory, tensors, scale);
    this.mark = this.memory.top;
    this.facts = {
      scale, blocks, channels, bits: this.bits, sha256,
      method: quantization?.method ?? null,
      variant: quantization?.variant ?? null,
      points: this.points,
      convolutions: quantization ? [...this.convolutions.keys()] : [],
      gated: live,
      trained: Object.fromEntries([...this.quantizers].map(([path, { lower, upper }]) => [path, { lower, upper }])),
      operations: this.operations(),
      metadata: header.metadata,
    };
  }

  // Bit operations for one pixel of the input: two for each multiplication, times the bits of both its factors.
  operations() {
    const full = 32 * 32, { channels, scale } = this;
    const macs = 9 * channels * channels;
    const upsampling = scale === 4 ? 4 + 16 : 4;
    const head = 9 * 3 * channels, tail = 9 * 3 * channels * scale * scale;
    return 2 * (full * (head + macs + upsampling * macs + tail) + this.bits ** 2 * 2 * this.blocks * macs);
  }

  // The picture, `scale` times as large, or, with `stop`, what enters the quantizer of that path.
  upscale(image, { gates = true, bounds = {}, keep = false, stop = null, onProgress = () => {} } = {}) {
    const { memory, channels } = this;
    const { width, height } = image;
    memory.top = this.mark;
    this.trace = { codes: {}, bounds: {}, betas: {} };
    const enlarging = this.scale === 4 ? 2.6 : 0.7; // both as many convolutions as they cost
    const units = this.blocks * 2 + 1 + enlarging;
    let done = 0;
    const progress = cost => onProgress((done += cost) / units);

    const map = () => new Features(memory, channels, height, width);
    const pixels = new Features(memory, 3, height, width);
    const shallow = map(), above = memory.top, x = map(), branch = map();
    const codes = this.quantization && new Features(memory, planesOf(channels, this.bits), height, width, 1);
    fillWithPixels(pixels, image);
    this.head.run(shallow, pixels, STORE);
    memory.bytes(x.address, x.bytes).set(memory.bytes(shallow.address, shallow.bytes));

    const started = performance.now();
    const options = { gates, bounds, keep };
    for (let block = 0; block < this.blocks; block++) {
      const path = part => `body.${block}.${part}`;
      const [conv1, conv2] = ["body.0", "body.2"].map(part => this.convolutions.get(path(part)));
      if (stop === path(this.first)) return x.interleaved();
      if (this.quantization) {
        const grid = this.quantize(codes, x, path(this.first), options);
        if (this.rounded) this.round(x, x, grid, STORE);
        conv1.run(branch, codes, grid.offset, conv1.step * grid.step, RECTIFY);
        progress(1);
        if (stop === path("hidden")) return branch.interleaved();
        const hidden = this.quantize(codes, branch, path("hidden"), options);
        const [output, mode] = this.rounded ? [branch, STORE] : [x, ADD];
        conv2.run(output, codes, hidden.offset, conv2.step * hidden.step, mode);
        if (stop === path("output")) return branch.interleaved();
        if (this.rounded) this.round(x, branch, this.quantize(keep && codes, branch, path("output"), options), ADD);
      } else {
        conv1.run(branch, x, RECTIFY);
        progress(1);
        if (stop === path("hidden")) return branch.interleaved();
        if (stop === path("output")) {
          conv2.run(shallow, branch, STORE);
          return shallow.interleaved();
        }
        conv2.run(x, branch, ADD);
      }
      progress(1);
    }
    this.trace.bodyMilliseconds = performance.now() - started;
    this.last.run(shallow, x, ADD);
    progress(1);
    memory.top = above;
    const result = this.upsampler.run(shallow);
    progress(enlarging);
    return result;
  }

  // Codes of `features` at one quantizer (none are written without `codes`); returns the grid.
  quantize(codes, features, path, { gates, bounds, keep }) {
    const { memory, bits, trace } = this;
    const { channels, width, height, length, address } = features;
    const quantizer = this.quantizers.get(path);
    let [lower, upper] = bounds[path] ?? [quantizer.lower, quantizer.upper];
    const mark = memory.top;
    let betas = null;
    if (quantizer.gate) {
      betas = { upper: 1, lower: 1 };
      if (gates) {
        const means = memory.reserve(4 * channels);
        memory.kernels.means(means, address, channels, width, height, length);
        betas = quantizer.gate.betas(memory.floats(means, channels).slice());
      }
      lower = float(betas.lower * float(lower));
      upper = float(betas.upper * float(upper));
    }
    const grid = gridOf(lower, upper, quantizer.steps);
    trace.bounds[path] = { lower: grid.lower, upper: grid.upper, step: grid.step, offset: grid.offset, bits };
    trace.betas[path] = betas;
    if (codes) {
      memory.kernels.quantize(codes.address, address, this.storeGrid(grid), bits, 2 ** (bits - 1), channels, width,
        height, length);
      if (keep) trace.codes[path] = memory.bytes(codes.address, codes.bytes).slice();
    }
    memory.top = mark;
    return grid;
  }

  storeGrid({ lower, upper, step, inverseStep, highest, offset }) {
    return this.memory.store(Float32Array.of(lower, upper, step, inverseStep, highest, offset));
  }

  round(output, features, grid, mode) {
    const { memory } = this;
    const mark = memory.top;
    memory.kernels.fake_quantize(output.address, features.address, this.storeGrid(grid), mode, features.channels,
      features.width, features.height, features.length);
    memory.top = mark;
  }

  // Codes and bounds of one quantizer for given features H×W×C.
  quantizeAlone(path, values, height, width) {
    const { memory, channels, bits } = this;
    if (!this.quantizers.has(path)) throw new Error(`${path} is not a quantizer of this network.`);
    if (values.length !== height * width * channels) {
      throw new Error(`Expected ${height}×${width}×${channels} features, got ${values.length}.`);
    }
    memory.top = this.mark;
    const features = new Features(memory, channels, height, width).fill(values);
    const codes = new Features(memory, planesOf(channels, bits), height, width, 1);
    this.trace = { codes: {}, bounds: {}, betas: {} };
    this.quantize(codes, features, path, { gates: true, bounds: {}, keep: true });
    return interleavedCodes(this.trace.codes[path], { channels, height, width, bits });
  }

  // The integer sums of one quantized convolution of (codes + offset), both H×W×C.
  sums(path, codes, height, width, offset = 0) {
    const convolution = this.convolutions.get(path);
    if (!(convolution instanceof LookUpConvolution)) {
      throw new Error(`${path} is not a quantized convolution of this network.`);
    }
    const { memory, channels, bits } = this;
    const steps = 2 ** bits - 1;
    if (codes.length !== height * width * channels || codes.some(code => code > steps)) {
      throw new Error(`Expected ${height}×${width}×${channels} codes from 0 to ${steps}.`);
    }
    const largest = (Math.abs(offset) + steps) * convolution.largestWeight * 9 * channels;
    if (!(Number.isInteger(offset) && largest < 2 ** 24)) { // sums leave the kernel as float32
      throw new Error(`offset is ${offset}, expected a whole number that keeps sums below 2^24.`);
    }
    memory.top = this.mark;
    const map = new Features(memory, planesOf(channels, bits), height, width, 1);
    const planes = planesOfCodes(codes, { channels, height, width, bits }, convolution.center);
    memory.bytes(map.address, map.bytes).set(planes);
    const output = new Features(memory, channels, height, width);
    convolution.run(output, map, offset, 1, STORE, convolution.zeros);
    return Int32Array.from(output.interleaved());
  }
}

function check({ network, scale, architecture, quantization, phase }) {
  const refuse = what => new Error("The engine runs EDSR ×2 and ×4 by DDTB or LSQ at 2, 3 or 4 bits, or in full "
    + `precision; this network is ${what}.`);
  if (network !== "edsr" || (scale !== 2 && scale !== 4)) throw refuse(`${network} ×${scale}`);
  if (architecture.n_feats % OUTS) throw refuse(`${architecture.n_feats} channels wide`);
  if (!quantization) return;
  const { method, bits, variant, fully } = quantization;
  if (!["ddtb", "lsq"].includes(method) || ![2, 3, 4].includes(bits)) throw refuse(`${method} at ${bits} bits`);
  if (fully) throw refuse("fully quantized");
  if (!["paper", "convolutions"].includes(variant)) throw refuse(`variant ${variant}`);
  if (phase === "new") throw refuse("without bounds");
}

function fillWithPixels(map, { data, width, height }) {
  for (let y = 0; y < height; y++) {
    const row = map.memory.floats(map.at(y), 3 * map.length);
    for (let color = 0; color < 3; color++) {
      for (let x = 0; x < width; x++) {
        row[color * map.length + x + 1] = data[4 * (y * width + x) + color] - DIV2K_MEAN[color];
      }
    }
  }
}
