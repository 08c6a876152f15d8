"""First vectors for our pieces: what the teacher makes of each piece alone, left for training to project.

Across languages the teacher's vectors of words that mean the same lie close, so these vectors
are a dictionary already, for words that no text of ours has, too.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from teacher import Teacher
from torch import Tensor

BATCH = 256


@torch.inference_mode()
def of_pieces(teacher: Teacher, ids: list[int]) -> NDArray[np.float32]:
    """The teacher's vectors of <s> piece </s>, without its prefix."""
    rows = torch.tensor([[0, piece, 2] for piece in ids])
    parts: list[Tensor] = [teacher.vectors(part, torch.ones(part.shape)) for part in rows.split(BATCH)]
    return torch.cat(parts).numpy()
