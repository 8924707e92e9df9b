"""Pictures: the same seed gives the same pixels, and the labels lie where the objects are."""

import numpy as np

from ziya_visual.scenes.drawing import RGB, SIDE, render_with_labels, sample_scene


def test_a_seed_is_a_picture() -> None:
    first, second = (sample_scene(np.random.default_rng(7), held_out=False) for _ in range(2))
    assert first == second
    assert np.array_equal(render_with_labels(first)[0], render_with_labels(second)[0])


def test_the_labelled_pixels_have_the_objects_colours_and_none_is_hidden() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng, held_out=bool(rng.integers(2)))
        picture, owner = render_with_labels(scene)
        assert picture.shape == (SIDE, SIDE, 3)
        for index, thing in enumerate(scene.things):
            inside = picture[owner == index]
            assert len(inside) >= 25, thing
            assert np.abs(np.median(inside, axis=0) - RGB[thing.what.color or ""]).max() < 40, thing
            ys, xs = np.nonzero(owner == index)
            assert abs(xs.mean() / SIDE - thing.x) < 0.08
            assert abs(ys.mean() / SIDE - thing.y) < 0.08


def test_the_number_of_objects_is_uniform() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount([len(sample_scene(rng, held_out=False).things) for _ in range(4000)], minlength=5)
    assert counts[0] == 0
    assert counts[1:].min() > 900
