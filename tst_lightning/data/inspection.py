"""``tst-lightning inspect``: what a prepared corpus holds, and rows of it as a run reads them."""

from collections.abc import Sequence
from pathlib import Path

from tst_lightning.data.shard_format import DOCUMENT_ENDS_NAME
from tst_lightning.data.storage import is_remote
from tst_lightning.errors import UserError

PAGE = "inspection.html"
PICTURE = "document_lengths.png"
_CACHE_BYTES = 20_000_000_000  # the datamodule's


def inspect(
    data_dir: str,
    output_dir: str | None = None,
    sequence_length: int = 256,
    bag_size: int = 4,
    windows: int = 4,
    seed: int = 0,
) -> None:
    """Print what a prepared corpus holds; draw the lengths of its documents; show rows of it with their bags.

    Writes `inspection.html` and `document_lengths.png` into the output folder, and nothing into the corpus. Of a
    remote corpus, the files that the rows lie in are fetched.

    Args:
        data_dir: Folder or URL with a prepared corpus.
        output_dir: Default: inspection/ and the corpus' name, in the current folder.
        sequence_length: Positions of a row.
        bag_size: Tokens of a position in superposition; recovery is shown beside it.
        windows: Rows to show of each.
        seed: Of their choice.

    Raises:
        UserError: there is no prepared corpus, or it is smaller than a row.
    """
    _check(sequence_length=(sequence_length, 1), bag_size=(bag_size, 1), windows=(windows, 1), seed=(seed, 0))
    from tst_lightning.data.inspecting.facts import corpus_facts
    from tst_lightning.data.inspecting.lengths import document_lengths, length_histogram
    from tst_lightning.data.inspecting.page import Phase, inspection_page
    from tst_lightning.data.inspecting.windows import Decoder, draw_windows, plain_text
    from tst_lightning.data.reading.cache import ShardCache
    from tst_lightning.data.reading.prepared import open_corpora
    from tst_lightning.data.tokenizer import load_tokenizer
    from tst_lightning.files import require_writable, write_atomically

    # Whatever may be refused comes before anything is written.
    (corpus,) = open_corpora(data_dir, None)
    corpus.require_shards("train")
    shards = corpus.shards("train", ShardCache(None, _CACHE_BYTES))
    bag_sizes = {"superposition": bag_size, "recovery": 1} if bag_size > 1 else {"next-token training": 1}
    phases = [
        Phase(name, size, draw_windows(shards, sequence_length, size, windows, seed))
        for name, size in bag_sizes.items()
    ]
    splits = {name: corpus.split(name) for name in ("train", "validation")}
    hashes = {name: corpus.manifest.files.get(f"{name}/{DOCUMENT_ENDS_NAME}") for name in splits}
    lengths = {name: document_lengths(corpus.folder / name, split, hashes[name]) for name, split in splits.items()}
    folder = Path(output_dir or Path("inspection", _name(data_dir)))
    require_writable(folder, "output_dir")

    row_tokens = {name: (sequence_length + 1) * size for name, size in bag_sizes.items()}
    facts = corpus_facts({name: (split, lengths[name]) for name, split in splits.items()}, row_tokens)
    histogram = length_histogram(lengths["train"], row_tokens)
    decoder = Decoder(load_tokenizer(corpus.folder))
    write_atomically(folder / PICTURE, histogram)
    write_atomically(folder / PAGE, inspection_page(f"What is in {data_dir}", facts, histogram, phases, decoder))
    _print_table(facts)
    for phase in phases:
        tokens = "1 token" if phase.bag_size == 1 else f"{phase.bag_size} tokens"
        window = phase.windows[0]
        print(f"\n{phase.name.capitalize()}, {tokens} a position ({window.shard} from token {window.first_token:,}):\n")
        print(plain_text(window, decoder))
    print(f"\n{folder / PAGE}")


def _check(**options: tuple[int, int]) -> None:
    for name, (value, least) in options.items():
        if value < least:
            raise UserError(f"{name} is {value}, and must be at least {least}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    first_width, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    for first, *cells in rows:
        print(f"{first:<{first_width}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True)))


def _name(data_dir: str) -> str:
    path = data_dir.rstrip("/")
    return path.rsplit("/", 1)[-1] if is_remote(path) else Path(path).resolve().name
