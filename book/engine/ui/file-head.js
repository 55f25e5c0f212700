// What the head of an image file says before a pixel of it is decoded: {width, height, notes}, as far as it is known.
function fileHead(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const text = (from, length) => String.fromCharCode(...bytes.subarray(from, from + length));
  const animated = "It is animated; its first picture is taken.", notes = [];
  if (bytes.length < 30) return { notes };
  if (text(1, 3) === "PNG") {
    if (bytes[24] === 16) notes.push("Its 16 bits for each channel become 8.");
    for (let at = 8; at + 8 <= bytes.length; at += 12 + view.getUint32(at)) if (text(at + 4, 4) === "acTL") notes.push(animated);
    return { width: view.getUint32(16), height: view.getUint32(20), notes };
  }
  if (view.getUint16(0) === 0xffd8) {
    for (let at = 2; at + 10 <= bytes.length; at += 2 + view.getUint16(at + 2)) {
      const marker = bytes[at + 1], isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
      if (bytes[at] !== 0xff) break;
      if (!isFrame) continue;
      if (bytes[at + 9] === 4) notes.push("It is made for print (CMYK); your browser turns it into red, green and blue.");
      return { width: view.getUint16(at + 7), height: view.getUint16(at + 5), notes };
    }
    return { notes };
  }
  if (text(0, 3) === "GIF") {
    if (pictures(bytes) > 1) notes.push(animated);
    return { width: view.getUint16(6, true), height: view.getUint16(8, true), notes };
  }
  if (text(8, 8) === "WEBPVP8X") {
    if (bytes[20] & 2) notes.push(animated);
    const size = at => 1 + view.getUint16(at, true) + (bytes[at + 2] << 16);
    return { width: size(24), height: size(27), notes };
  }
  return { notes };
}

// How many pictures a GIF file holds, as far as the bytes reach: 2 stands for more.
function pictures(bytes) {
  const colors = flags => flags & 128 ? 3 * 2 ** ((flags & 7) + 1) : 0;
  let at = 13 + colors(bytes[10]), count = 0;
  while (at < bytes.length && count < 2) {
    if (bytes[at] === 0x2c) {
      count++;
      at += 11 + colors(bytes[at + 9]);
    } else if (bytes[at] === 0x21) at += 2;
    else break;
    while (bytes[at]) at += bytes[at] + 1; // blocks of data, each after its length, up to an empty one
    at++;
  }
  return count;
}
