"""Turns documents into token ids, in any process: what is saved for the workers loads without transformers."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from tst_lightning.errors import UserError
from tst_lightning.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TokenDtype = Literal["auto", "uint16", "int32"]
UINT16_IDS = 1 << 16

TOKENIZER_FOLDER = "tokenizer"
ENCODER_FILE = "encoder.json"


class Document(NamedTuple):
    """A document's text, or a piece of it, and the same text in UTF-8."""

    text: str
    data: bytes


@dataclass(frozen=True)
class EncoderInfo:
    """What has to be known of a tokenizer besides its rules."""

    vocab_size: int
    """Number of ids; every id is below it."""
    end_of_text_id: int
    hash: str
    """sha256 over vocabulary, rules and end-of-text id."""
    is_bytes: bool
    token_dtype: str
    files: list[str]
    """The tokenizer's, in its folder."""


class Encoder:
    """Encodes documents into ids with a backend of the ``tokenizers`` package."""

    is_bytes = False

    def __init__(self, backend: Any, end_of_text_id: int, vocab_size: int, token_dtype: str) -> None:
        self.backend = backend
        self.end_of_text_id = end_of_text_id
        self.vocab_size = vocab_size
        self.dtype = np.dtype(token_dtype)
        if backend is not None:
            backend.no_truncation()
            backend.no_padding()
            # Without this a text that spells out "<|endoftext|>" would end the document.
            backend.encode_special_tokens = True

    def encode(self, documents: list[Document]) -> tuple[np.ndarray, list[int]]:
        """Ids of the documents, each followed by end-of-text: 1-D, ``self.dtype``; and how many each has."""
        encodings = self.backend.encode_batch_fast([document.text for document in documents], add_special_tokens=False)
        ids = np.empty(sum(map(len, encodings)) + len(encodings), dtype=self.dtype)
        start = 0
        for encoding in encodings:
            end = start + len(encoding)
            ids[start:end] = encoding.ids
            ids[end] = self.end_of_text_id
            start = end + 1
        return ids, [len(encoding) + 1 for encoding in encodings]


class ByteEncoder(Encoder):
    """The byte tokenizer without the tokenizer: a text's ids are its UTF-8 bytes."""

    is_bytes = True

    def encode(self, documents: list[Document]) -> tuple[np.ndarray, list[int]]:
        ids = np.empty(sum(len(document.data) + 1 for document in documents), dtype=self.dtype)
        start = 0
        for document in documents:
            end = start + len(document.data)
            ids[start:end] = np.frombuffer(document.data, dtype=np.uint8)
            ids[end] = self.end_of_text_id
            start = end + 1
        return ids, [len(document.data) + 1 for document in documents]


class TokenizerEncoder(Encoder):
    """The encoder of a Hugging Face fast tokenizer that has an end-of-text (eos) token, and how to save both."""

    def __init__(self, tokenizer: "PreTrainedTokenizerFast", token_dtype: TokenDtype = "auto") -> None:
        self.tokenizer = tokenizer
        vocab_size = max(tokenizer.get_vocab().values()) + 1
        dtype = stored_dtype(vocab_size, token_dtype)
        super().__init__(tokenizer.backend_tokenizer, tokenizer.eos_token_id, vocab_size, dtype)

    def save(self, folder: Path) -> None:
        """Write a folder that ``transformers.AutoTokenizer.from_pretrained`` loads."""
        self.tokenizer.save_pretrained(folder)

    def hash(self) -> str:
        """sha256 over vocabulary, rules and end-of-text id."""
        rules = json.dumps(json.loads(self.backend.to_str()), sort_keys=True)
        return hashlib.sha256(f"{rules}\n{self.end_of_text_id}".encode()).hexdigest()


class ByteTokenizerEncoder(ByteEncoder, TokenizerEncoder):
    """The byte encoder with the tokenizer that does the same."""


def stored_dtype(vocab_size: int, token_dtype: TokenDtype) -> str:
    """Type of the stored ids; ``auto`` takes the smaller one that holds them all.

    Raises:
        UserError: uint16 is asked for, and the vocabulary is larger.
    """
    if token_dtype == "uint16" and vocab_size > UINT16_IDS:
        raise UserError(
            f"token_dtype is uint16, which holds {UINT16_IDS:,} ids, and the tokenizer has {vocab_size:,}: "
            "set token_dtype to auto or int32, or choose a smaller vocabulary"
        )
    # litdata stores torch tensors, and torch has no uint32 that it knows: int32 holds any id as well.
    return ("uint16" if vocab_size <= UINT16_IDS else "int32") if token_dtype == "auto" else token_dtype


def save_encoder(encoder: TokenizerEncoder, folder: Path) -> None:
    """Write the tokenizer's folder and, last, what workers need besides."""
    encoder.save(folder / TOKENIZER_FOLDER)
    files = sorted(f"{TOKENIZER_FOLDER}/{path.name}" for path in (folder / TOKENIZER_FOLDER).iterdir())
    info = EncoderInfo(
        encoder.vocab_size, encoder.end_of_text_id, encoder.hash(), encoder.is_bytes, encoder.dtype.name, files
    )
    write_atomically(folder / ENCODER_FILE, json.dumps(asdict(info)))


def load_info(file: Path) -> EncoderInfo:
    """What ``save_encoder`` wrote besides the tokenizer."""
    return EncoderInfo(**json.loads(file.read_text()))


def load_encoder(info_file: Path, tokenizer_file: Path) -> Encoder:
    """An encoder from what ``save_encoder`` wrote."""
    info = load_info(info_file)
    if info.is_bytes:
        return ByteEncoder(None, info.end_of_text_id, info.vocab_size, info.token_dtype)
    from tokenizers import Tokenizer as Backend

    backend = Backend.from_file(str(tokenizer_file))
    return Encoder(backend, info.end_of_text_id, info.vocab_size, info.token_dtype)
