// The engine of the built book, once it is there. Its absence is an error whose message is a sentence for readers.
async function engine() {
  if (document.readyState === "loading") await new Promise(done => addEventListener("DOMContentLoaded", done, { once: true }));
  if (!globalThis.ddtb) throw Error("This runs in the built book, which brings its engine along; what you see here was stored.");
  if (ddtb.unsupported) throw Error(ddtb.unsupported);
  return ddtb;
}

// The pixels of a stored picture, by its address.
async function pixels(source) {
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: picture.naturalWidth, height: picture.naturalHeight });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

// Pixels as the address of a picture.
function address(image) {
  const canvas = Object.assign(document.createElement("canvas"), { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas.toDataURL();
}

// PSNR as the field measures it: on the luma of ITU-R BT.601, `border` pixels at each side left out.
function psnr(image, truth, border) {
  let squares = 0, count = 0;
  for (let y = border; y < image.height - border; y++) {
    for (let x = border; x < image.width - border; x++) {
      const at = 4 * (y * image.width + x), difference = channel => image.data[at + channel] - truth.data[at + channel];
      squares += ((65.738 * difference(0) + 129.057 * difference(1) + 25.064 * difference(2)) / 256) ** 2;
      count++;
    }
  }
  return 10 * Math.log10(255 ** 2 * count / squares);
}
