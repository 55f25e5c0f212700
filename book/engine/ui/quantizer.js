// The book's quantizer, operation by operation in float32 as PyTorch computes it: the same bits come out.
const float32 = Math.fround;

// Halves go to the even neighbor, and the sign of zero stays.
function roundHalfToEven(x) {
  const up = Math.round(x);
  return up - x === 0.5 && up % 2 !== 0 ? up - 1 : up;
}

// What depends on the bounds alone: too narrow a pair moves apart around its midpoint.
function grid(lower, upper, steps) {
  lower = float32(lower);
  upper = float32(upper);
  const magnitude = Math.max(Math.abs(lower), Math.abs(upper));
  const least = float32(float32(float32(1e-3) * magnitude) + float32(1e-8));
  const half = Math.max(float32(least - float32(upper - lower)), 0) / 2;
  lower = float32(lower - half);
  upper = float32(upper + half);
  const width = float32(upper - lower);
  const inverse = float32(float32(1 / width) * steps);
  const lowest = roundHalfToEven(float32(inverse * lower));
  // Bounds exactly between two levels would yield one level too many, at the upper end.
  return { lower, upper, inverse, step: float32(width / steps), lowest, highest: lowest + steps };
}

// How many steps from zero each value comes to lie, as a Float32Array.
function multiples(values, { lower, upper, inverse, highest }) {
  return values.map(x => Math.min(roundHalfToEven(float32(inverse * Math.min(Math.max(x, lower), upper))), highest));
}

// A Float32Array quantized to `steps` + 1 levels between two bounds, in real values.
function fakeQuantize(values, lower, upper, steps) {
  const bounds = grid(lower, upper, steps);
  return multiples(values, bounds).map(multiple => multiple * bounds.step);
}

// Mean squared distance of values from others, or from their own mean: the variance.
function meanSquare(values, others) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return values.reduce((sum, value, index) => sum + (value - (others ? others[index] : mean)) ** 2, 0) / values.length;
}
