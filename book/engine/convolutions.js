// Convolutions 3×3, in full precision and by look-up, with their weights in the kernels' memory.

const OUTS = 4; // outputs that a kernel computes at once
const BORDERS = 16; // kinds of border: bits for above, below, left and right
const TILE_ROWS = 4;
const TILE_COLUMNS = 64; // a multiple of 16
const [STORE, RECTIFY, ADD] = [0, 1, 2]; // what becomes of a result

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

  // `rows` rows of `input`, from row `from` on, to `output`. Tile by tile, so that what all outputs of a tile read
  // stays in the cache.
  run(output, input, mode, { from = 0, rows = input.height, shuffle = false } = {}) {
    const { kernels } = this.memory;
    const { width, length } = input;
    for (let row = 0; row < rows; row += TILE_ROWS) {
      const high = Math.min(TILE_ROWS, rows - row);
      for (let left = 0; left < width; left += TILE_COLUMNS) {
        const right = width - left, wide = Math.min(TILE_COLUMNS, right);
        const above = input.at(from + row - 1) + 4 * left;
        for (let out = 0; out < this.outs; out += OUTS) {
          const weights = this.weights + out * this.ins * 36, bias = this.bias + 4 * out;
          if (shuffle) {
            kernels.shuffle_convolution(output.at(2 * row, out / OUTS) + 8 * left, above, weights, bias, this.ins,
              output.channels, high, wide, right, length, output.length);
          } else {
            kernels.convolution(output.at(row, out) + 4 * left, above, weights, bias, this.ins, output.channels,
              mode, high, wide, right, length);
          }
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
