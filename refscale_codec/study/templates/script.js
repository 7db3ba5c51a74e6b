"use strict";

// Curves: one of several plots, and which coders stand out.
const plots = [...document.querySelectorAll(".plot")], chosen = { ...plots[0].dataset };
for (const button of document.querySelectorAll("[data-field]")) {
  button.addEventListener("click", () => {
    const { field, value } = button.dataset;
    chosen[field] = value;
    for (const plot of plots) plot.hidden = Object.keys(chosen).some((key) => plot.dataset[key] !== chosen[key]);
    for (const other of document.querySelectorAll(`[data-field=${field}]`)) other.setAttribute("aria-pressed", other === button);
    const plot = plots.find((plot) => !plot.hidden);
    for (const chip of document.querySelectorAll("[data-coder]")) {
      chip.hidden = !document.getElementById(plot.id + "-line-" + chip.dataset.coder);
    }
  });
}
for (const chip of document.querySelectorAll("[data-coder]")) {
  chip.addEventListener("click", () => {
    const on = chip.getAttribute("aria-pressed") !== "true";
    chip.setAttribute("aria-pressed", on);
    for (const plot of plots) {
      for (const part of ["line", "label", "lead", "band"]) {
        const group = document.getElementById(plot.id + "-" + part + "-" + chip.dataset.coder);
        if (group) group.classList.toggle("on", on);
      }
      plot.classList.toggle("picked", document.querySelector("[data-coder][aria-pressed=true]") !== null);
    }
  });
}

// Viewers: two layers, the right one cut off at the divider, which stands still while the picture is moved under it.
for (const viewer of document.querySelectorAll(".viewer")) {
  const frame = viewer.querySelector(".frame"), view = viewer.querySelector(".view"), stage = viewer.querySelector(".stage");
  const divider = viewer.querySelector(".divider"), layers = [...stage.children];
  const selects = [...viewer.querySelectorAll("select")], tags = [...viewer.querySelectorAll(".tag")];
  let share = 0.5, zoom = 0;

  const draw = () => {
    const [left, right] = selects.map((select) => layers[select.selectedIndex]);
    const cut = view.scrollLeft + share * view.clientWidth - stage.offsetLeft;
    for (const layer of layers) {
      layer.hidden = layer !== left && layer !== right;
      layer.classList.toggle("over", layer === right && left !== right);
      layer.style.clipPath = layer === right && left !== right ? "inset(0 0 0 " + cut + "px)" : "";
    }
    const names = selects.map((select) => select.selectedOptions[0].textContent);
    tags.forEach((tag, side) => { tag.textContent = names[side]; });
    divider.style.left = 100 * share + "%";
    divider.setAttribute("aria-valuenow", Math.round(100 * share));
    divider.setAttribute("aria-valuetext", Math.round(100 * share) + " % " + names[0] + ", the rest " + names[1]);
  };
  const moveTo = (value) => { share = Math.min(1, Math.max(0, value)); draw(); };
  const moveUnder = (event) => {
    const box = view.getBoundingClientRect();
    moveTo((event.clientX - box.left) / view.clientWidth);
  };
  const drag = (element, start, move) => {
    let origin = null;
    element.addEventListener("pointerdown", (event) => {
      if (!event.isPrimary || event.button !== 0) return;
      origin = start(event);
      if (origin) element.setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", (event) => { if (origin && event.isPrimary) move(event, origin); });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { origin = null; });
  };

  drag(divider, (event) => { divider.focus({ preventScroll: true }); event.preventDefault(); return true; }, moveUnder);
  drag(view, (event) => {
    if (zoom === 0) { moveUnder(event); return { slide: true }; }
    if (event.pointerType !== "mouse" || event.offsetX > view.clientWidth) return null;  // a finger scrolls by itself
    return { x: event.clientX + view.scrollLeft, y: event.clientY + view.scrollTop };
  }, (event, origin) => {
    if (origin.slide) moveUnder(event);
    else view.scrollTo(origin.x - event.clientX, origin.y - event.clientY);
  });
  divider.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 0.1 : 0.01;
    const to = {
      ArrowLeft: share - step, ArrowDown: share - step, ArrowRight: share + step, ArrowUp: share + step,
      PageDown: share - 0.1, PageUp: share + 0.1, Home: 0, End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    moveTo(to);
  });
  for (const button of viewer.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => {
      const old = [view.scrollLeft + view.clientWidth / 2, view.scrollTop + view.clientHeight / 2];
      const size = [stage.offsetWidth, stage.offsetHeight];
      zoom = Number(button.dataset.zoom);
      frame.classList.toggle("zoomed", zoom > 0);
      stage.style.width = zoom ? zoom * stage.dataset.width + "px" : "";
      stage.style.height = zoom ? zoom * stage.dataset.height + "px" : "";
      view.scrollTo(
        old[0] / size[0] * stage.offsetWidth - view.clientWidth / 2,
        old[1] / size[1] * stage.offsetHeight - view.clientHeight / 2,
      );
      for (const other of viewer.querySelectorAll("[data-zoom]")) other.setAttribute("aria-pressed", other === button);
      draw();
    });
  }
  for (const select of selects) select.addEventListener("change", draw);
  view.addEventListener("scroll", draw);
  new ResizeObserver(draw).observe(view);
  draw();
}
