// A curtain between two pictures of one scene: dragged on the picture by mouse or finger, moved by the keys of the
// slider that lies over it. `versions` are [label, source], for the menus; without menus none are needed.
function swipe(root, versions = []) {
  const stage = root.querySelector(".stage"), input = stage.querySelector("input");

  function show() {
    const [left, right] = ["before", "after"].map(side => stage.querySelector(`.tag.${side}`).textContent);
    stage.style.setProperty("--position", `${input.value}%`);
    input.setAttribute("aria-valuetext", `${input.value} %, left of it ${left}, right of it ${right}`);
  }

  function follow(event) {
    const { left, width } = stage.getBoundingClientRect();
    input.value = 100 * (event.clientX - left) / width;
    input.dispatchEvent(new Event("input", { bubbles: true }));
  }

  stage.addEventListener("pointerdown", event => {
    if (event.button !== 0) return;
    event.preventDefault(); // neither the picture nor text beside it is dragged along
    input.focus({ preventScroll: true, focusVisible: false });
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", event => stage.hasPointerCapture(event.pointerId) && follow(event));
  input.addEventListener("input", show);
  for (const menu of root.querySelectorAll("select")) {
    menu.addEventListener("change", () => {
      const [label, source] = versions[menu.value], picture = stage.querySelector(`img.${menu.className}`);
      picture.src = source;
      picture.alt = stage.querySelector(`.tag.${menu.className}`).textContent = label;
      show();
    });
  }
  show();
}
