"""Texts to token ids: limits, truncation, special tokens, bad Unicode.

The work is done by the `tokenizers` library, from the checkpoint's own tokenizer.json. This package
adds what a service needs around it: errors that name the text, truncation of our own (the file's
blocks never apply, because they would apply silently), and a cut of long texts before they are
tokenized that provably gives the same tokens.
"""

from .checks import OnBadUnicode as OnBadUnicode
from .checks import as_pairs as as_pairs
from .checks import as_texts as as_texts
from .checks import check_errors as check_errors
from .checks import check_max_length as check_max_length
from .checks import check_pair as check_pair
from .checks import check_text as check_text
from .checks import choose_length as choose_length
from .each import encode_each as encode_each
from .tokenizer import Tokenizer as Tokenizer
from .tokenizer import Tokens as Tokens

__all__ = [
    "OnBadUnicode", "Tokenizer", "Tokens", "as_pairs", "as_texts", "check_errors", "check_max_length", "check_pair", "check_text",
    "choose_length", "encode_each",
]  # fmt: skip
