// A histogram with two bounds that are dragged by mouse, finger and keys, and with the levels between them. `moved(name,
// value)` hears of a move; whoever listens decides what becomes of it and calls `draw`. Without it, bounds stay put.
function histogram(place, moved, height = 210) {
  const BINS = 96, FOOT = 22, KNOB = 30, MOST_BANDS = 17;
  place.classList.add("histogram");
  place.classList.toggle("still", !moved);
  place.style.height = `${height + (moved ? KNOB : 0)}px`;
  place.innerHTML = `<svg role="img" width="100%" height="${height}"></svg>` + ["lower", "upper"].map(name =>
    `<div class="bound ${name}" ${moved ? `role="slider" tabindex="0" aria-label="${name} bound"` : ""}><b>${name === "lower" ? "▸" : "◂"}</b></div>`).join("");
  const svg = place.querySelector("svg");
  const handles = { lower: place.querySelector(".lower"), upper: place.querySelector(".upper") };
  let values, domain, bars, shown;

  const x = value => (value - domain[0]) / (domain[1] - domain[0]) * place.clientWidth;
  const value = x => domain[0] + x / place.clientWidth * (domain[1] - domain[0]);
  const inside = value => Math.min(Math.max(value, domain[0]), domain[1]);

  function load(newValues, newDomain) {
    [values, domain] = [newValues, newDomain];
    bars = new Float64Array(BINS);
    for (const each of values) {
      const bin = Math.floor((each - domain[0]) / (domain[1] - domain[0]) * BINS);
      if (bin >= 0 && bin < BINS) bars[bin]++;
    }
    const most = Math.log1p(Math.max(...bars));
    bars = bars.map(count => Math.log1p(count) / most); // counts are logarithmic: the tails are what matters
  }

  // A band is all that becomes the level inside it. Levels that some value takes are solid, idle ones hollow.
  function levels(bounds, used) {
    const bands = [], marks = [], count = bounds.highest - bounds.lowest + 1, few = count <= MOST_BANDS;
    for (let index = 0; index < count; index++) {
      const multiple = bounds.lowest + index, at = x(multiple * bounds.step);
      const kind = !few ? "many" : used.has(multiple) ? "used" : "idle";
      marks.push(`<line class="level ${kind}" x1="${at}" x2="${at}" y1="${few ? 12 : height - FOOT - 14}" y2="${height - FOOT}"/>`);
      if (!few) continue;
      marks.push(`<circle class="level ${kind}" cx="${at}" cy="8" r="4"/>`);
      const tie = half => x(Math.min(Math.max((multiple + half) * bounds.step, bounds.lower), bounds.upper));
      const left = index ? tie(-0.5) : x(bounds.lower), right = index < count - 1 ? tie(0.5) : x(bounds.upper);
      bands.push(`<rect class="band${index % 2 ? " odd" : ""}" x="${left}" y="0" width="${Math.max(right - left, 0)}" height="${height - FOOT}"/>`);
    }
    return [bands.join(""), marks.join("")];
  }

  function axis() {
    const rough = (domain[1] - domain[0]) / Math.max(place.clientWidth / 60, 2), power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find(factor => factor * power >= rough) * power, ticks = [];
    for (let tick = Math.ceil(domain[0] / step); tick * step <= domain[1]; tick++) {
      const at = x(tick * step), text = String(Number((tick * step).toPrecision(6))).replace("-", "−");
      if (at > 12 && at < place.clientWidth - 12) ticks.push(`<text x="${at}" y="${height - 5}">${text}</text>`);
      ticks.push(`<line class="axis" x1="${at}" x2="${at}" y1="${height - FOOT}" y2="${height - FOOT + 5}"/>`);
    }
    return `<line class="axis" x1="0" x2="100%" y1="${height - FOOT}" y2="${height - FOOT}"/>${ticks.join("")}`;
  }

  function draw(lower, upper, steps) {
    shown = { lower, upper, steps };
    const bounds = grid(lower, upper, steps), used = new Set(multiples(values, bounds)), floor = height - FOOT, width = place.clientWidth;
    const wide = width / BINS, left = x(inside(lower)), right = x(inside(upper)), [bands, marks] = levels(bounds, used);
    const outline = [...bars].map((share, bin) => share ? `M${bin * wide} ${floor}v${-share * (floor - 18)}h${wide - 0.6}V${floor}` : "");
    svg.innerHTML = `<rect class="clipped lower" width="${left}" height="${floor}"/>
      <rect class="clipped upper" x="${right}" width="${width - right}" height="${floor}"/>
      ${bands}<path class="bars" d="${outline.join("")}"/>${marks}${axis()}`;
    svg.setAttribute("aria-label", `histogram of ${values.length} values, ${steps + 1} levels, ${used.size} of them used`);
    for (const [name, bound] of [["lower", lower], ["upper", upper]]) {
      handles[name].style.left = `${x(inside(bound))}px`;
      for (const [key, number] of [["now", bound], ["min", domain[0]], ["max", domain[1]]]) handles[name].setAttribute(`aria-value${key}`, Number(number.toPrecision(4)));
    }
    return used.size;
  }

  function follow(event) {
    moved(place.dataset.held, inside(value(event.clientX - place.getBoundingClientRect().left)));
  }

  place.addEventListener("pointerdown", event => {
    if (event.button !== 0 || !moved) return;
    event.preventDefault();
    const at = value(event.clientX - place.getBoundingClientRect().left);
    const own = event.target.closest(".bound");
    const nearest = Math.abs(at - shown.lower) < Math.abs(at - shown.upper) ? "lower" : "upper";
    place.dataset.held = own ? (own === handles.lower ? "lower" : "upper") : nearest;
    place.setPointerCapture(event.pointerId);
    handles[place.dataset.held].focus({ preventScroll: true, focusVisible: false });
    follow(event);
  });
  place.addEventListener("pointermove", event => place.hasPointerCapture(event.pointerId) && follow(event));
  place.addEventListener("keydown", event => {
    const name = event.target === handles.lower ? "lower" : "upper";
    const small = (domain[1] - domain[0]) / 200, large = 10 * small, step = event.shiftKey ? large : small;
    const to = {
      ArrowLeft: shown[name] - step, ArrowDown: shown[name] - step, ArrowRight: shown[name] + step, ArrowUp: shown[name] + step,
      PageDown: shown[name] - large, PageUp: shown[name] + large, Home: domain[0], End: domain[1],
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moved(name, inside(to));
  });
  new ResizeObserver(() => shown && draw(shown.lower, shown.upper, shown.steps)).observe(place);
  return { load, draw };
}
