"""Call shapes that people already have in their code: change the import, keep the rest.

    from gte_runtime.compat import GTEEmbedding          # the authors' helper script
    from gte_runtime.compat import SentenceTransformer   # sentence-transformers, and its CrossEncoder
    from gte_runtime.compat import BGEM3FlagModel        # FlagEmbedding

Methods, parameters and defaults are the originals'; models are our bundles. Results are numpy
arrays; PyTorch tensors come out only where a program that has imported torch asks for them.
What an argument asks for and this engine cannot give is refused, never ignored; arguments that
only tell PyTorch or the hub how to load are accepted, with a warning where they said something.
"""

from .authors import GTEEmbeddidng as GTEEmbeddidng
from .authors import GTEEmbedding as GTEEmbedding
from .cross_encoder import CrossEncoder as CrossEncoder
from .flag_embedding import BGEM3FlagModel as BGEM3FlagModel
from .sentence_transformers import SentenceTransformer as SentenceTransformer

__all__ = ["BGEM3FlagModel", "CrossEncoder", "GTEEmbeddidng", "GTEEmbedding", "SentenceTransformer"]
