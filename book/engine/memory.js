// The kernels' memory, and feature maps that lie in it as the kernels describe them.

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

// channels × height × width numbers with their border, `size` bytes each, all zero. One more row of zeros lies above and
// below, and a few zeros at either end, for taps that are two pixels away.
class Features {
  constructor(memory, channels, height, width, size = 4) {
    Object.assign(this, { memory, channels, height, width, size });
    this.length = lengthOf(width);
    this.bytes = (height + 2) * channels * this.length * size;
    const more = channels * this.length * size + 64, all = this.bytes + 2 * more, start = memory.reserve(all);
    memory.bytes(start, all).fill(0);
    this.address = start + more;
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
