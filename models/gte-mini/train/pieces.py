"""The teacher's vectors of each of our pieces, and of whole words that our vocabulary does not have.

Across languages the teacher's vectors of words that mean the same lie close, so these vectors
are a dictionary already, for words that no text of ours has, too. Pieces start as them; a word that
is several pieces to us is one more thing to learn.
"""

from __future__ import annotations

import numpy as np
import torch
from device import DEVICE
from numpy.typing import NDArray
from teacher import Teacher
from torch import Tensor

BATCH = 512


@torch.inference_mode()
def of_pieces(teacher: Teacher, ids: list[int]) -> NDArray[np.float32]:
    """The teacher's vectors of <s> piece </s>, without its prefix."""
    rows = torch.tensor([[0, piece, 2] for piece in ids], device=DEVICE)
    parts: list[Tensor] = [teacher.vectors(part, torch.ones_like(part).float()) for part in rows.split(BATCH)]
    return torch.cat(parts).cpu().numpy()
