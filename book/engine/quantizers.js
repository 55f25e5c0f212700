// Trained quantizers of activations, and the gates that move their bounds.

const BATCH_NORM_EPSILON = 1e-5;
const GATE_BITS = 2;

// The lower and upper bound of a trained quantizer, and how many steps lie between them. A gate looks at so many
// `gatedChannels`, if there is one.
class ActivationQuantizer {
  constructor(tensors, path, { method, bits }, gatedChannels) {
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
    this.gate = gatedChannels ? new Gate(tensors, `${path}.gate`, gatedChannels) : null;
  }
}

// A picture's channel means to the two factors of its bounds.
class Gate {
  constructor(tensors, path, channels) {
    const hidden = tensor(tensors, `${path}.norm.weight`).values.length;
    const rows = (name, outs, ins) => {
      const { values } = tensor(tensors, `${path}.${name}.weight.codebook`);
      const weights = Float32Array.from(codebookIndices(tensors, `${path}.${name}.weight`, outs * ins), i => values[i]);
      return Array.from({ length: outs }, (_, out) => weights.subarray(out * ins, (out + 1) * ins));
    };
    this.reduce = rows("reduce", hidden, channels);
    this.expand = rows("expand", 2, hidden);
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
