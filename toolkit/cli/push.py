"""``toolkit push``: a bundle into a repository of the Hugging Face hub; without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import JsonFlag, PublicKeyOption, ServingProviderOption, console, print_json, print_table, warn


def push(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    repo: Annotated[str, typer.Argument(help="OWNER/NAME on the hub; made if it is not there.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private, and refuse one that is public.")
    ] = False,
    revision: Annotated[str, typer.Option(help="Branch to push to; made from main if it is not there.")] = "main",
    message: Annotated[
        str | None, typer.Option(help="Message of the commit.", show_default="hash of the manifest")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go where; asks no network for anything.")
    ] = False,
    provider: ServingProviderOption = None,
    public_key: PublicKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify a bundle and push it in one commit, with its model card as the page of the repository.

    The token is the one of `hf auth login` or of the variable HF_TOKEN, never an option.

    Example: toolkit push bundles/digits me/digits --private
    """
    from toolkit.publishing.checked import checked_bundle, require_library

    require_library("huggingface_hub", "hub", "toolkit push")
    from toolkit.publishing.hub import PushOptions, check_repo, hide_progress, planned, require_token
    from toolkit.publishing.hub import push as send

    if not sys.stderr.isatty():
        hide_progress()
    check_repo(repo)
    if not dry_run:
        require_token()
    opened = checked_bundle(bundle, provider=provider, public_key=public_key)
    outcome = (planned if dry_run else send)(opened, repo, PushOptions(private, revision, message))
    if not outcome["private"]:
        images = sum(1 for name in opened.manifest.files if name.startswith("golden/")) - 1
        state = "is public unless you made it private" if dry_run else "is public"
        warn(f"{repo} {state}, and the bundle holds {images} images of its data in golden/, others in plots/")
    if json:
        print_json(outcome)
    else:
        _print(outcome)


def _print(outcome: dict[str, Any]) -> None:
    if outcome["dry_run"]:
        rows = [[each["path"], f"{each['size']:,}"] for each in outcome["files"]]
        print_table(f"would go to {outcome['url']}", ["file", "bytes"], rows)
        return
    gone = f", {len(outcome['deleted'])} of an earlier bundle removed" if outcome["deleted"] else ""
    what = f"pushed: {len(outcome['files'])} files, {outcome['bytes']:,} bytes{gone}; commit {outcome['commit']}"
    console().print(what, soft_wrap=True)
    console().print(outcome["url"], soft_wrap=True)
