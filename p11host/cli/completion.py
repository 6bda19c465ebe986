"""`p11host completion`: scripts with which a shell completes commands, options and names of modules."""

import click


@click.command(short_help="Print the script with which a shell completes all this.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes p11host's commands, options and names of modules.

    \b
    bash:  p11host completion bash > ~/.local/share/bash-completion/completions/p11host
    zsh:   p11host completion zsh > a file _p11host in a directory of $fpath
    fish:  p11host completion fish > ~/.config/fish/completions/p11host.fish
    """  # noqa: D301 (\b is click's: keep the lines as they are)
    from click.shell_completion import get_completion_class  # noqa: PLC0415

    from p11host.cli import COMPLETE_VARIABLE, cli  # noqa: PLC0415

    kind = get_completion_class(shell)
    if kind is None:
        raise click.BadParameter(f"no completion for {shell} in this click")
    click.echo(kind(cli, {}, "p11host", COMPLETE_VARIABLE).source())
