"""dpft tasks: the tasks, and how to pass your own data."""

from __future__ import annotations

from dpft.cli import _flags, _show

_EXAMPLES = """
GLUE comes from the hub (nyu-mll/glue), or from --data DIR with train.parquet and validation.parquet (MNLI:
validation_matched.parquet and validation_mismatched.parquet):
  dpft train --epsilon 6.7 --delta 1e-6 --task glue/sst2 --data DIR

your own data, in files with a header, a folder of train.csv and validation.csv (or the like), or a hub id:
  dpft train --epsilon 6.7 --delta 1e-6 --data tickets.csv --text message --label team --validation held_out.csv
  dpft train --epsilon 6.7 --delta 1e-6 --data pairs.jsonl --text a --pair b --label mark --kind regression --labels 0,5
  dpft train --epsilon 6.7 --delta 1e-6 --data notes.parquet --text note --label topics --labels billing,outage,praise
kinds: classification, regression, multi-label. Without --kind, lists, or names joined by |, are multi-label; numbers
of which one has a fraction are regression; all else is classification. Label names are public: without --labels they
are read from the data, and the privacy card says so. --unit COLUMN protects all rows of one person together.

named entities, from files of a token a line with its BIO tag last, or tables with columns tokens and ner_tags:
  dpft train --epsilon 6.7 --delta 1e-5 --task ner/files --data notes.conll --validation held_out.conll --labels PER,LOC
  dpft train --epsilon 6.7 --delta 1e-5 --task ner/wnut17 --batch-size 512 --epochs 20
The unit is a sentence, or --unit: a table's column, or document in files with -DOCSTART- lines.

texts to write, by a language model: documents, texts after prompts, or chats in the model's own template:
  dpft train --epsilon 6.7 --delta 1e-5 --task text/files --data notes.jsonl --text body
  dpft train --epsilon 6.7 --delta 1e-5 --task text/files --data notes.csv --text body --label team
  dpft train --epsilon 6.7 --delta 1e-5 --data answers.parquet --prompt question --text answer --unit customer
  dpft train --epsilon 6.7 --delta 1e-5 --data chats.jsonl --messages messages
  dpft train --epsilon 6.7 --delta 1e-5 --task text/e2e --data DIR
The loss is on the text alone, of chats on the assistant's turns. With --label each text is written after its label. A
text longer than --max-length is cut into windows, at most --max-windows of them, which are one unit together."""


def tasks(as_json: _flags.Json = False) -> None:
    """List the tasks."""
    from dpft import tasks as known

    if as_json:
        _show.print_json([{"name": name, "summary": text} for name, text in known.names().items()])
        return
    for name, text in known.names().items():
        print(f"{name:<15}{text}")
    print(_EXAMPLES)
