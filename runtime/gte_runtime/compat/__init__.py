"""Classes of other libraries on our bundles: a program changes the import and keeps the rest.

    from gte_runtime.compat import GTEEmbedding          # the authors' helper script
    from gte_runtime.compat import SentenceTransformer   # sentence-transformers, and its CrossEncoder
    from gte_runtime.compat import SparseEncoder         # sentence-transformers' sparse models
    from gte_runtime.compat import BGEM3FlagModel        # FlagEmbedding

Methods, parameters and defaults are those of the originals. Results are numpy arrays; PyTorch tensors are
returned only where a program asks for them and has imported torch. An argument that asks for something that
is not available here is refused, never ignored. Arguments that only say how PyTorch or the hub should load a
model are accepted, with a warning if they were set.
"""

from .authors import GTEEmbeddidng as GTEEmbeddidng
from .authors import GTEEmbedding as GTEEmbedding
from .cross_encoder import CrossEncoder as CrossEncoder
from .flag_embedding import BGEM3FlagModel as BGEM3FlagModel
from .sentence_transformers import SentenceTransformer as SentenceTransformer
from .sparse_encoder import SparseEncoder as SparseEncoder

__all__ = [
    "BGEM3FlagModel",
    "CrossEncoder",
    "GTEEmbeddidng",
    "GTEEmbedding",
    "SentenceTransformer",
    "SparseEncoder",
]
