"""``toolkit verify``: is this bundle whole, and does it give the same here? Without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.output import JsonFlag, PublicKeyOption, ServingProviderOption, ThreadsOption, console, print_json
from toolkit.errors import CheckFailed


def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder.")],
    provider: ServingProviderOption = None,
    threads: ThreadsOption = None,
    public_key: PublicKeyOption = None,
    json: JsonFlag = False,
) -> None:
    """Compare every file with its hash, then run the golden images in every precision; exit 1 if something differs.

    With --public-key, a signature that is missing or of another key is a failure too.

    Example: toolkit verify bundles/digits
    """
    from toolkit.runtime.verify import verify as check

    report = check(bundle, provider=provider, threads=threads, public_key=public_key)
    if json:
        print_json(report)
    if not report["passed"]:
        raise CheckFailed(f"{bundle}: {'; '.join(report['problems'])}")
    if not json:
        differences = ", ".join(
            f"{metrics['max_abs_logit']:.2e} in {precision}" for precision, metrics in report["precisions"].items()
        )
        provider = report["provider"]
        console().print(
            f"verified: {report['files']} files whole; {report['images']} golden images on {provider}: max |logit "
            f"difference| {differences}, same labels, same pixels; signature {report['signature']}; "
            f"{report['seconds']:.2f} s",
            soft_wrap=True,
        )
