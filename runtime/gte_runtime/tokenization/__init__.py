"""Texts to token ids: limits, truncation, special tokens, bad Unicode. It knows no graph and no session.

The `tokenizers` library does the work, from the checkpoint's own tokenizer.json. This folder adds what a
service needs around it: errors that name the text, truncation under the caller's control (the file's own
truncation and padding settings are ignored, because they would apply silently), and tokenizing only the
beginning of very long texts where that provably gives the same tokens.
"""

from .checks import DEFAULT_LENGTH as DEFAULT_LENGTH
from .checks import OnBadUnicode as OnBadUnicode
from .checks import as_pairs as as_pairs
from .checks import as_texts as as_texts
from .checks import check_errors as check_errors
from .checks import check_max_length as check_max_length
from .checks import check_pair as check_pair
from .checks import check_switches as check_switches
from .checks import check_text as check_text
from .checks import choose_length as choose_length
from .checks import no_sequence as no_sequence
from .each import encode_each as encode_each
from .form import EXACT as EXACT
from .form import Form as Form
from .form import choose_form as choose_form
from .form import is_composed as is_composed
from .tokenizer import Tokenizer as Tokenizer
from .tokenizer import Tokens as Tokens

__all__ = [
    "DEFAULT_LENGTH",
    "EXACT",
    "Form",
    "OnBadUnicode",
    "Tokenizer",
    "Tokens",
    "as_pairs",
    "as_texts",
    "check_errors",
    "check_max_length",
    "check_pair",
    "check_switches",
    "check_text",
    "choose_form",
    "choose_length",
    "encode_each",
    "is_composed",
    "no_sequence",
]  # fmt: skip
