"""``modelops-tui recipe``: check, explain, find, begin and import recipes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from engine.api import Workbench
from engine.errors import BadInput, NotFound, RecipeInvalid
from modelops_tui.cli.output import Format, out

app = typer.Typer(help="Recipes: check, explain, begin one, import one.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="A recipe file, or a name of the library.")]
Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing file.")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")
]


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(help="Files or names.", metavar="RECIPE...")],
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """Check recipes: every mistake with its line, in under a second."""
    out.choose(as_json=as_json)
    bench = Workbench()
    wrong = 0
    results = []
    for name in recipes:
        path = bench.recipes.find(name)
        found = bench.recipes.check(path, sets or ())
        errors = sum(item.severity == "error" for item in found)
        wrong += errors
        results.append(
            {"recipe": str(path), "valid": not errors, "diagnostics": [asdict(i) for i in found]}
        )
        if out.format is Format.TABLE:
            for item in found:
                out.diagnostic(item)
            count = "1 mistake" if errors == 1 else f"{errors} mistakes"
            out.say(f"{path}: {count}" if errors else f"{path}: valid")
    if out.format is not Format.TABLE:
        out.json(results)
    if wrong:
        raise typer.Exit(RecipeInvalid.exit_status)


@app.command()
def explain(
    what: Annotated[str, typer.Argument(help="A recipe, or a kind such as finetune.")],
    key: Annotated[str, typer.Argument(help="Only keys that contain this.")] = "",
    sets: Sets = None,
    as_json: Json = False,
) -> None:
    """What a recipe will do, step by step; or every key of a kind."""
    out.choose(as_json=as_json)
    bench = Workbench()
    kinds = {kind.name: kind for kind in bench.recipes.kinds()}
    if what in kinds:
        keys = [k for k in bench.recipes.keys(what) if key in k.key]
        if not keys:
            every = f"all of them: modelops-tui recipe explain {what}"
            raise NotFound(f"kind {what} has no key like {key!r}", hint=every)
        if out.format is not Format.TABLE:
            out.json([asdict(item) for item in keys])
            return
        out.line(f"{what}: {kinds[what].summary}")
        outputs = ", ".join(f"{name} ({kind})" for name, kind in kinds[what].outputs.items())
        out.line(f"outputs: {outputs}")
        from engine.recipe.templates import toml_value

        for item in keys:
            out.line()
            default = "not set" if item.default is None else toml_value(item.default)
            needed = "needed" if item.required else f"default {default}"
            out.line(f"{item.key}: {item.expected} ({needed})")
            if item.description:
                out.line(f"  {item.description}")
        return
    try:
        path = bench.recipes.find(what)
    except NotFound as error:
        known = f"kinds: {', '.join(kinds)}"
        raise NotFound(f"there is no recipe or kind {what!r}", known, error.hint) from error
    plan = bench.recipes.prepare(path, sets or ())
    if out.format is not Format.TABLE:
        out.json(bench.recipes.resolved(plan))
        return
    for line in bench.recipes.explained(plan):
        out.line(line)


@app.command()
def schema(
    target: Annotated[Path | None, typer.Argument(help="File to write (default: stdout).")] = None,
) -> None:
    """The JSON Schema for editors: `#:schema ./recipe.schema.json` on a recipe's first line."""
    found = Workbench().recipes.schema()
    if target is None:
        out.json(found)
        return
    import json

    try:
        target.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{target} can't be written", why=error.strerror or str(error)) from error
    out.say(f"written to {target}")


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="finetune, quantize, ..., or pipeline.")],
    target: Annotated[Path | None, typer.Argument(help="File (default: stdout).")] = None,
    force: Force = False,
) -> None:
    """Begin a recipe: every key of the kind, described, the needed ones set."""
    bench = Workbench()
    if kind != "pipeline" and kind not in {view.name for view in bench.recipes.kinds()}:
        from engine.recipe.nearest import did_you_mean

        known = [*(view.name for view in bench.recipes.kinds()), "pipeline"]
        raise NotFound(f"there is no kind {kind!r}", hint=did_you_mean(kind, known))
    text = bench.recipes.new(kind, target.stem.lower() if target else "")
    if target is None:
        out.raw(text)
        return
    from engine.recipe.library import write_new

    write_new(target, text, overwrite=force)
    out.say(f"written to {target}")
    left = [item for item in bench.recipes.check(target) if item.severity == "error"]
    for item in left:
        out.say(f"to fill in, line {item.line}: {item.advice or item.what}")
    next_command = "recipe check" if left else "run"
    out.say(f"hint: `modelops-tui {next_command} {target}`")


@app.command("list")
def list_(
    text: Annotated[str, typer.Argument(help="Only those that contain this.")] = "",
    kind: Annotated[str, typer.Option(help="Only of this kind.")] = "",
    as_json: Json = False,
) -> None:
    """The library: recipes that come with the program, with plugins, and your own."""
    out.choose(as_json=as_json)
    entries = Workbench().recipes.library(kind, text)
    out.rows(
        ("name", "kind", "origin", "summary"),
        [{**asdict(e), "summary": e.problem or e.summary} for e in entries],
        empty="no recipe like this: `modelops-tui recipe list` shows all",
    )


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    out.raw(Workbench().recipes.read(name))


@app.command()
def cp(
    name: Name,
    target: Annotated[Path, typer.Argument(help="File or folder.")] = Path(),
    force: Force = False,
) -> None:
    """Copy a recipe of the library, to own and change it."""
    written = Workbench().recipes.copy(name, target, overwrite=force)
    out.say(f"written to {written}")


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="YAML of another training program.")],
    target: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write (default: stdout).")
    ] = None,
    dialect: Annotated[
        str | None,
        typer.Option("--from", help="axolotl, llama-factory, trl, torchtune or unsloth."),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Translate a recipe of Axolotl, LLaMA-Factory, TRL, torchtune or Unsloth."""
    out.choose(as_json=as_json)
    bench = Workbench()
    found = bench.recipes.import_file(source, dialect=dialect)
    if target is not None:
        from engine.recipe.library import write_new

        write_new(target, found.text, overwrite=force)
    if out.format is not Format.TABLE:
        out.json(asdict(found))
        return
    if target is None:
        out.raw(found.text)
    else:
        out.say(f"written to {target}")
    out.say(f"read as a recipe of {found.dialect}")
    for note in found.notes:
        out.say(f"note: {note}")
    if found.untranslated:
        out.say(f"not translated ({len(found.untranslated)}):")
        for item in found.untranslated:
            out.say(f"  {item.key} = {item.value!r}: {item.reason}")
    for diagnostic in found.diagnostics:
        out.diagnostic(diagnostic)
