// Convolutions 3×3, in full precision and by look-up, with their weights in the kernels' memory.

const OUTS = 4; // outputs that a kernel computes at once
const BORDERS = 16; // kinds of border: bits for above, below, left and right
const TILE_ROWS = 4;
const TILE_COLUMNS = 64; // a multiple of 16
const [STORE, RECTIFY, ADD] = [0, 1, 2]; // what becomes of a result

// In full precision.
class Convolution {
  constructor(memory, tensors, path) {
    const { shape: [outs, ins], values } = tensor(tensors, `${path}.weight`);
    const { values: bias } = tensor(tensors, `${path}.bias`);
    const at = (out, i, tap) => values[(out * ins + i) * 9 + tap];
    this.memory = memory;
    this.kernel = store(memory, { outs, ins, size: 3, at, bias });
  }

  run(output, input, mode) {
    convolve(this.memory, this.kernel, output, input, mode);
  }
}

// A convolution size × size in memory; the weights are arranged so that those of OUTS outputs lie together.
function store(memory, { outs, ins, size, at, bias }) {
  const taps = size * size, all = Math.ceil(outs / OUTS) * OUTS; // missing outputs are zero
  const weights = new Float32Array(all * ins * taps);
  for (let out = 0; out < outs; out++) {
    for (let i = 0; i < ins; i++) {
      for (let tap = 0; tap < taps; tap++) {
        weights[((Math.floor(out / OUTS) * ins + i) * taps + tap) * OUTS + out % OUTS] = at(out, i, tap);
      }
    }
  }
  const biases = new Float32Array(all);
  biases.set(bias);
  return { outs: all, ins, size, weights: memory.store(weights), bias: memory.store(biases) };
}

// Of `input`, the rows from `top` to before `bottom` and `columns` columns from `left` on; in `output` they begin in its
// first column. Tile by tile, so that what all outputs of a tile read stays in the cache.
function convolve(memory, { outs, ins, size, weights, bias }, output, input, mode,
  { top = 0, bottom = input.height, left = 0, columns = input.width } = {}) {
  const reach = (size - 1) / 2;
  for (let row = top; row < bottom; row += TILE_ROWS) {
    const rows = Math.min(TILE_ROWS, bottom - row);
    for (let column = 0; column < columns; column += TILE_COLUMNS) {
      const width = columns - column, wide = Math.min(TILE_COLUMNS, width);
      const first = input.at(row - reach) + 4 * (left + column + 1 - reach);
      for (let out = 0; out < outs; out += OUTS) {
        memory.kernels.convolution(output.at(row, out) + 4 * column, first, weights + out * ins * size * size * 4,
          bias + 4 * out, size, ins, output.channels, mode, rows, wide, width, input.length, output.length);
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
    const entry = memory.kernels.tables(this.tables, memory.store(codes), outs, ins, bits, this.center);
    memory.top = top;
    const largest = Math.max(1, entry); // 0 if all weights are
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
    const some = rowsAtOnce(width);
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

// Look-ups take two rows at once, and codes are small.
const rowsAtOnce = width => 2 * Math.ceil(1024 / width);

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
