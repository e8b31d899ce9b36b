"""Choices of tokenizer.

Every choice ends as a Hugging Face fast tokenizer that ``transformers.AutoTokenizer`` loads from the
prepared folder. Documents are encoded without special tokens, also where a text spells one out, and each
is followed by one end-of-text id.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tst_lightning.data.preparing.encoder import (
    ByteTokenizerEncoder,
    Document,
    TokenDtype,
    TokenizerEncoder,
    stored_dtype,
)
from tst_lightning.data.sources.base import class_options
from tst_lightning.data.storage import local_folder
from tst_lightning.errors import UserError
from tst_lightning.hub import cache_only_without_hub

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
BYTE_VALUES = 256
MAX_TRAINED_VOCABULARY = 2**20
"""The trainer reserves memory for all of it, and its process is aborted if there is not enough."""


class Tokenizer(ABC):
    """A choice of tokenizer, made before the corpus is read."""

    is_trained = False
    """Whether ``build`` reads the corpus."""

    @abstractmethod
    def build(self, sample: Callable[[], Iterable[Document]], token_dtype: TokenDtype = "auto") -> TokenizerEncoder:
        """Make the encoder.

        Args:
            sample: Called by a tokenizer that is trained: opens the training documents.
            token_dtype: How ids are to be stored.

        Raises:
            UserError: the tokenizer cannot be had, or token_dtype cannot hold its ids.
        """

    def options(self) -> dict[str, Any]:
        """Class and arguments, as a configuration file would give them."""
        return class_options(self)


class Bytes(Tokenizer):
    """UTF-8 bytes: ids 0 to 255 are the bytes, 256 is end-of-text. Nothing to train, no unknown text."""

    def __init__(self) -> None:
        """A vocabulary of 257."""

    def build(self, sample: Callable[[], Iterable[Document]], token_dtype: TokenDtype = "auto") -> TokenizerEncoder:
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = {character: value for value, character in enumerate(_byte_characters())}
        backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        return ByteTokenizerEncoder(_wrap(backend), token_dtype)


class TrainedBPE(Tokenizer):
    """A byte-level BPE (GPT-2's rules) trained on the beginning of the corpus' training documents."""

    is_trained = True

    def __init__(self, vocab_size: int, sample_bytes: int = 50_000_000, document_sample_bytes: int = 100_000) -> None:
        """
        Args:
            vocab_size: Number of ids, with the 256 bytes and end-of-text.
            sample_bytes: Bytes of text to train on, from the first training documents.
            document_sample_bytes: Bytes taken from each of them at most, so that more documents are seen.
        """
        if vocab_size < BYTE_VALUES + 1:
            raise UserError(
                f"vocab_size is {vocab_size}: a byte-level BPE needs at least {BYTE_VALUES + 1} "
                "(256 bytes and end-of-text); use Bytes for the smallest"
            )
        if vocab_size > MAX_TRAINED_VOCABULARY:
            raise UserError(
                f"vocab_size is {vocab_size}: a byte-level BPE is trained with at most {MAX_TRAINED_VOCABULARY} ids; "
                "lower it (8,000 to 256,000 are usual)"
            )
        for name, value in (("sample_bytes", sample_bytes), ("document_sample_bytes", document_sample_bytes)):
            if value < 1:
                raise UserError(f"{name} is {value}: it has to be at least 1")
        self.vocab_size = vocab_size
        self.sample_bytes = sample_bytes
        self.document_sample_bytes = document_sample_bytes

    def build(self, sample: Callable[[], Iterable[Document]], token_dtype: TokenDtype = "auto") -> TokenizerEncoder:
        stored_dtype(self.vocab_size, token_dtype)  # before the training, which may take minutes
        from tokenizers import Tokenizer as Backend
        from tokenizers import decoders, models, pre_tokenizers, trainers

        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=_byte_characters(),
            show_progress=False,
        )
        backend.train_from_iterator(self._excerpts(sample()), trainer)
        reached = backend.get_vocab_size()
        if reached < self.vocab_size:
            raise UserError(
                f"vocab_size is {self.vocab_size}, but the corpus' sample yields no more than {reached} ids: "
                "lower vocab_size or give more text"
            )
        return TokenizerEncoder(_wrap(backend), token_dtype)

    def _excerpts(self, documents: Iterable[Document]) -> Iterator[str]:
        left_bytes = self.sample_bytes
        for document in documents:
            excerpt = document.data[: min(left_bytes, self.document_sample_bytes)]
            left_bytes -= len(excerpt)
            yield excerpt.decode(errors="ignore")  # the cut may fall inside a character
            if left_bytes <= 0:
                return


class Pretrained(Tokenizer):
    """An existing Hugging Face tokenizer, by hub name or folder. It needs a fast version and an eos token."""

    def __init__(self, name_or_path: str) -> None:
        """
        Args:
            name_or_path: What AutoTokenizer.from_pretrained takes, e.g. gpt2 or a local folder.
        """
        self.name_or_path = name_or_path

    def build(self, sample: Callable[[], Iterable[Document]], token_dtype: TokenDtype = "auto") -> TokenizerEncoder:
        from transformers import AutoTokenizer

        reason = None
        try:
            if Path(self.name_or_path).exists():
                tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, trust_remote_code=False)
            else:
                with cache_only_without_hub() as reason:
                    tokenizer = AutoTokenizer.from_pretrained(self.name_or_path, trust_remote_code=False)
        except Exception as error:  # transformers raises many kinds for a name that leads nowhere
            detail = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(
                f"cannot load the tokenizer '{self.name_or_path}': {reason or detail}. Give a folder with a "
                "saved tokenizer, or a hub name that has been downloaded or can be"
            ) from error
        if getattr(tokenizer, "backend_tokenizer", None) is None:
            raise UserError(
                f"tokenizer '{self.name_or_path}' has no fast version: choose one that has a tokenizer.json"
            )
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"tokenizer '{self.name_or_path}' has no end-of-text (eos) token, which separates documents: "
                "save it with an eos_token, or choose another"
            )
        return TokenizerEncoder(tokenizer, token_dtype)


def _byte_characters() -> list[str]:
    """The character that byte-level tokenizers write for each byte value, in order of value.

    GPT-2's table: printable Latin-1 stands for itself, the others are moved to U+0100 and on.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return [chr(value if value in printable else next(moved)) for value in range(BYTE_VALUES)]


def _wrap(backend: Any) -> "PreTrainedTokenizerFast":
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False)


def load_tokenizer(data_dir: str | Path | None, fallback: str | Path | None = None) -> Any:
    """The tokenizer of a prepared corpus (folder or URL), or without one that of a Hugging Face folder.

    Raises:
        UserError: there is none.
    """
    if data_dir is not None:
        folder = local_folder(data_dir) / "tokenizer"
    elif fallback is not None and Path(fallback, "tokenizer_config.json").is_file():
        folder = Path(fallback)
    else:
        raise UserError("no tokenizer is known: give --data_dir, the prepared data folder of the training run")
    if not folder.is_dir():
        raise UserError(
            f"no tokenizer at '{folder}': give as data_dir a folder that `tst-lightning prepare` wrote "
            "(has the data been moved since the training run?)"
        )
    files = sorted((file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in folder.iterdir())
    return _read_tokenizer(folder.resolve(), tuple(files))


@lru_cache(maxsize=4)
def _read_tokenizer(folder: Path, files: tuple[tuple[str, int, int], ...]) -> Any:
    """The tokenizer in a folder with these ``(name, mtime, bytes)``.

    Kept: evaluations that each read it anew took 0.4 MB more every time, in no Python object (benchmarks/soak.py).
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"'{folder}' does not load as a tokenizer ({reason}): prepare the data again") from error
