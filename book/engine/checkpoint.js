// Reads the package's packed .safetensors, and refuses one whose content does not have the checksum stored with it.

const DTYPES = {
  F32: { name: "torch.float32", size: 4, read: bytes => new Float32Array(bytes) },
  F16: { name: "torch.float16", size: 2, read: bytes => fromHalf(new Uint16Array(bytes)) },
  U8: { name: "torch.uint8", size: 1, read: bytes => new Uint8Array(bytes) },
  I64: { name: "torch.int64", size: 8, read: bytes => new BigInt64Array(bytes) },
};

// What one unit of a half's fraction is worth at each exponent.
const POWERS = Float64Array.from({ length: 31 }, (_, exponent) => 2 ** (exponent - 25));

// {header, sha256, tensors}: tensors by name, each {shape, values}, scalars among them.
function readCheckpoint(bytes) {
  const damaged = why => new Error(`This checkpoint is damaged: ${why}. Load the page again.`);
  let described, text;
  if (bytes.length < 8) throw damaged("it is cut short");
  const content = 8 + Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (content > bytes.length) throw damaged("it is cut short");
  try {
    const { __metadata__: metadata, ...entries } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, content)));
    described = entries;
    text = metadata.ddtb_lite;
  } catch {
    throw damaged("its header cannot be read");
  }
  const digest = new Sha256();
  const { sha256, ...header } = JSON.parse(text);
  digest.update(utf8(canonical(text, "sha256")));
  const tensors = {};
  for (const name of Object.keys(described).sort()) {
    const { dtype, shape, data_offsets: [begin, end] } = described[name];
    const type = DTYPES[dtype];
    const count = shape.reduce((product, size) => product * size, 1);
    if (!type || end - begin !== count * type.size) throw damaged(`${name} is not what its header says`);
    if (content + end > bytes.length) throw damaged("it is cut short");
    const raw = bytes.slice(content + begin, content + end);
    digest.update(utf8(`\n${name} ${type.name} (${shape.join(", ")}${shape.length === 1 ? "," : ""})\n`));
    digest.update(raw);
    tensors[name] = { shape, values: type.read(raw.buffer) };
  }
  if (digest.hexadecimal() !== sha256) throw damaged("its content does not have the checksum that was stored with it");
  for (const [type, names] of Object.entries(header.scalars)) {
    const { values } = tensors[`scalars.${type}`];
    names.forEach((name, index) => { tensors[name] = { shape: [], values: values.subarray(index, index + 1) }; });
  }
  return { header, sha256, tensors };
}

function tensor(tensors, name) {
  if (!tensors[name]) throw new Error(`This is the checkpoint of another network: it has no ${name}.`);
  return tensors[name];
}

// JSON as Python writes it with sorted keys, numbers and strings as they stand, without the key `left` at the top.
function canonical(text, left) {
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g);
  let at = 0;
  const value = depth => {
    const token = tokens[at++];
    if (token !== "{" && token !== "[") return token;
    const close = token === "{" ? "}" : "]";
    const items = [];
    while (tokens[at] !== close) {
      if (tokens[at] === ",") at++;
      if (token === "[") {
        items.push({ text: value(depth + 1) });
      } else {
        const literal = tokens[at++];
        at++; // the colon
        const item = { key: JSON.parse(literal), text: `${literal}: ${value(depth + 1)}` };
        if (depth || item.key !== left) items.push(item);
      }
    }
    at++;
    if (token === "{") items.sort((a, b) => (a.key < b.key ? -1 : 1));
    return `${token}${items.map(item => item.text).join(", ")}${close}`;
  };
  return value(0);
}

// Indices into the codebook of a packed weight.
function codebookIndices(tensors, name, count) {
  const size = tensor(tensors, `${name}.codebook`).shape[1];
  const width = Math.max(1, 32 - Math.clz32(size - 1));
  const indices = unpackIndices(tensor(tensors, `${name}.packed`).values, width, count);
  if (indices.some(index => index >= size)) throw new Error(`${name} refers to a value that its codebook lacks.`);
  return indices;
}

// Indices of `width` bits each, least significant bit first, without gaps.
function unpackIndices(packed, width, count) {
  if (packed.length !== Math.ceil(count * width / 8)) {
    throw new Error(`A packed weight has ${packed.length} bytes, which does not fit ${count} values of ${width} bits.`);
  }
  const indices = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const bit = i * width;
    const two = packed[bit >> 3] | (packed[(bit >> 3) + 1] ?? 0) << 8;
    indices[i] = two >> (bit & 7) & (1 << width) - 1;
  }
  return indices;
}

function fromHalf(halves) {
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) {
    const sign = halves[i] >> 15 ? -1 : 1;
    const exponent = halves[i] >> 10 & 31;
    const fraction = halves[i] & 1023;
    if (exponent === 31) values[i] = fraction ? NaN : sign * Infinity;
    else values[i] = sign * (exponent ? (1024 + fraction) * POWERS[exponent] : fraction * POWERS[1]);
  }
  return values;
}

function utf8(text) {
  return new TextEncoder().encode(text);
}

// crypto.subtle is missing where pages come from files, so this is FIPS 180-4 by hand.
class Sha256 {
  constructor() {
    // The first 32 bits of the fractional parts of the cube and square roots of the first primes.
    const primes = [];
    for (let n = 2; primes.length < 64; n++) if (primes.every(p => n % p)) primes.push(n);
    const fraction = root => Math.floor((root % 1) * 2 ** 32) | 0;
    this.constants = Int32Array.from(primes, p => fraction(Math.cbrt(p)));
    this.state = Int32Array.from(primes.slice(0, 8), p => fraction(Math.sqrt(p)));
    this.schedule = new Int32Array(64);
    this.block = new Uint8Array(64);
    this.filled = 0;
    this.length = 0;
  }

  update(bytes) {
    this.length += bytes.length;
    for (let at = 0; at < bytes.length;) {
      const count = Math.min(64 - this.filled, bytes.length - at);
      this.block.set(bytes.subarray(at, at + count), this.filled);
      this.filled += count;
      at += count;
      if (this.filled === 64) this.compress();
    }
  }

  compress() {
    const { schedule: w, constants, state } = this;
    const view = new DataView(this.block.buffer);
    const turn = (x, by) => x >>> by | x << 32 - by;
    for (let t = 0; t < 16; t++) w[t] = view.getInt32(4 * t);
    for (let t = 16; t < 64; t++) {
      const early = turn(w[t - 15], 7) ^ turn(w[t - 15], 18) ^ w[t - 15] >>> 3;
      const late = turn(w[t - 2], 17) ^ turn(w[t - 2], 19) ^ w[t - 2] >>> 10;
      w[t] = w[t - 16] + early + w[t - 7] + late;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let t = 0; t < 64; t++) {
      const choice = e & f ^ ~e & g;
      const first = h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + constants[t] + w[t] | 0;
      const second = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + (a & b ^ a & c ^ b & c) | 0;
      h = g, g = f, f = e, e = d + first | 0, d = c, c = b, b = a, a = first + second | 0;
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => { state[i] += value; });
    this.filled = 0;
  }

  hexadecimal() {
    const bits = 8 * this.length;
    this.update(Uint8Array.of(0x80));
    while (this.filled !== 56) this.update(Uint8Array.of(0));
    const length = new DataView(new ArrayBuffer(8));
    length.setBigUint64(0, BigInt(bits));
    this.update(new Uint8Array(length.buffer));
    return Array.from(this.state, value => (value >>> 0).toString(16).padStart(8, "0")).join("");
  }
}
