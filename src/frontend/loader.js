// What every panel's widget carries: asks Python for the bundle, once per page, and hands the view over to it.
//
// The bundle is not put into `_esm` itself: that is sent again with every widget, and nbclient saves it.
// Other end: notebook/panel_view.py answers "bundle?" with panel.js as one binary buffer.

const key = "__ipyelastic_panel";

function ask(model) {
  return new Promise((resolve, reject) => {
    const again = setInterval(() => model.send({ kind: "bundle?" }), 4000); // the kernel may have been deaf
    const take = async (message, buffers) => {
      if (message.kind !== "bundle") return;
      model.off("msg:custom", take);
      clearInterval(again);
      const url = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      try {
        resolve(await import(/* webpackIgnore: true */ url));
      } catch (error) {
        reject(error);
      } finally {
        URL.revokeObjectURL(url);
      }
    };
    model.on("msg:custom", take);
    model.send({ kind: "bundle?" });
  });
}

async function render(props) {
  const { model, el } = props;
  const version = model.get("version");
  const loaded = (globalThis[key] ??= {});
  loaded[version] ??= ask(model);
  el.textContent = "…";
  try {
    const panel = await loaded[version];
    el.textContent = "";
    return panel.default.render(props);
  } catch (error) {
    delete loaded[version];
    el.textContent = `The panel could not be loaded (${error.message}); the run goes on, %elastic_logs shows its output.`;
  }
}

export default { render };
