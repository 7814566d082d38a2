// The strip of images: a click chooses one; dropped, pasted or chosen files are sent together. `element`, `props` and
// `trigger` are Gradio's.
const say = (words) => trigger("upload", { problem: words });
const isVideo = (file) => file.type.startsWith("video/");

const refused = (files) => {
  if (files.some(isVideo)) {
    if (props.no_video) return props.no_video;
    if (files.length > 1) return "Send a video by itself.";
  }
  if (files.length > Number(props.most)) return `${files.length} files; at most ${props.most} images are asked about at once.`;
  for (const file of files) {
    const most = Number(isVideo(file) ? props.max_video : props.max_bytes);
    if (file.size > most) {
      const how = isVideo(file) ? "Cut it, or scale it down." : "Scale it down, or save it as JPEG or WebP.";
      return `The file has ${file.size.toLocaleString("en")} bytes; at most ${most.toLocaleString("en")} are read. ${how}`;
    }
  }
  return "";
};

const send = async (list) => {
  const files = [...(list ?? [])], problem = refused(files), tickets = [];
  if (!files.length) return;
  if (problem) return say(problem);
  element.querySelector(".gp-drop").classList.add("gp-busy");
  try {
    for (const file of files) {
      const path = `./${isVideo(file) ? "video" : "image"}?name=` + encodeURIComponent(file.name || "image");
      const reply = await (await fetch(path, { method: "POST", body: file })).json();
      if (reply.problem) return say(files.length > 1 ? `${file.name}: ${reply.problem}` : reply.problem);
      tickets.push(reply.ticket);
    }
    trigger("upload", { tickets });
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
  send(event.target.files);
  event.target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  element.addEventListener(name, (event) => {
    if (!drop(event)) return;
    event.preventDefault();
    drop(event).classList.toggle("gp-over", name === "dragover");
    if (name === "drop") send(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (element.isConnected) send(event.clipboardData.files);
});
