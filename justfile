# The commands people need; `just` lists them.

default:
    @just --list

# Install the package with its development tools and the commit hooks, here.
setup:
    pip install -c constraints.txt -e ".[dev]"
    pre-commit install

# The fast suite.
test *arguments:
    pytest -q -n 2 --dist loadfile --no-loadscope-reorder {{arguments}}

# Format, lint and check types.
lint:
    ruff format .
    ruff check .
    mypy

# What takes longer than the fast suite should.
slow *arguments:
    pytest -q -m slow {{arguments}}

# Run every command and block of code of the pages, then build the site into build/site.
docs *arguments:
    pytest -q -m docs {{arguments}}
    mkdocs build --strict

# What CI runs, in a fresh environment of its own.
ci:
    .ci/run
