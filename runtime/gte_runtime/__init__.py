"""Dense, sparse and hybrid vectors of gte-multilingual-base and its family, on ONNX Runtime.

This is the public API. Everything else may change.
"""

from .machine.python import check_interpreter as _check_interpreter

_check_interpreter()  # before numpy is imported, which would hang, or fail without saying why

from .embedder import Embedder as Embedder  # noqa: E402
from .errors import GteError as GteError  # noqa: E402
from .reranker import Reranker as Reranker  # noqa: E402
from .results import Embeddings as Embeddings  # noqa: E402
from .results import Ranked as Ranked  # noqa: E402
from .sparse import SparseVector as SparseVector  # noqa: E402
from .sparse import SparseVectors as SparseVectors  # noqa: E402
from .version import __version__ as __version__  # noqa: E402

__all__ = [
    "Embedder",
    "Embeddings",
    "GteError",
    "Ranked",
    "Reranker",
    "SparseVector",
    "SparseVectors",
    "__version__",
]
