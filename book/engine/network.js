// EDSR, layer by layer, on the kernels. A feature map lies in the kernels' memory as they describe it (`Features`).

const OUTS = 4; // outputs that a kernel computes at once
const BORDERS = 16; // kinds of border: bits for above, below, left and right
const [STORE, RECTIFY, ADD] = [0, 1, 2];
const DIV2K_MEAN = [0.4488, 0.4371, 0.4040].map(mean => float(255 * float(mean)));
const BATCH_NORM_EPSILON = 1e-5;
const GATE_BITS = 2;

// Memory of the kernels, handed out from the bottom; what lies above a mark is given back at once.
class Memory {
  constructor(kernels) {
    this.kernels = kernels;
    this.top = kernels.__heap_base.value;
  }

  reserve(bytes) {
    const address = this.top + 63 & ~63;
    this.top = address + bytes;
    const missing = this.top + 64 - this.kernels.memory.buffer.byteLength;
    if (missing > 0) this.kernels.memory.grow(Math.ceil(missing / 65536)); // a RangeError if there is no more
    return address;
  }

  store(values) {
    const address = this.reserve(values.byteLength);
    new values.constructor(this.kernels.memory.buffer, address, values.length).set(values);
    return address;
  }

  bytes(address, count) { return new Uint8Array(this.kernels.memory.buffer, address, count); }
  floats(address, count) { return new Float32Array(this.kernels.memory.buffer, address, count); }
}

// channels × height × width numbers with their border, `size` bytes each, all zero.
class Features {
  constructor(memory, channels, height, width, size = 4) {
    Object.assign(this, { memory, channels, height, width, size });
    this.length = lengthOf(width);
    this.bytes = (height + 2) * channels * this.length * size;
    this.address = memory.reserve(this.bytes);
    memory.bytes(this.address, this.bytes).fill(0);
  }

  // Where a channel's row begins with its border; the picture's rows are 0…height − 1.
  at(row, channel = 0) {
    return this.address + ((row + 1) * this.channels + channel) * this.length * this.size;
  }

  // Values from the order H×W×C.
  fill(values) {
    const { channels, height, width, length, memory } = this;
    for (let y = 0; y < height; y++) {
      const row = memory.floats(this.at(y), channels * length);
      for (let channel = 0; channel < channels; channel++) {
        for (let x = 0; x < width; x++) row[channel * length + x + 1] = values[(y * width + x) * channels + channel];
      }
    }
    return this;
  }

  // All values in the order H×W×C.
  interleaved() {
    const { channels, height, width, length, memory } = this;
    const values = new Float32Array(height * width * channels);
    for (let y = 0; y < height; y++) {
      const row = memory.floats(this.at(y), channels * length);
      for (let channel = 0; channel < channels; channel++) {
        for (let x = 0; x < width; x++) values[(y * width + x) * channels + channel] = row[channel * length + x + 1];
      }
    }
    return values;
  }
}

// ------------------------------------------------------------------------------------------------------ convolutions

// In full precision; the weights are rearranged so that those of OUTS outputs lie together.
class Convolution {
  constructor(memory, tensors, path) {
    const { shape: [outs, ins], values } = tensor(tensors, `${path}.weight`);
    this.memory = memory;
    this.ins = ins;
    this.outs = Math.ceil(outs / OUTS) * OUTS; // missing outputs are zero
    const arranged = new Float32Array(this.outs * ins * 9);
    for (let out = 0; out < outs; out++) {
      for (let i = 0; i < ins * 9; i++) {
        arranged[(Math.floor(out / OUTS) * ins * 9 + i) * OUTS + out % OUTS] = values[out * ins * 9 + i];
      }
    }
    const bias = new Float32Array(this.outs);
    bias.set(tensor(tensors, `${path}.bias`).values);
    this.weights = memory.store(arranged);
    this.bias = memory.store(bias);
  }

  // Rows `first` to `last` of `input` to rows of `output`, each counted from a row of its own tensor: `from` and `to`.
  run(output, input, mode, { from = 0, to = 0, rows = input.height, shuffle = false } = {}) {
    const { kernels } = this.memory;
    const some = rowsAtOnce(input.width, 1024);
    for (let row = 0; row < rows; row += some) {
      const count = Math.min(some, rows - row);
      for (let out = 0; out < this.outs; out += OUTS) {
        const weights = this.weights + out * this.ins * 36, bias = this.bias + 4 * out, above = input.at(from + row - 1);
        if (shuffle) {
          kernels.shuffle_convolution(output.at(to + 2 * row, out / OUTS), above, weights, bias, this.ins,
            output.channels, count, input.width, input.length, output.length);
        } else {
          kernels.convolution(output.at(to + row, out), above, weights, bias, this.ins, output.channels, mode, count,
            input.width, input.length);
        }
      }
    }
  }
}

// On codes: products are looked up in tables, which are made once.
class LookUpConvolution {
  constructor(memory, tensors, path, bits) {
    const bias = tensor(tensors, `${path}.bias`).values;
    const outs = bias.length, ins = outs;
    const { codes, step } = integerWeights(tensors, `${path}.weight`, outs * ins * 9, 2 ** bits - 1);
    Object.assign(this, { memory, bits, step, ins, outs, center: 2 ** (bits - 1), bias: memory.store(bias) });
    this.entries = planesOf(ins, bits) * 9;
    this.tables = memory.reserve(outs * this.entries * 16);
    const top = memory.top;
    const largest = memory.kernels.tables(this.tables, memory.store(codes), outs, ins, bits, this.center);
    memory.top = top;
    this.group = Math.floor(127 / largest);
    this.span = Math.floor(32767 / largest);
    this.largestWeight = codes.reduce((most, code) => Math.max(most, Math.abs(code)), 0);
    this.inside = sumsInside(codes, outs, ins);
    this.correction = memory.store(new Int32Array(outs * BORDERS));
    this.zeros = memory.store(new Float32Array(outs));
  }

  // (codes + offset) convolved with the integer weights, times `scale`, plus the bias.
  run(output, codes, offset, scale, mode, bias = this.bias) {
    const { memory, entries, ins, bits } = this;
    const { width, height, length } = codes;
    const constant = offset + this.center;
    const correction = new Int32Array(memory.kernels.memory.buffer, this.correction, this.inside.length);
    this.inside.forEach((sum, i) => { correction[i] = sum * constant; });
    const mark = memory.top;
    const offsets = memory.store(Int32Array.from({ length: entries }, (_, entry) => {
      const plane = Math.floor(entry / 9), row = Math.floor(entry % 9 / 3), column = entry % 3;
      return (row * planesOf(ins, bits) + plane) * length + column;
    }));
    const some = rowsAtOnce(width, 4096);
    for (let row = 0; row < height; row += some) {
      for (let out = 0; out < this.outs; out += OUTS) {
        memory.kernels.look_up_convolution(output.at(-1, out), codes.address, offsets, this.tables + out * entries * 16,
          entries, this.group, this.span, this.correction + out * BORDERS * 4, scale, bias + 4 * out, mode, row,
          Math.min(row + some, height), width, height, length, codes.channels, output.channels);
      }
    }
    memory.top = mark;
  }
}

// Enough rows for the cache, an even number, because look-ups take two at once.
const rowsAtOnce = (width, pixels) => 2 * Math.ceil(pixels / width / 2);

// For each output and kind of border, the sum of the weights whose taps lie inside the picture.
function sumsInside(codes, outs, ins) {
  const sums = new Int32Array(outs * BORDERS);
  for (let out = 0; out < outs; out++) {
    for (let i = 0; i < ins * 9; i++) {
      const row = Math.floor(i % 9 / 3), column = i % 3;
      const outside = (row === 0) | (row === 2) << 1 | (column === 0) << 2 | (column === 2) << 3;
      for (let border = 0; border < BORDERS; border++) {
        if (!(border & outside)) sums[out * BORDERS + border] += codes[out * ins * 9 + i];
      }
    }
  }
  return sums;
}

// {codes, step} of a packed weight: each value is a whole number of steps, at most `steps` of them.
function integerWeights(tensors, name, count, steps) {
  const { shape, values } = tensor(tensors, `${name}.codebook`);
  const book = Array.from(values);
  const step = shape[0] === 1 ? commonStep(book, steps) : null;
  if (!step) throw new Error(`The engine cannot run this network: the weights of ${name} are not on one grid.`);
  const whole = book.map(value => Math.round(value / step));
  return { codes: Int8Array.from(codebookIndices(tensors, name, count), index => whole[index]), step };
}

function codebookIndices(tensors, name, count) {
  const size = tensor(tensors, `${name}.codebook`).shape[1];
  const indices = unpackIndices(tensor(tensors, `${name}.packed`).values, Math.max(1, 32 - Math.clz32(size - 1)), count);
  if (indices.some(index => index >= size)) throw new Error(`${name} refers to a value that its codebook does not have.`);
  return indices;
}

// The largest float32 step of which all values are whole multiples, to the bit: value = fround(n · step), |n| ≤ steps.
function commonStep(values, steps) {
  const smallest = Math.min(...values.map(Math.abs).filter(value => value > 0));
  if (smallest === Infinity) return 1; // all weights are zero
  const fits = step => values.every(value => {
    const n = Math.round(value / step);
    return Math.abs(n) <= steps && float(n * step) === value;
  });
  for (let n = 1; n <= steps; n++) {
    // The division rounds; the step that was multiplied lies within a few units in the last place.
    for (let units = 0; units <= 4; units++) {
      for (const sign of [1, -1]) {
        const step = float(smallest / n * (1 + sign * units * 2 ** -24));
        if (fits(step)) return step;
      }
    }
  }
  return null;
}

// ------------------------------------------------------------------------------------------- quantizers and their gates

// The lower and upper bound of a trained quantizer, and how many steps lie between them.
class ActivationQuantizer {
  constructor(tensors, path, { method, bits }, gated) {
    this.path = path;
    this.steps = 2 ** bits - 1;
    if (method === "lsq") {
      const step = Math.max(tensor(tensors, `${path}.step`).values[0], float(1e-6));
      const lowest = path.endsWith(".hidden") ? 0 : -(2 ** (bits - 1)); // after a ReLU nothing is negative
      this.lower = float(lowest * step);
      this.upper = float((lowest + this.steps) * step);
    } else {
      this.lower = tensor(tensors, `${path}.lower`).values[0];
      this.upper = tensor(tensors, `${path}.upper`).values[0];
    }
    this.gate = gated ? new Gate(tensors, `${path}.gate`) : null;
  }
}

// A picture's channel means to the two factors of its bounds.
class Gate {
  constructor(tensors, path) {
    const ternary = name => {
      const { values } = tensor(tensors, `${path}.${name}.weight.codebook`);
      const width = name === "reduce" ? tensor(tensors, `${path}.norm.weight`).values.length : 2;
      const packed = tensor(tensors, `${path}.${name}.weight.packed`).values;
      const count = Math.floor(packed.length * 8 / Math.max(1, 32 - Math.clz32(values.length - 1)));
      const indices = codebookIndices(tensors, `${path}.${name}.weight`, count);
      return Array.from({ length: width }, (_, out) =>
        Array.from(indices.subarray(out * count / width, (out + 1) * count / width), index => values[index]));
    };
    this.reduce = ternary("reduce");
    this.expand = ternary("expand");
    const norm = name => tensor(tensors, `${path}.norm.${name}`).values;
    this.factor = norm("weight").map((weight, i) => weight / Math.sqrt(norm("running_var")[i] + BATCH_NORM_EPSILON));
    this.shift = norm("bias").map((bias, i) => bias - norm("running_mean")[i] * this.factor[i]);
  }

  betas(means) {
    const product = (rows, x) => Float32Array.from(rows, row => row.reduce((sum, weight, i) => sum + weight * x[i], 0));
    const reduced = product(this.reduce, quantizedBetweenExtremes(means));
    const hidden = reduced.map((value, i) => Math.max(0, value * this.factor[i] + this.shift[i]));
    const logits = product(this.expand, quantizedBetweenExtremes(hidden));
    const [upper, lower] = logits.map(logit => 2 / (1 + Math.exp(-logit)));
    return { upper, lower };
  }
}

function quantizedBetweenExtremes(values) {
  return fakeQuantize(values, Math.min(...values), Math.max(...values), GATE_BITS);
}

// ------------------------------------------------------------------------------------------------------------ network

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
    this.points = [];
    for (let block = 0; block < blocks; block++) {
      for (const part of [this.first, "hidden", ...(this.rounded ? ["output"] : [])]) this.points.push(`body.${block}.${part}`);
    }
    const live = header.phase === "live" ? header.gated : [];
    for (const path of quantization ? this.points : []) {
      this.quantizers.set(path, new ActivationQuantizer(tensors, path, quantization, live.includes(path)));
    }
    this.last = new Convolution(this.memory, tensors, `body.${blocks}`);
    this.upsampler = scale === 4 ? ["tail.0.0", "tail.0.2"] : ["tail.0.0"];
    this.upsampler = this.upsampler.map(path => new Convolution(this.memory, tensors, path));
    this.tail = new Convolution(this.memory, tensors, "tail.1");
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
    const units = this.blocks * 2 + 1 + (this.scale === 4 ? 20.75 : 4.2);
    let done = 0;
    const progress = cost => onProgress((done += cost) / units);

    const map = () => new Features(memory, channels, height, width);
    const pixels = new Features(memory, 3, height, width);
    const shallow = map(), x = map(), branch = map();
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
        conv2.run(this.rounded ? branch : x, codes, hidden.offset, conv2.step * hidden.step, this.rounded ? STORE : ADD);
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
    memory.top = x.address;
    return this.enlarge(shallow, progress);
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

  // Features to pixels, a band of rows at a time: between them lie 64 numbers for each pixel of the result.
  enlarge(features, progress) {
    const { memory, channels, scale } = this;
    const { width, height } = features;
    const result = new Uint8ClampedArray(4 * width * height * scale ** 2);
    const band = Math.min(height, Math.max(8, Math.ceil(4096 / width)));
    const mark = memory.top;
    for (let top = 0; top < height; top += band) {
      memory.top = mark;
      const bottom = Math.min(top + band, height);
      // Rows that the next convolution reaches: one more on each side, unless the picture ends there.
      let level = { map: features, first: 0, size: 1 };
      this.upsampler.forEach(convolution => {
        const { size } = level;
        const first = Math.max(0, top * size - 1), last = Math.min(height * size, bottom * size + 1);
        const map = new Features(memory, channels, 2 * (last - first), 2 * width * size);
        convolution.run(map, level.map, STORE, { from: first - level.first, rows: last - first, shuffle: true });
        level = { map, first: 2 * first, size: 2 * size };
      });
      const rows = (bottom - top) * scale;
      const colors = new Features(memory, OUTS, rows, width * scale);
      this.tail.run(colors, level.map, STORE, { from: top * scale - level.first, rows });
      writePixels(result, colors, top * scale);
      progress((bottom - top) / height * (scale === 4 ? 20.75 : 4.2));
    }
    return result;
  }

  // Codes and bounds of one quantizer for given features H×W×C.
  quantizeAlone(path, values, height, width) {
    const { memory, channels, bits } = this;
    if (!this.quantizers.has(path)) throw new Error(`${path} is not a quantizer of this network.`);
    if (values.length !== height * width * channels) throw new Error(`Expected ${height}×${width}×${channels} features.`);
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
    memory.bytes(map.address, map.bytes).set(planesOfCodes(codes, { channels, height, width, bits }, convolution.center));
    const output = new Features(memory, channels, height, width);
    convolution.run(output, map, offset, 1, STORE, convolution.zeros);
    return Int32Array.from(output.interleaved());
  }
}

function check({ network, scale, architecture, quantization, phase }) {
  const refuse = what => new Error(`The engine runs EDSR ×2 and ×4 by DDTB or LSQ at 2, 3 or 4 bits, or in full precision; this network is ${what}.`);
  if (network !== "edsr" || (scale !== 2 && scale !== 4)) throw refuse(`${network} ×${scale}`);
  if (architecture.n_feats % OUTS) throw refuse(`${architecture.n_feats} channels wide`);
  if (!quantization) return;
  const { method, bits, variant, fully } = quantization;
  if (!["ddtb", "lsq"].includes(method) || ![2, 3, 4].includes(bits)) throw refuse(`${method} at ${bits} bits`);
  if (!["paper", "convolutions"].includes(variant) || fully) throw refuse(fully ? "fully quantized" : `variant ${variant}`);
  if (phase === "new") throw refuse("without bounds");
}

function tensor(tensors, name) {
  if (!tensors[name]) throw new Error(`This is the checkpoint of another network: it has no ${name}.`);
  return tensors[name];
}

function fillWithPixels(map, { data, width, height }) {
  for (let y = 0; y < height; y++) {
    const row = map.memory.floats(map.at(y), 3 * map.length);
    for (let color = 0; color < 3; color++) {
      for (let x = 0; x < width; x++) row[color * map.length + x + 1] = data[4 * (y * width + x) + color] - DIV2K_MEAN[color];
    }
  }
}

// Colors to opaque pixels of `result`, from `top` on; a clamped array rounds halves to even, as the package does.
function writePixels(result, map, top) {
  for (let y = 0; y < map.height; y++) {
    const row = map.memory.floats(map.at(y), 3 * map.length);
    for (let x = 0; x < map.width; x++) {
      const pixel = 4 * ((top + y) * map.width + x);
      for (let color = 0; color < 3; color++) {
        result[pixel + color] = float(row[color * map.length + x + 1] + DIV2K_MEAN[color]);
      }
      result[pixel + 3] = 255;
    }
  }
}
