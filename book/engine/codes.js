// Codes as the kernels keep them, row by row and plane by plane, and in the order H×W×C. At 2 bits a plane holds two
// channels.

const lengthOf = width => Math.ceil(width / 16) * 16 + 2;
const planesOf = (channels, bits) => (bits === 2 ? channels / 2 : channels);

function interleavedCodes(planes, { channels, height, width, bits }) {
  const length = lengthOf(width), count = planesOf(channels, bits);
  const codes = new Uint8Array(height * width * channels);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let plane = 0; plane < count; plane++) {
        const code = planes[((y + 1) * count + plane) * length + x + 1];
        if (bits === 2) codes[to++] = code & 3;
        codes[to++] = bits === 2 ? code >> 2 : code;
      }
    }
  }
  return codes;
}

// The same way back, with the code `center` on the border.
function planesOfCodes(codes, { channels, height, width, bits }, center) {
  const length = lengthOf(width), count = planesOf(channels, bits);
  const planes = new Uint8Array((height + 2) * count * length).fill(bits === 2 ? center | center << 2 : center);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const pixel = codes.subarray((y * width + x) * channels, (y * width + x + 1) * channels);
      for (let plane = 0; plane < count; plane++) {
        planes[((y + 1) * count + plane) * length + x + 1] =
          bits === 2 ? pixel[2 * plane] | pixel[2 * plane + 1] << 2 : pixel[plane];
      }
    }
  }
  return planes;
}
