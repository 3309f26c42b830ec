"""Colour maps: identity where nothing was asked for, the same result on pictures and on surface colours."""

import torch

from train.recolor import color_maps, recolored, recolored_rows, tints


def test_share_of_changed_maps():
    maps, changed = color_maps(4000, torch.Generator().manual_seed(0), share=0.3)
    assert abs(changed.float().mean() - 0.3) < 0.03
    assert torch.equal(maps[~changed], torch.eye(3).expand(int((~changed).sum()), 3, 3))
    assert (maps[changed] >= 0).all() and (maps[changed].sum(2) <= 1.2001).all()


def test_pictures_and_surfaces_change_alike():
    generator = torch.Generator().manual_seed(1)
    maps, _ = color_maps(5, generator, share=1.0)
    colors = torch.rand(5, 3, generator=generator)
    images = colors[:, :, None, None].expand(5, 3, 4, 4)
    owner = torch.tensor([0, 0, 1, 2, 3, 4, 4])
    rows = recolored_rows(colors[owner][:, None].expand(-1, 27, -1), maps, owner)
    pictures = recolored(images, maps)
    assert torch.allclose(rows[:, 13], pictures[owner, :, 2, 1], atol=1e-6)
    assert not torch.allclose(pictures, images, atol=0.02)


def test_black_background_stays_black():
    maps, _ = color_maps(8, torch.Generator().manual_seed(2), share=1.0)
    assert recolored(torch.zeros(8, 3, 2, 2), maps).abs().max() == 0


def test_tints_go_half_of_the_way_at_most():
    maps = tints(500, torch.Generator().manual_seed(3))
    whole = color_maps(500, torch.Generator().manual_seed(3), share=1.0)[0]
    way = (maps - torch.eye(3)).norm(dim=(1, 2)) / (whole - torch.eye(3)).norm(dim=(1, 2))
    assert 0 <= way.min() < 0.05 and 0.45 < way.max() <= 0.5001
