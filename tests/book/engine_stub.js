// Stands in for the engine where a test is about what surrounds it: it repeats pixels instead of computing, notes what
// it is asked, and takes `stub.delay` milliseconds.
globalThis.stub = { delay: 20, asked: [], error: null };
globalThis.ddtb = {
  networks: ["student", "teacher"],
  unsupported: "",
  async load(name) {
    const paths = ["body.0.input", "body.0.hidden", "body.1.input", "body.1.hidden"];
    return {
      facts: { name, scale: 4, operations: 1e9, trained: Object.fromEntries(paths.map((path, at) => [path, { lower: -1 - at, upper: 2 + at }])) },
      async upscale(image, options = {}) {
        const { width, height, data } = image, large = new ImageData(4 * width, 4 * height);
        stub.asked.push({ name, width, height, ...options });
        for (let part = 1; part <= 4; part++) {
          await new Promise(done => setTimeout(done, stub.delay / 4));
          if (options.signal?.aborted) throw new DOMException("cancelled", "AbortError");
          options.onProgress?.(part / 4);
        }
        if (stub.error) throw Error(stub.error);
        for (let at = 0; at < large.data.length; at++) {
          const pixel = at >> 2, x = pixel % (4 * width) >> 2, y = Math.floor(pixel / (4 * width)) >> 2;
          large.data[at] = data[4 * (y * width + x) + at % 4];
        }
        Object.assign(this, { milliseconds: stub.delay, shape: { width, height, channels: 2 } });
        return large;
      },
      async activation() {
        const { width, height } = this.shape;
        return Float32Array.from({ length: 2 * width * height }, (_, at) => at % 2 ? 10 + at : -at);
      },
      codes(path) {
        const { width, height } = this.shape;
        return Uint8Array.from({ length: 2 * width * height }, (_, at) => path === "body.1.hidden" ? 3 : at % 4);
      },
      bounds: () => ({ lower: -1.5, upper: 3, step: 1.5, offset: -1, bits: 2 }),
      betas: path => path === "body.0.input" ? { lower: 0.5, upper: 1.25 } : null,
    };
  },
};
