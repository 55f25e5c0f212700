// A slider that goes through frames computed beforehand. `frames` are [source, label, text].
function explorer(root, frames) {
  const input = root.querySelector("input"), image = root.querySelector("img"), said = root.querySelector("output");
  input.addEventListener("input", () => {
    const [source, label, text] = frames[input.value];
    image.src = source;
    image.alt = text;
    input.setAttribute("aria-valuetext", label);
    said.textContent = `${label}: ${text}`;
  });
}
