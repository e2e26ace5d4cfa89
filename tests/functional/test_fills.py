import pytest
import torch
from PIL import Image

from explainers.functional import fills, smoothing

MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.1, 0.2, 0.3]))


def test_fills_by_name():
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(fills.fill("mean", images, MEAN), MEAN)
    assert fills.fill("black", images, MEAN).abs().sum() == 0
    smooth = smoothing.kernel_blur(images, MEAN)
    assert torch.equal(fills.fill("kernel_blur", images, MEAN), smooth)
    torch.testing.assert_close(
        fills.fill("blur", images, MEAN, sigma=2.0), smoothing.blur(images, 17, 2.0, MEAN)
    )
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    noise, again = (fills.fill("noise", images, MEAN, STD, g) for g in generators)
    assert noise.shape == (1, 3, 40, 40)  # one draw for all images
    assert torch.equal(noise, again)
    for statistic, expected in ((noise.mean(dim=(2, 3)), MEAN), (noise.std(dim=(2, 3)), STD)):
        torch.testing.assert_close(statistic.flatten(), expected.flatten(), atol=0.03, rtol=0)


def test_other_images_come_from_the_batch_or_from_a_bank():
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(-1, 3, 2, 2)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        others = fills.fill("images", images, MEAN, generator=generator)
        assert not (others == images).any()
        assert sorted(others[:, 0, 0, 0].tolist()) == [0, 1, 2]
    from_bank = fills.fill("images", images[:1], MEAN, bank=images[2:])
    assert torch.equal(from_bank, images[2:])


def test_a_bank_is_a_folder_of_pictures(tmp_path):
    for name, level in (("b.png", 255), ("a.png", 51)):
        Image.new("RGB", (4, 6), (level, 0, 0)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub").mkdir()
    Image.new("RGB", (3, 5), (0, 0, 102)).save(tmp_path / "sub" / "c.png")
    bank = fills.read_bank(str(tmp_path), 3, 5)
    assert bank.shape == (3, 3, 3, 5)
    torch.testing.assert_close(
        bank.mean(dim=(2, 3)), torch.tensor([[0.2, 0, 0], [1.0, 0, 0], [0, 0, 0.4]])
    )
    drawn = fills.read_bank(str(tmp_path), 3, 5, count=2, seed=1, resample="bilinear")
    assert drawn.shape == (2, 3, 3, 5)
    assert all(any(torch.equal(one, known) for known in bank) for one in drawn)
    assert not torch.equal(drawn[0], drawn[1])
    assert fills.read_bank(str(tmp_path), 3, 5) is bank  # the files are read once
    with pytest.raises(ValueError, match=r"holds 3 pictures .* expected at least 4"):
        fills.read_bank(str(tmp_path), 3, 5, count=4)


@pytest.mark.parametrize(
    ("resample", "levels"), [("bilinear", [0, 64, 191, 255]), ("bicubic", [0, 53, 202, 255])]
)
def test_pictures_of_a_bank_are_resized_by_the_named_interpolation(resample, levels, tmp_path):
    """Two pixels to four: weights 1/4 and 3/4, or 0.207 and 0.793 of the cubic kernel -1/2."""
    picture = Image.new("L", (2, 1))
    picture.putpixel((1, 0), 255)
    picture.save(tmp_path / "edge.PNG")  # gray, and in capitals
    (bank,) = fills.read_bank(str(tmp_path), 1, 4, resample=resample)
    expected = (torch.tensor(levels) / 255).expand(3, 1, 4)
    torch.testing.assert_close(bank, expected, rtol=0, atol=1.01 / 255)  # rounded to whole levels


def test_the_draw_from_a_bank_depends_on_its_seed_alone(tmp_path):
    for level in range(8):
        Image.new("RGB", (1, 1), (level, 0, 0)).save(tmp_path / f"{level}.png")

    def drawn(seed, side):
        bank = fills.read_bank(str(tmp_path), side, side, count=4, seed=seed)
        return (255 * bank[:, 0, 0, 0]).round().tolist()

    first, other = drawn(0, 1), drawn(1, 1)
    (tmp_path / "notes.txt").write_text("no picture")
    assert drawn(0, 2) == first != other
    assert len(set(first)) == len(set(other)) == 4


def test_an_inpainter_gets_images_and_masks_and_cannot_do_without_masks():
    images, masks = torch.rand(2, 3, 4, 5), torch.rand(2, 4, 5)
    filled = fills.Inpainted(lambda shown, keep: shown * 2 + keep[:, None])
    kept = (masks >= 0.5).float()  # soft masks are made binary
    assert torch.equal(filled(images, masks), images * 2 + kept[:, None])
    with pytest.raises(ValueError, match="needs the masks of what is kept"):
        filled(images)


def test_road_is_the_mean_of_the_neighbors_plus_the_same_noise_for_every_image():
    images = torch.full((2, 3, 40, 40), 0.6)
    masks = torch.ones(2, 40, 40)
    masks[:, :20] = 0
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    filled, again = (fills.fill("road", images, MEAN, generator=g, masks=masks) for g in generators)
    assert torch.equal(filled, again)
    assert torch.equal(filled[0], filled[1])
    assert torch.equal(filled[:, :, 20:], images[:, :, 20:])
    noise = filled[0, :, :20] - 0.6
    assert abs(noise.mean()) < 0.001
    assert 0.009 < noise.std() < 0.011


def test_impossible_fills_say_why(tmp_path):
    images = torch.rand(1, 3, 4, 4)
    cases = [
        ({"name": "sand"}, "sand"),
        ({"name": "blur", "sigma": 0.0}, "sigma"),
        ({"name": "noise"}, "std"),
        ({"name": "images"}, "bank"),
        ({"name": "road"}, "masks of what is kept"),
        ({"name": "images", "bank": torch.rand(2, 3, 4, 5)}, "pictures are"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            fills.fill(images=images, mean=MEAN, **arguments)
    with pytest.raises(ValueError, match="holds 0 pictures"):
        fills.read_bank(str(tmp_path), 2, 2)
