"""Dense, sparse and hybrid vectors of gte-multilingual-base and its family, on ONNX Runtime.

This is the public API. Everything else may change.
"""

from .embedder import Embedder as Embedder
from .embedder import Embeddings as Embeddings
from .errors import GteError as GteError
from .reranker import Ranked as Ranked
from .reranker import Reranker as Reranker
from .sparse import SparseVector as SparseVector
from .sparse import SparseVectors as SparseVectors

__version__ = "0.1.0"
__all__ = ["Embedder", "Embeddings", "GteError", "Ranked", "Reranker", "SparseVector", "SparseVectors", "__version__"]
