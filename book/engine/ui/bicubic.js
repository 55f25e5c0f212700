// Enlarges like MATLAB's imresize(image, scale, 'bicubic'): height first, then width, each rounded to grey levels.
function bicubic(image, scale) {
  const { width, height } = image, row = 4 * width;
  const tall = enlargeLines(image.data, { lines: width, size: height, along: row, across: 4, apart: 4 }, scale);
  const wide = enlargeLines(tall, { lines: scale * height, size: width, along: 4, across: row, apart: scale * row }, scale);
  return new ImageData(wide, scale * width, scale * height);
}

// Parallel lines of `size` pixels become `scale` times as long. Pixels of a line lie `along` bytes apart, lines `across`,
// and `apart` when they have grown.
function enlargeLines(source, { lines, size, along, across, apart }, scale) {
  const target = new Uint8ClampedArray(source.length * scale), taps = [0, 1, 2, 3];
  for (let at = 0; at < size * scale; at++) {
    const center = (at + 0.5) / scale - 0.5, first = Math.floor(center) - 1;
    const raw = taps.map(tap => cubic(center - first - tap)), sum = raw[0] + raw[1] + raw[2] + raw[3];
    const [a, b, c, d] = raw.map(weight => weight / sum);
    const [i, j, k, l] = taps.map(tap => along * mirrored(first + tap, size));
    for (let line = 0; line < lines; line++) {
      for (let channel = 0; channel < 4; channel++) {
        const from = line * across + channel;
        const total = source[i + from] * a + source[j + from] * b + source[k + from] * c + source[l + from] * d;
        target[at * along + line * apart + channel] = Math.floor(total + 0.5);
      }
    }
  }
  return target;
}

// Past its ends a line goes on as in a mirror.
function mirrored(index, size) {
  const place = ((index % (2 * size)) + 2 * size) % (2 * size);
  return place < size ? place : 2 * size - 1 - place;
}

// Keys' cubic kernel with a = −1/2.
function cubic(x) {
  x = Math.abs(x);
  if (x <= 1) return (1.5 * x - 2.5) * x * x + 1;
  return x <= 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}
