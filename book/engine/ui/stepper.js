// Sums to step through. `steps` are [read, weights, made, text]: read are [grid, cell], made are cells of the last grid.
function stepper(root, steps) {
  const grids = [...root.querySelectorAll(".grid")].map(grid => [...grid.querySelectorAll("i")]);
  const input = root.querySelector("input"), said = root.querySelector("output");
  const when = new Map(steps.flatMap(([, , made], step) => made.map(cell => [cell, step])));

  function show() {
    const now = Number(input.value), [read, weights, made, text] = steps[now];
    for (const cell of grids.flat()) {
      cell.className = "";
      delete cell.dataset.weight;
    }
    grids.at(-1).forEach((cell, index) => cell.classList.toggle("later", when.get(index) > now));
    read.forEach(([grid, index], order) => {
      const cell = grids[grid][index];
      cell.className = "read";
      if (weights.length) cell.dataset.weight = weights[order];
    });
    for (const index of made) grids.at(-1)[index].className = "made";
    said.textContent = text;
    input.setAttribute("aria-valuetext", `${now + 1} of ${steps.length}: ${text}`);
    for (const button of root.querySelectorAll("[data-move]")) button.disabled = !steps[now + Number(button.dataset.move)];
  }

  input.addEventListener("input", show);
  for (const button of root.querySelectorAll("[data-move]")) {
    button.addEventListener("click", () => {
      input.value = Number(input.value) + Number(button.dataset.move);
      show();
    });
  }
  root.classList.add("live");
  show();
}
