// Answers the page, one message at a time: {call, argument} with {result} or {error}, and {progress} in between.

const PROGRESS_INTERVAL = 50; // milliseconds
const NO_MEMORY = "There is not enough memory for a picture of this size. Choose a smaller one.";

let network;

const answers = {
  open({ kernels, bytes }) {
    network = new Network(new WebAssembly.Instance(new WebAssembly.Module(kernels)).exports, readCheckpoint(bytes));
    return { result: { ...network.facts, bytes: bytes.length } };
  },

  upscale({ image, gates, bounds, keep }) {
    let told = performance.now();
    const onProgress = done => {
      if (performance.now() - told < PROGRESS_INTERVAL) return;
      told = performance.now();
      postMessage({ progress: done });
    };
    const started = performance.now();
    const data = network.upscale(image, { gates, bounds, keep, onProgress });
    const milliseconds = performance.now() - started;
    const { codes, bounds: used, betas, bodyMilliseconds } = network.trace;
    const buffers = [data.buffer, ...Object.values(codes).map(planes => planes.buffer)];
    return { result: { data, codes, bounds: used, betas, milliseconds, bodyMilliseconds }, transfer: buffers };
  },

  activation({ path, image, gates, bounds }) {
    const result = network.upscale(image, { gates, bounds, stop: path });
    return { result, transfer: [result.buffer] };
  },

  quantize({ path, features, height, width }) {
    const result = network.quantizeAlone(path, features, height, width);
    return { result, transfer: [result.buffer] };
  },

  sums({ path, codes, height, width, offset }) {
    const result = network.sums(path, codes, height, width, offset);
    return { result, transfer: [result.buffer] };
  },
};

onmessage = ({ data: { call, argument, silent } }) => {
  try {
    const { result, transfer = [] } = answers[call](argument);
    if (!silent) postMessage({ result }, transfer);
  } catch (error) {
    postMessage({ error: error instanceof RangeError ? NO_MEMORY : error.message }); // so says what cannot be allocated
  }
};
