// A dropdown that Escape closed opens again when it is clicked: Gradio opens it only when it takes the focus.
document.addEventListener("pointerdown", (event) => {
  const box = event.target.closest?.("#gp-method input, #gp-compare input");
  if (box && box === document.activeElement && !document.querySelector("[role=option]")) box.blur();
});
