// The book's quantizer in float32 arithmetic: every operation rounds as PyTorch's does, and results agree to the bit.

const float = Math.fround;
// Narrowest range, relative to the bounds' magnitude, as in the package.
const MINIMUM_RELATIVE_WIDTH = float(1e-3);
const MINIMUM_WIDTH = float(1e-8);

function roundHalfToEven(value) {
  const rounded = Math.round(value); // halves go up
  return Math.abs(value % 1) === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// What rounding needs to know of two bounds: a level is (code + offset) · step, with codes 0…steps.
function gridOf(lower, upper, steps) {
  lower = float(lower);
  upper = float(upper);
  if (!Number.isFinite(lower) || !Number.isFinite(upper) || !(steps >= 1)) {
    throw new Error(`Bounds are ${lower} and ${upper} with ${steps} steps, expected two finite numbers and 1 or more.`);
  }
  const magnitude = Math.max(Math.abs(lower), Math.abs(upper));
  const missing = float(float(float(MINIMUM_RELATIVE_WIDTH * magnitude) + MINIMUM_WIDTH) - float(upper - lower));
  const half = float(Math.max(missing, 0) / 2);
  lower = float(lower - half);
  upper = float(upper + half);
  const width = float(upper - lower);
  const inverseStep = float(float(1 / width) * steps);
  const offset = roundHalfToEven(float(inverseStep * lower));
  return { lower, upper, step: float(width / steps), inverseStep, offset, highest: float(offset + steps) };
}

function levelOf(value, grid) {
  const clipped = Math.min(Math.max(value, grid.lower), grid.upper);
  return Math.min(roundHalfToEven(float(grid.inverseStep * clipped)), grid.highest);
}

function fakeQuantize(values, lower, upper, bits) {
  if (!(values instanceof Float32Array)) throw new Error("Values are expected in a Float32Array.");
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) throw new Error(`bits is ${bits}, expected 2 to 8.`);
  const grid = gridOf(lower, upper, 2 ** bits - 1);
  return values.map(value => float(levelOf(value, grid) * grid.step));
}
