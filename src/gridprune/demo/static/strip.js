// The strip of images: a click chooses one; a dropped, pasted or chosen file is sent. `element`, `props` and `trigger`
// are Gradio's.
const say = (words) => trigger("upload", { problem: words });

const send = async (file) => {
  if (!file) return;
  const most = Number(props.max_bytes);
  if (file.size > most) {
    return say(`The file has ${file.size.toLocaleString("en")} bytes; at most ${most.toLocaleString("en")} are read. Scale it down, or save it as JPEG or WebP.`);
  }
  element.querySelector(".gp-drop").classList.add("gp-busy");
  try {
    const reply = await fetch("./image?name=" + encodeURIComponent(file.name || "image"), { method: "POST", body: file });
    trigger("upload", await reply.json());
  } catch {
    say("The image did not arrive. Check that the server is still running, and try again.");
  } finally {
    element.querySelector(".gp-drop")?.classList.remove("gp-busy");
  }
};

const drop = (event) => event.target.closest?.(".gp-drop");
element.addEventListener("click", (event) => {
  const thumb = event.target.closest(".gp-thumb");
  if (thumb) trigger("select", { index: Number(thumb.dataset.index) });
});
element.addEventListener("change", (event) => {
  send(event.target.files?.[0]);
  event.target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  element.addEventListener(name, (event) => {
    if (!drop(event)) return;
    event.preventDefault();
    drop(event).classList.toggle("gp-over", name === "dragover");
    if (name === "drop") send(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (element.isConnected && event.clipboardData.files.length) send(event.clipboardData.files[0]);
});
