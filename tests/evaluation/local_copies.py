"""Made-up local copies of the data of lm-eval's tasks: a few items with the data sets' own fields."""

import json
from pathlib import Path

ROWS: dict[str, list[dict]] = {
    "hellaswag": [
        {
            "activity_label": "Baking bread", "ctx_a": "A baker kneads dough.", "ctx_b": "the baker",
            "endings": ["sings [loudly].", "puts it in the oven.", "leaves.", "falls asleep."], "label": str(i),
        }
        for i in range(3)
    ],
    "boolq": [{"passage": f"Bread {i} is baked.", "question": "is bread baked", "label": i % 2} for i in range(3)],
    "openbookqa": [
        {
            "question_stem": f"What bakes bread {i}", "answerKey": "B",
            "choices": {"text": ["a river", "an oven", "a shoe", "a song"], "label": ["A", "B", "C", "D"]},
        }
        for i in range(3)
    ],
    "piqa": [
        {"goal": f"Bake bread {i}", "sol1": "Use an oven.", "sol2": "Use a river and a shoe.", "label": i % 2}
        for i in range(3)
    ],
    "winogrande": [
        {
            "sentence": "The bread does not fit the oven because the _ is too large.", "option1": "bread",
            "option2": "oven", "answer": str(1 + i % 2),
        }
        for i in range(3)
    ],
    "lambada_openai": [{"text": f"She baked {i} loaves and ate the\u2028 bread"} for i in range(3)],
    "wikitext": [{"page": f" = Bread {i} = \n\n Bread is baked in 1 @,@ 000 ovens . \n"} for i in range(3)],
    "arc_easy": [
        {
            "question": f"What bakes bread {i}?", "answerKey": "ABC"[i],
            "choices": {"text": ["an oven", "a river", "a shoe"], "label": ["A", "B", "C"]},
        }
        for i in range(3)
    ],
}  # fmt: skip
ROWS["arc_challenge"] = ROWS["arc_easy"][:2]
BLIMP = [{"sentence_good": f"He bakes {i} loaves.", "sentence_bad": f"He bake {i} loaves."} for i in range(2)]
MMLU = [{"question": f"What bakes {i}? ", "choices": ["oven", "river", "shoe", "song"], "answer": i} for i in range(2)]


def write_items(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_copies(folder: Path, subsets: dict[str, list[str]]) -> Path:
    """Every task of ``ROWS`` as ``<task>.jsonl``, and ``subsets`` of blimp and mmlu as ``<group>/<subset>.jsonl``."""
    for task, rows in ROWS.items():
        write_items(folder / f"{task}.jsonl", rows)
    for group, rows in (("blimp", BLIMP), ("mmlu", MMLU)):
        for subset in subsets.get(group, []):
            write_items(folder / group / f"{subset}.jsonl", rows)
    return folder
