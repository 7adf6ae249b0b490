"""dpft methods: the fine-tuning methods and their options."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from dpft.cli import _flags, _show

from dpft.spec import Spec


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its options.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="The model to count parameters on: local folder or hub id.")] = Spec.model,
    labels: Annotated[int, typer.Option(min=1, help="Number of outputs of the head.")] = 2,
    option: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the method.")] = None,
    as_json: _flags.Json = False,
) -> None:
    """List the methods; with a NAME, its options, their defaults, and its trainable parameters on a model."""
    from dpft import methods as known

    if name is None:
        every = [known.describe(one) for one in known.names()]
        if as_json:
            _show.print_json(every)
            return
        for method in every:
            print(f"{method['name']:<11}{method['summary']}")
        print("\nnext: dpft methods NAME [--model M]")
        return
    chosen = known.load(name, _flags.options(option) if option else {})
    from dpft import models

    about: dict[str, Any] = {**known.describe(name), "model": model, "labels": labels}
    about["trainable"] = chosen.trainable(models.configuration(model), labels)
    listed: dict[str, list[str]] = getattr(chosen, "listed", dict)()  # lists that depend on an installed library
    if as_json:
        _show.print_json({**about, **listed})
        return
    print(f"{about['name']:<11}{about['summary']}\n\n{about['details']}\n")
    for key, default in about["options"].items():
        print(f"  --option {key}={default}")
    for kind, names in listed.items():
        print(f"  {kind}: {', '.join(names)}")
    print(f"  learning rates are the recipe's; without privacy {about['non_private_rate']:g}\n")
    print(f"{about['trainable']:,} trainable parameters on {model} with {labels} outputs")
    traits = ("parameter_sharing", "efficient_inference", "multi_layer")
    print(", ".join(f"{trait.replace('_', ' ')}: {'yes' if about[trait] else 'no'}" for trait in traits))
    print(f"\nnext: dpft train --epsilon 6.7 --delta 1e-6 --method {name}")
