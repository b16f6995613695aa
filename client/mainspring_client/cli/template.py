"""The files of a new project, as `mainspring init` writes them."""

from typing import Final

_workflow: Final = """\
# Greets in several languages at once, then joins the greetings. Greet someone else with: --input '{"name": "Ada"}'
# Every field is described in docs/definition.md; check this file with: mainspring validate workflow.yaml
name: greetings
nodes:
  - id: languages
    executor: choose_languages
    input:
      name: "${input.name || 'world'}"
  - id: greet
    executor: greet
    map:
      over: "${languages}"
      max_parallel: 4
    input:
      name: "${input.name || 'world'}"
      language: "${item}"
    retry:
      max_attempts: 3
      initial: 500ms
    timeouts:
      start_to_close: 30s
  - id: join
    executor: join
    input:
      greetings: "${greet}"
output: "${join}"
"""
_tasks: Final = '''\
"""The executors of this project. A worker runs them: mainspring worker --import tasks"""

from mainspring_worker import executor

GREETINGS = {"de": "Hallo", "en": "Hello", "es": "Hola", "fr": "Bonjour"}


@executor
def choose_languages(value):
    """Return the languages to greet in; the workflow runs `greet` once for each of them."""
    return sorted(GREETINGS)


@executor
async def greet(value):
    """Greet someone in one language. Executors may be async; plain functions run in threads."""
    return f"{GREETINGS[value['language']]}, {value['name']}!"


@executor
def join(value):
    """Join the greetings, which come in the order of the languages."""
    return "\\n".join(value["greetings"])
'''
_test: Final = '''\
"""Tests without a cluster: executors are functions, and the workflow can be checked."""

import asyncio
from pathlib import Path

from mainspring.definition import parse_definition
from mainspring.graph import build_graph

from tasks import choose_languages, greet, join


def test_it_greets_in_every_language():
    languages = choose_languages({"name": "world"})
    greetings = [asyncio.run(greet({"name": "world", "language": language})) for language in languages]
    assert join({"greetings": greetings}) == "Hallo, world!\\nHello, world!\\nHola, world!\\nBonjour, world!"


def test_the_workflow_is_valid():
    text = Path(__file__).with_name("workflow.yaml").read_text(encoding="utf-8")
    definition = parse_definition(text, format="yaml")
    build_graph(definition)
    assert {node.executor for node in definition.nodes} == {"choose_languages", "greet", "join"}
'''
project_workflow: Final = "workflow.yaml"
"""The file of a project's workflow."""
files: Final = {project_workflow: _workflow, "tasks.py": _tasks, "test_workflow.py": _test}
"""What a new project consists of."""
