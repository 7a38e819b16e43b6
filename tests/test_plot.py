"""Pictures: what is drawn and what is refused.

Whether they are beautiful, only eyes can tell.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from symng.training.history import History

pytest.importorskip("matplotlib")
from symng import plot


def make(steps=100, every=10, factor=1.0):
    history = History()
    for step in range(1, steps + 1):
        error = factor * 17 / step if step == 1 or step % every == 0 else None
        history.append(step=step, seconds=0.5 * step, loss=50.0 / step, squared_error=error)
    return history


IMAGES = np.random.default_rng(0).random((15, 784)).astype("float32")


def draw(figure):
    """Draw without a file; overlapping or failing layouts warn, which is an error here."""
    figure.canvas.draw()
    return figure


pytestmark = pytest.mark.filterwarnings("error")


def test_evaluated_rows_are_drawn_against_steps_and_seconds_on_log_axes():
    panels = draw(plot.training_curves(make())).axes
    steps = [1, *range(10, 101, 10)]
    for panel, x in zip(panels, [steps, 0.5 * np.array(steps)], strict=True):
        (line,) = panel.get_lines()
        np.testing.assert_allclose(line.get_xdata(), x)
        np.testing.assert_allclose(line.get_ydata(), 17 / np.array(steps))
        assert panel.get_xscale() == panel.get_yscale() == "log"
        assert panel.get_legend() is None
    assert panels[0].get_xlabel() == "step"
    assert panels[1].get_xlabel() == "time of training (seconds)"
    assert panels[0].get_ylabel() == "training squared error per image"


def test_several_runs_have_a_legend_and_colors_of_their_own():
    runs = {f"run {i}": make(factor=i) for i in range(1, 10)}
    panels = draw(plot.training_curves(runs, column="loss")).axes
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == list(runs)
    for panel in panels:
        styles = {(line.get_color(), line.get_linestyle()) for line in panel.get_lines()}
        assert len(styles) == len(runs)
    assert panels[0].get_ylabel() == "loss"


def test_seeds_of_one_name_share_a_color_and_an_entry_of_the_legend():
    runs = {"SGD": [make(), make(factor=2), make(factor=3)], "NGD": make(factor=0.5)}
    panels = draw(plot.training_curves(runs)).axes
    assert [text.get_text() for text in panels[1].get_legend().get_texts()] == ["SGD", "NGD"]
    for panel in panels:
        colors = [line.get_color() for line in panel.get_lines()]
        assert len(colors) == 4 and colors[0] == colors[1] == colors[2] != colors[3]
    with pytest.raises(TypeError, match="^histories: .* at 'SGD'"):
        plot.training_curves({"SGD": []})


def test_rows_a_log_axis_cannot_show_are_left_out():
    history = History()
    for step, error in [(0, 20.0), (1, 10.0), (2, np.inf), (3, 0.0), (4, 5.0)]:
        history.append(step=step, seconds=1.0 + step, squared_error=error)
    steps, seconds = draw(plot.training_curves(history)).axes
    assert steps.get_lines()[0].get_xdata().tolist() == [1, 4]
    assert seconds.get_lines()[0].get_xdata().tolist() == [1, 2, 5]


@pytest.mark.parametrize("errors", [[None, None], [3.0], [3.0, 3.0], [1e-7, 1e5], [10.1, 10.2]])
def test_few_rows_and_odd_ranges_are_drawn(errors, tmp_path):
    history = History()
    for step, error in enumerate(errors, start=1):
        history.append(step=step, seconds=2.0 * step, squared_error=error)
    figure = plot.training_curves(history, path=tmp_path / "picture.png")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == (["squared_error was never evaluated"] if errors[0] is None else [])
    assert (tmp_path / "picture.png").stat().st_size > 5_000


def test_originals_stand_above_their_reconstructions():
    figure = draw(plot.reconstructions(IMAGES, 1 - IMAGES, n=5))
    assert len(figure.axes) == 10
    for i, panel in enumerate(figure.axes):
        shown = panel.get_images()[0]
        expected = IMAGES[i % 5] if i < 5 else 1 - IMAGES[i % 5]
        np.testing.assert_array_equal(shown.get_array(), expected.reshape(28, 28))
        assert shown.get_clim() == (0, 1)
    assert [figure.axes[i].get_ylabel() for i in (0, 5)] == ["original", "reconstruction"]


@pytest.mark.parametrize("images, n, shown", [(15, 12, 12), (3, 12, 3), (1, 1, 1)])
def test_number_of_images(images, n, shown):
    few = np.zeros((images, 6))
    assert len(draw(plot.reconstructions(few, few, shape=(2, 3), n=n)).axes) == 2 * shown


@pytest.mark.parametrize("name", ["curves.png", "curves.pdf", "curves.svg"])
def test_summary_is_written(name, tmp_path):
    figure = plot.curves_summary(
        {"a": make(), "b": make(factor=2)}, IMAGES, IMAGES, path=tmp_path / name
    )
    assert len(figure.axes) == 2 + 2 * 12
    assert (tmp_path / name).stat().st_size > 5_000


@pytest.mark.parametrize(
    "call, error, words",
    [
        (
            lambda: plot.training_curves([make()]),
            TypeError,
            "histories: expected a History or a mapping",
        ),
        (
            lambda: plot.training_curves({"a": 3}),
            TypeError,
            "histories: expected a History or a mapping",
        ),
        (lambda: plot.training_curves({}), ValueError, "histories: expected at least one run"),
        (
            lambda: plot.training_curves(make(), column="eror"),
            KeyError,
            ".no column 'eror'; the columns are: step",
        ),
        (
            lambda: plot.reconstructions(IMAGES, IMAGES[:4]),
            ValueError,
            r"reconstructions: expected the shape",
        ),
        (lambda: plot.reconstructions(IMAGES, IMAGES, n=0), ValueError, "n: expected at least 1"),
        (
            lambda: plot.reconstructions(IMAGES[:0], IMAGES[:0]),
            ValueError,
            "originals: expected images of shape",
        ),
        (
            lambda: plot.reconstructions(IMAGES[0], IMAGES[0]),
            ValueError,
            "originals: expected images of shape",
        ),
        (
            lambda: plot.curves_summary(make(), IMAGES, IMAGES, shape=(8, 8)),
            ValueError,
            r"originals: .*\(images, 64\)",
        ),
    ],
)
def test_bad_arguments_are_named(call, error, words):
    with pytest.raises(error, match="^" + words):
        call()


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[0]


def test_without_matplotlib_the_error_says_what_to_install():
    program = "import sys; sys.modules['matplotlib'] = None\n"
    program += "try:\n    import symng.plot\nexcept ImportError as error:\n    print(error)"
    assert run(program).endswith('Run: pip install "symng[examples]"')


def test_neither_symng_nor_drawing_imports_pyplot():
    assert (
        run("import sys, symng, symng.models, symng.datasets; print('matplotlib' in sys.modules)")
        == "False"
    )
    program = "import sys, symng.plot, numpy\nimages = numpy.ones((2, 4))\n"
    program += "symng.plot.reconstructions(images, images, shape=(2, 2)).canvas.draw()\n"
    assert run(program + "print('matplotlib.pyplot' in sys.modules)") == "False"


def test_a_column_with_negative_values_has_a_linear_axis():
    history = History()
    for step, loss in [(1, 2.0), (2, 0.0), (3, -1.5), (4, np.nan)]:
        history.append(step=step, seconds=step / 2, loss=loss)
    figure = draw(plot.training_curves({"a": history, "b": make()}, column="loss"))
    for panel in figure.axes:
        assert panel.get_lines()[0].get_ydata().tolist() == [2.0, 0.0, -1.5]
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "linear")


def test_a_notebook_shows_a_figure_without_pyplot():
    code = (
        "import sys, symng.plot, symng.training.history\n"
        "history = symng.training.history.History.from_dict({'step': [1, 2], 'seconds': [1., 2.], "
        "'loss': [3., 2.]})\n"
        "png = symng.plot.training_curves(history, 'loss')._repr_png_()\n"
        "print(png[:4] == b'\\x89PNG', len(png) > 5000, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["True", "True", "False"], done.stderr
