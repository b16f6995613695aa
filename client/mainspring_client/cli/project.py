"""The commands that need no cluster: init and validate."""

from pathlib import Path
from typing import Annotated

import typer

from mainspring.errors import BadRequestError, DefinitionError
from mainspring.graph import build_graph
from mainspring_client.cli.app import JsonOption, app, examples, exit_bad_input, session_of
from mainspring_client.cli.reading import read_definition
from mainspring_client.cli.template import files


@app.command(epilog=examples("mainspring validate workflow.yaml", "mainspring validate --json workflow.json"))
def validate(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="The definition: .yaml, .yml or .json, or - for standard input.")],
    as_json: JsonOption = False,
) -> None:
    """Check a definition, without a cluster."""
    session = session_of(ctx, as_json=as_json)
    try:
        definition = read_definition(file)
        build_graph(definition)
    except DefinitionError as error:
        if session.out.as_json:
            session.out.document({"valid": False, "problems": error.problems})
        else:
            for problem in error.problems:
                session.out.line(f"{file}: {problem}")
        raise typer.Exit(exit_bad_input) from error
    executors = sorted({node.executor for node in definition.nodes})
    if session.out.as_json:
        session.out.document(
            {"valid": True, "name": definition.name, "nodes": len(definition.nodes), "executors": executors}
        )
        return
    count = len(definition.nodes)
    session.out.line(
        f"{file}: {definition.name} is valid: {count:,} node{'' if count == 1 else 's'}, executors {', '.join(executors)}"
    )


@app.command(epilog=examples("mainspring init myproject"))
def init(
    ctx: typer.Context,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    as_json: JsonOption = False,
) -> None:
    """Write a small project that runs."""
    session = session_of(ctx, as_json=as_json)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise BadRequestError(f"{directory}: is there already and is not an empty folder; choose another", field="DIR")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadRequestError(f"{error.filename}: {error.strerror}", field="DIR") from error
    if session.out.as_json:
        session.out.document({"directory": str(directory), "files": list(files)})
        return
    session.out.line(f"{directory}: wrote {', '.join(files)}")
    session.out.line(
        f"\nrun it:\n  cd {directory}\n  mainspring dev --import tasks\nand in another terminal:\n"
        "  mainspring submit workflow.yaml --watch\n"
        "test it (it needs pytest: pip install pytest):\n  python -m pytest"
    )
