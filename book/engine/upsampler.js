// From features to pixels.
//
// Nothing but convolutions and pixel shuffles lies there, so all of it is linear, and one convolution 5×5 of the
// features does the same: its 3·scale² outputs are the colors of all the pixels that one pixel becomes. At the border it
// is another one, since the convolutions in between see zeros there: there is one for each kind of border.

const [ABOVE, BELOW, LEFT, RIGHT] = [1, 2, 4, 8];

class Upsampler {
  constructor(memory, tensors, scale) {
    Object.assign(this, { memory, scale });
    const { shape: [colors, channels], values } = tensor(tensors, "tail.1.weight");
    const last = { outs: colors, size: 3, channels, weights: ordered(values, colors, channels), bias: tensor(tensors, "tail.1.bias").values };
    let folded = Array(BORDERS).fill(last);
    for (const path of scale === 4 ? ["tail.0.2", "tail.0.0"] : ["tail.0.0"]) folded = fold(memory, folded, tensors, path);
    this.kernels = folded.map(({ outs, weights, bias }) => store(memory, {
      outs, ins: channels, size: 5, bias, at: (out, i, tap) => weights[(out * 25 + tap) * channels + i],
    }));
  }

  // The picture, `scale` times as large.
  run(features) {
    const { memory, scale } = this;
    const { width, height } = features;
    const outs = this.kernels[0].outs;
    const inside = new Features(memory, outs, height, width);
    const [left, right] = [0, 0].map(() => new Features(memory, outs, height, 1)); // the outermost columns
    for (const [top, bottom] of [[0, 1], [1, height - 1], [Math.max(1, height - 1), height]]) {
      const rows = (top === 0) * ABOVE | (bottom === height) * BELOW;
      const run = (output, columns, where) => convolve(memory, this.kernels[rows | columns], output, features, STORE, { top, bottom, ...where });
      run(inside, 0, {});
      run(left, LEFT | (width === 1) * RIGHT, { left: 0, columns: 1 });
      run(right, RIGHT | (width === 1) * LEFT, { left: width - 1, columns: 1 });
    }
    const result = new Uint8ClampedArray(4 * width * height * scale ** 2);
    for (let y = 0; y < height; y++) {
      writePixels(result, inside, y, scale, 0, width, width);
      writePixels(result, left, y, scale, 0, 1, width);
      writePixels(result, right, y, scale, width - 1, 1, width);
    }
    return result;
  }
}

// Kernels for each kind of border, {outs, size, weights: outs × size × size × channels, bias}, with the convolution and
// the shuffle before them made part of them.
function fold(memory, nexts, tensors, path) {
  const { outs, size, channels } = nexts[0];
  const mark = memory.top;
  const stage = memory.store(ordered(tensor(tensors, `${path}.weight`).values, 4 * channels, channels));
  const stageBias = memory.store(tensor(tensors, `${path}.bias`).values);
  const folded = nexts.map((_, border) => {
    const top = memory.top;
    const weights = memory.store(new Float32Array(4 * outs * 25 * channels)), bias = memory.store(new Float32Array(4 * outs));
    for (let phase = 0; phase < 4; phase++) {
      // Of the 2×2 pixels, only those at the border see it.
      const next = nexts[border & (phase & 2 ? BELOW : ABOVE) | border & (phase & 1 ? RIGHT : LEFT)];
      memory.kernels.fold(weights + phase * outs * 25 * channels * 4, bias + phase * outs * 4, memory.store(next.weights),
        memory.store(next.bias), stage, stageBias, outs, size, channels, phase, border);
    }
    const result = {
      outs: 4 * outs, size: 5, channels,
      weights: memory.floats(weights, 4 * outs * 25 * channels).slice(),
      bias: memory.floats(bias, 4 * outs).slice(),
    };
    memory.top = top;
    return result;
  });
  memory.top = mark;
  return folded;
}

// Weights out × in × 9 in the order out × 9 × in.
function ordered(values, outs, ins) {
  const result = new Float32Array(values.length);
  for (let out = 0; out < outs; out++) {
    for (let i = 0; i < ins; i++) for (let tap = 0; tap < 9; tap++) result[(out * 9 + tap) * ins + i] = values[(out * ins + i) * 9 + tap];
  }
  return result;
}

// One row of colors to opaque pixels of `result`, `count` of its `width` from `first` on; a clamped array rounds halves
// to even, as the package does. An output is (2×2 pixels, for each shuffle, the first one first) × color.
function writePixels(result, map, y, scale, first, count, width) {
  const row = map.memory.floats(map.at(y), map.channels * map.length);
  for (let fine = 0; fine < scale * scale; fine++) {
    const down = Math.floor(fine / scale), across = fine % scale;
    const phase = scale === 4
      ? 4 * (2 * (down >> 1) + (across >> 1)) + 2 * (down & 1) + (across & 1)
      : 2 * down + across;
    for (let x = 0; x < count; x++) {
      const pixel = 4 * (((y * scale + down) * width + first + x) * scale + across);
      for (let color = 0; color < 3; color++) {
        result[pixel + color] = float(row[(3 * phase + color) * map.length + x + 1] + DIV2K_MEAN[color]);
      }
      result[pixel + 3] = 255;
    }
  }
}
