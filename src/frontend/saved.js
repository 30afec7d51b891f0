// The saved form, where Python cannot reach it: a page that was reloaded in mid-run does not know the cell's display id,
// so the update that puts the static page in the panel's place passes it by. Its notebook still shows the panel's widget;
// that output is exchanged here. Lab and Notebook 7 only; elsewhere the panel simply stays.

const view = "application/vnd.jupyter.widget-view+json";

/** @param {{box: string, html: string, plain: string}} message `box`: the model id of the widget that was displayed */
export function putIntoNotebook(model, message) {
  // First let the update by display id come; with it there is nothing left to find.
  setTimeout(() => {
    try {
      exchange(model.widget_manager?.context?.model?.cells, message);
    } catch (error) {
      console.warn("ipyelastic: the saved form could not be put in place", error);
    }
  }, 1000);
}

function exchange(cells, { box, html, plain }) {
  if (!cells) return;
  for (let i = 0; i < cells.length; i++) {
    const outputs = cells.get(i).outputs;
    for (let j = 0; outputs && j < outputs.length; j++) {
      if (outputs.get(j).toJSON().data?.[view]?.model_id !== box) continue;
      outputs.set(j, { output_type: "display_data", metadata: {}, data: { "text/html": html, "text/plain": plain } });
    }
  }
}
