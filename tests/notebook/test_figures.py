"""Figures and images of ranks: files beside the log, one line that says where; everything else as text."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.kernels import Kernel

Ranks = Callable[..., list[Any]]
METHODS = ("forkserver", "spawn", "fork")
PNG = b"\x89PNG\r\n\x1a\n"
pytestmark = pytest.mark.slow
needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib, which the test extra installs"
)


@pytest.fixture(scope="module")
def kernel(module_kernel: Kernel) -> Kernel:
    return module_kernel


@pytest.fixture(scope="module")
def plot_kernel(module_kernel: Kernel) -> Kernel:
    """The kernel's own backend is the inline one, and a figure of its own is open."""
    made = module_kernel.run("import matplotlib.pyplot as plt\nown = plt.figure(num=77)\nplt.get_backend()")
    assert made.ok, made.text
    assert "inline" in str(made.value)
    return module_kernel


def saved(out: str) -> list[tuple[int, str, Path]]:
    """`(rank, what, path)` of every line that says where a picture is; there is no other line."""
    found = [re.fullmatch(r"\[rank (\d)\] (\S+) saved as (/\S+)", line) for line in out.splitlines()]
    assert all(found), out
    places = [(int(one[1]), one[2], Path(one[3])) for one in found if one is not None]
    assert all(path.read_bytes().startswith(PNG) for _, _, path in places)
    return places


@needs_matplotlib
@pytest.mark.parametrize("method", METHODS)
def test_show_saves_a_figure_beside_the_log_and_says_where(plot_kernel: Kernel, method: str) -> None:
    body = "plt.plot([rank, 2])\nplt.show()\nplt.show()\n(plt.get_backend(), plt.get_fignums())"
    result = plot_kernel.run(f"%%elastic_run -n 2 --start-method {method}\n{body}")
    assert result.value == "[0: ('agg', []), 1: ('agg', [])]", result.text
    places = sorted(saved(result.out))
    assert [(rank, what, path.name) for rank, what, path in places] == [
        (rank, "Figure(640x480)", "figure_1.png") for rank in (0, 1)
    ]
    for rank, _, path in places:
        log = plot_kernel.value(f"__import__('ipyelastic').last_run().ranks[{rank}].stdout_path")
        assert path.parent == Path(log).parent


@needs_matplotlib
@pytest.mark.parametrize("backend", ["svg", "pdf"])
def test_backend_of_the_users_choice_is_the_ranks(plot_kernel: Kernel, backend: str) -> None:
    result = plot_kernel.run(
        f"%%elastic_run -n 1 --env MPLBACKEND={backend}\nplt.figure()\nplt.show()\nplt.get_backend()"
    )
    assert result.value == f"[0: '{backend}']"
    assert len(saved(result.out)) == 1


@needs_matplotlib
@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("display(figure)", 1),
        ("figure.show()", 1),
        ("plt.show()", 1),
        ("plt.show(block=True)", 1),
        ("from matplotlib.pyplot import show\nshow()", 1),
        ("from IPython.display import display\ndisplay(figure)", 1),
        ("display(figure)\nplt.show()", 1),
        ("display(figure)\naxes.plot([3, 4])\nplt.show()", 2),
        ("display(figure)\nfigure.show()", 2),
        ("plt.show()\nplt.plot([1])\nplt.show()", 2),
        ("plt.show()\ndisplay(figure)", 2),
        ("", 1),
        ("plt.close('all')", 0),
        ("plt.close('all')\nfrom matplotlib.figure import Figure\ndisplay(Figure())", 1),
    ],
)
def test_each_picture_is_shown_as_often_as_in_a_notebook(plot_kernel: Kernel, body: str, count: int) -> None:
    body = f"import warnings\nwarnings.simplefilter('error')\nfigure, axes = plt.subplots()\naxes.plot([1, 2])\n{body}"
    result = plot_kernel.run(f"%%elastic_run -n 1\n{body};")
    assert result.ok, result.text
    assert [path.name for _, _, path in saved(result.out)] == [f"figure_{n + 1}.png" for n in range(count)]


@needs_matplotlib
def test_figure_as_a_value_comes_home_and_opens_nothing_there(plot_kernel: Kernel) -> None:
    result = plot_kernel.run("%%elastic_run -n 2 -o figures\nplt.figure(figsize=(2, 1 + rank))")
    assert [what for _, what, _ in sorted(saved(result.out))] == ["Figure(200x100)", "Figure(200x200)"]
    assert plot_kernel.value("[tuple(figure.get_size_inches()) == (2, 1 + n) for n, figure in enumerate(figures)]") == [
        True,
        True,
    ]
    assert plot_kernel.value("set(plt.get_fignums()) <= {77}") is True


@needs_matplotlib
def test_children_of_a_rank_save_beside_it_too(plot_kernel: Kernel) -> None:
    body = "import os\nplt.figure()\nif os.fork() == 0:\n    plt.show()\n    os._exit(0)\nos.wait()\nplt.show()"
    result = plot_kernel.run(f"%%elastic_run -n 1\n{body}")
    assert sorted(path.name for _, _, path in saved(result.out)) == ["figure_1.png", "figure_2.png"], result.text


@needs_matplotlib
@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_a_rank_imports_neither_matplotlib_nor_ipython_by_itself(new_kernel: Any, start_method: str) -> None:
    fresh = new_kernel()
    fresh.run("%load_ext ipyelastic")
    body = "import sys\ndisplay({'a': 1})\n"
    body += "[name in sys.modules for name in ('IPython', 'matplotlib', 'PIL', 'multiprocessing')]"
    result = fresh.run(f"%%elastic_run -n 1 --start-method {start_method}\n{body}")
    assert (result.out, result.value) == ("[rank 0] {'a': 1}\n", "[0: [False, False, False, False]]")


@needs_matplotlib
def test_figure_that_cannot_be_saved_is_said_and_no_failure(plot_kernel: Kernel) -> None:
    body = "import os\nos.environ['TORCHELASTIC_ERROR_FILE'] = '/nowhere/error.json'\nplt.figure()\nplt.show()\n1"
    result = plot_kernel.run(f"%%elastic_run -n 1\n{body}")
    words = "Figure(640x480) could not be saved as /nowhere/figure_1.png: No such file or directory"
    assert (result.out, result.value) == (f"[rank 0] {words}\n", "[0: 1]"), result.text


@needs_matplotlib
def test_full_disk_leaves_words_and_no_half_picture(plot_kernel: Kernel) -> None:
    body = "import os, resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    body += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\nplt.figure()\nplt.show()\n"
    body += "os.path.exists(os.path.join(os.path.dirname(os.environ['TORCHELASTIC_ERROR_FILE']), 'figure_1.png'))"
    result = plot_kernel.run(f"%%elastic_run -n 1\n{body}")
    assert re.fullmatch(
        r"\[rank 0\] Figure\(640x480\) could not be saved as /\S+/figure_1\.png: File too large\n", result.out
    )
    assert result.value == "[0: False]"


@needs_matplotlib
def test_image_is_saved_like_a_figure(kernel: Kernel) -> None:
    body = "from PIL import Image\ndisplay(Image.new('RGB', (4, 4)))\n"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert [(what, path.name) for _, what, path in saved(result.out)] == [("Image", "image_1.png")]


def test_whatever_has_a_png_form_is_saved(kernel: Kernel) -> None:
    body = f"class Own:\n    def _repr_png_(self): return {PNG!r}, {{}}\n"
    body += "class Other:\n    def _repr_mimebundle_(self, include=None, exclude=None):\n"
    body += "        import base64\n"
    body += f"        return {{'image/png': base64.b64encode({PNG!r}).decode(), 'text/plain': 'words'}}\n"
    body += "display(Own(), Other())"
    result = kernel.run(f"%%elastic_run -n 1\n{body}")
    assert [(what, path.name) for _, what, path in saved(result.out)] == [
        ("Own", "image_1.png"),
        ("Other", "image_2.png"),
    ]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        ("{'a': 1}", "{'a': 1}"),
        ("'text'", "'text'"),
        ("1, [2]", "1\n[rank 0] [2]"),
        ("Own", "<class '__main__.Own'>"),
        ("Own()", "words of its own"),
        ("Failing()", "failing"),
        ("IPython.display.HTML('<b>bold</b>')", "<b>bold</b>"),
        ("IPython.display.Markdown('# title')", "# title"),
        ("1, display_id=True", "1"),
        ("1, display_id='name', metadata={}", "1"),
    ],
)
@pytest.mark.parametrize("name", ["display", "IPython.display.display", "from_notebook"])
def test_everything_else_is_shown_as_text(kernel: Kernel, name: str, shown: str, text: str) -> None:
    kernel.run("from IPython.display import display as from_notebook")
    body = "import IPython.display\nclass Own:\n"
    body += "    def _repr_mimebundle_(self, **_): return {'text/plain': 'words of its own'}\n"
    body += "class Failing:\n    def _repr_png_(self): raise ValueError\n    def __repr__(self): return 'failing'\n"
    result = kernel.run(f"%%elastic_run -n 1\n{body}_ = {name}({shown})")
    assert (result.ok, result.out) == (True, f"[rank 0] {text}\n"), result.text


def test_display_handle_shows_its_updates(kernel: Kernel) -> None:
    body = "handle = display('one', display_id=True)\nhandle.update('two')\nhandle.display('three')"
    assert kernel.run(f"%%elastic_run -n 1\n{body}").out == "[rank 0] 'one'\n[rank 0] 'two'\n[rank 0] 'three'\n"
