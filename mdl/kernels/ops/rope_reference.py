"""Rotary position embedding in plain torch: the operations transformers runs, in their order."""

import torch


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def reference_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [B, H, T, D]; cos, sin [B or 1, T, R], R <= D; elements past R pass through."""
    cos, sin, width = cos.unsqueeze(1), sin.unsqueeze(1), cos.shape[-1]
    turned, rest = x[..., :width], x[..., width:]
    result = (turned * cos) + (_rotate_half(turned) * sin)
    return result if not rest.shape[-1] else torch.cat((result, rest), dim=-1)


def reference_rope_backward(
    grad: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """The transposed rotation."""
    cos, sin, width = cos.unsqueeze(1), sin.unsqueeze(1), cos.shape[-1]
    turned, rest = grad[..., :width], grad[..., width:]
    scaled = turned * sin
    half = width // 2
    back = torch.cat((scaled[..., half:], -scaled[..., :half]), dim=-1)
    result = (turned * cos) + back
    return result if not rest.shape[-1] else torch.cat((result, rest), dim=-1)


def merge_sections(table: torch.Tensor, sections: list[int]) -> torch.Tensor:
    """One [B, T, R] table from the temporal, height and width tables [3, B, T, R].

    Section i of the frequencies, in both halves, comes from table i % 3 (Qwen2-VL,
    arXiv:2409.12191).
    """
    parts = torch.split(table, sections * 2, dim=-1)
    return torch.cat([part[i % 3] for i, part in enumerate(parts)], dim=-1)
