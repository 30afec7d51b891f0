"""What `display`, `plt.show()` and progress widgets do in a rank, which has no page: pictures become files.

    plt.show(), fig.show(), display(fig)  ->  figure_1.png beside the rank's log, and one line that says where
    display(image)                        ->  image_1.png, likewise
    display(anything else)                ->  its text

Runs in: ranks, and children they fork. Imports neither IPython nor matplotlib: what the user's code imports is taught
right after its import (payload/at_import.py), what the fork server has loaded at the rank's start.
"""

from __future__ import annotations

import base64
import os
import sys
from typing import Any

from ..terms import env
from .asking import teach_getpass
from .at_import import when_imported

__all__ = ["display", "teach_libraries", "use_backend", "show_open_figures"]

_PICTURES = (("image/png", "_repr_png_", "png"), ("image/jpeg", "_repr_jpeg_", "jpg"))


class DisplayHandle:
    """What `display(..., display_id=True)` returns: an update is shown like anything else, below."""

    def display(self, value: Any, **_: Any) -> None:
        display(value)

    update = display


def display(*objects: Any, display_id: Any = None, **_: Any) -> DisplayHandle | None:
    """IPython's `display` for a rank; its other keywords have no meaning here."""
    for value in objects:
        if _is_figure(value):
            _save_figure(value)
            continue
        bundle = _called(value, "_repr_mimebundle_")
        if isinstance(bundle, tuple):  # data, metadata
            bundle = bundle[0]
        if not isinstance(bundle, dict):
            bundle = {}
        picture = _picture(value, bundle)
        if picture is not None:
            _save("image", *picture, what=type(value).__name__)
        else:
            print(_text(value, bundle))
    return None if display_id is None else DisplayHandle()


def _called(value: Any, method: str) -> Any:
    """What a display method gives; as IPython has it, one that fails gives nothing."""
    if isinstance(value, type):
        return None
    try:
        call = getattr(value, method, None)
        return call() if callable(call) else None
    except Exception:
        return None


def _picture(value: Any, bundle: dict[str, Any]) -> tuple[bytes, str] | None:
    """The first picture an object has, as `(bytes, file ending)`."""
    for mime, method, ending in _PICTURES:
        data = bundle.get(mime) or _called(value, method)
        if isinstance(data, tuple):
            data = data[0]
        if isinstance(data, str):  # as it stands in a notebook's file
            data = base64.b64decode(data)
        if isinstance(data, bytes) and data:
            return data, ending
    return None


def _text(value: Any, bundle: dict[str, Any]) -> str:
    if isinstance(bundle.get("text/plain"), str):
        return str(bundle["text/plain"])
    # IPython's HTML, Markdown, Latex, JSON ...: their repr says nothing, what they hold is text.
    data = getattr(value, "data", None)
    if type(value).__module__ == "IPython.core.display" and isinstance(data, str):
        return data
    return repr(value)


# ---------------------------------------------------------------------------------------------------------- figures


def _is_figure(value: Any) -> bool:
    module = sys.modules.get("matplotlib.figure")
    return module is not None and isinstance(value, module.Figure)


def _save_figure(figure: Any) -> None:
    from io import BytesIO

    drawn = BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    figure.stale = False  # until something is drawn on it
    _save("figure", drawn.getvalue(), "png", what=str(figure))


def _show_for_good(figure: Any) -> None:
    """Save it, unless its last picture still holds, and let pyplot forget it: the next show must not repeat it."""
    if figure.stale:
        _save_figure(figure)
    sys.modules["matplotlib._pylab_helpers"].Gcf.destroy_fig(figure)


def show_open_figures() -> None:
    """Save what pyplot still holds, as a notebook shows it at the end of a cell."""
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        for manager in helpers.Gcf.get_all_fig_managers():
            _show_for_good(manager.canvas.figure)


def _save(kind: str, data: bytes, ending: str, *, what: str) -> None:
    """Write a new file beside the rank's log and say where; a folder that takes none is said, and no failure."""
    folder = os.path.dirname(os.environ.get(env.ERROR_FILE, ""))
    if not folder:
        print(f"{what} was not saved: this run keeps no log folder")
        return
    number, path = 0, ""
    try:
        while True:
            number += 1
            path = os.path.join(folder, f"{kind}_{number}.{ending}")
            try:
                file = open(path, "xb")  # a child of this rank may be saving too
            except FileExistsError:
                continue
            break
        try:
            with file:
                file.write(data)
        except OSError:
            os.unlink(path)
            raise
    except OSError as error:
        print(f"{what} could not be saved as {path}: {error.strerror or error}")
        return
    print(f"{what} saved as {path}")


# -------------------------------------------------------------------------------------------------------- libraries


def teach_libraries() -> None:
    """Have matplotlib, IPython's display and notebook progress bars do all this, once a rank imports them.

    Nothing here depends on the call: `use_backend` does that part.
    """
    when_imported(
        {
            "matplotlib.backend_bases": _teach_managers,
            "matplotlib.figure": _teach_figures,
            "IPython.core.display_functions": _teach_ipython,
            "tqdm.notebook": _teach_tqdm,
            "getpass": teach_getpass,
        }
    )


def use_backend() -> None:
    """A rank that was forked with matplotlib in memory has its parent's backend; it gets its environment's."""
    matplotlib: Any = sys.modules.get("matplotlib")
    if matplotlib is None:
        return
    wanted = os.environ.get(env.MPLBACKEND)
    # Not rcParams["backend"]: looking at it decides one where there is none yet, and imports pyplot.
    if wanted and dict.__getitem__(matplotlib.rcParams, "backend") != wanted:
        matplotlib.use(wanted)
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None:
        helpers.Gcf.figs.clear()  # the parent's figures are its own


def _teach_managers(backend_bases: Any) -> None:
    # pyplot.show() comes here for each open figure; backends with windows have a method of their own.
    def show(self: Any) -> None:
        _show_for_good(self.canvas.figure)

    backend_bases.FigureManagerBase.show = show


def _teach_figures(figures: Any) -> None:
    def show(self: Any, warn: bool = True) -> None:
        _save_figure(self)

    figures.Figure.show = show


def _teach_ipython(display_functions: Any) -> None:
    display_functions.display = display


def _teach_tqdm(notebook: Any) -> None:
    """A widget bar shows nothing here: without its own methods it is the text bar it was derived from."""
    bar = notebook.tqdm_notebook
    for name in ("status_printer", "display", "colour", "__init__", "__iter__", "update", "reset", "close"):
        if name in vars(bar):
            delattr(bar, name)
    plain = bar.__init__

    def __init__(self: Any, *args: Any, display: bool = True, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)

    bar.__init__ = __init__
