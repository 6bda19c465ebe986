"""What a configuration's modules know beyond the standard.

Knows which module's rows count. Must not know what an entry says.
"""

from collections.abc import Iterator
from dataclasses import replace

from p11host.config import Choice, Config, Module, load, read
from p11host.config_rows import Place, module_tables
from p11host.errors import ConfigError
from p11host.explain.entries import Entry, explain
from p11host.tables import Tables, tables


def find_modules(choice: Choice, name: str | None) -> list[Module]:
    """Return the module of that name, or all where there is none; ConfigError if there is no such one.

    Without a name a configuration that does not exist is no fault: the standard's tables need none.
    """
    places = [*choice.paths, *choice.directories]
    if name is None and not choice.named and not any(path.exists() for path in places):
        return []
    config = load(choice)
    if name is None:
        return list(config.modules)
    found = [module for module in config.modules if module.name == name]
    if not found:
        raise ConfigError([f"no [module.{name}] in the configuration; known are {_names(config)}"])
    return found


def _names(config: Config) -> str:
    return ", ".join(module.name for module in config.modules)


def tables_of(module: Module) -> Tables:
    """Return the tables by which a module's calls are carried. Its configuration has been loaded."""
    if not module.rows:
        return tables()
    problems: list[str] = []
    source = read(module.file, problems, Choice((module.file,), named=True))
    if source is None:
        raise ConfigError(problems)
    found = module_tables(Place(source, module.name, module.tables), problems)
    if problems:
        raise ConfigError(problems)
    return found


def explain_all(word: str, modules: list[Module]) -> Iterator[Entry]:
    """Yield what the standard says of a word, and then what each module says that the standard does not."""
    standard = explain(tables(), word)
    yield from standard
    for module in modules:
        theirs = explain(tables_of(module), word)
        yield from (replace(entry, module=module.name) for entry in theirs if entry not in standard)
