// "Copy as Python": also where the clipboard is closed to pages without https.
document.addEventListener("click", async (event) => {
  const button = event.target.closest?.(".gp-copy");
  if (!button) return;
  const code = button.closest(".gp-save").querySelector("pre");
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    button.closest(".gp-save").querySelector("details").open = true;
    getSelection().selectAllChildren(code);
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
  }
  setTimeout(() => { button.textContent = "Copy as Python"; }, 2000);
});
