"""``toolkit doctor``: what is here, what loads, what to do."""

from __future__ import annotations

from toolkit.cli.output import JsonFlag, console, messages, print_json, print_table


def doctor(json: JsonFlag = False) -> None:
    """Print versions, devices, the providers that really load, threads, and advice.

    Example: toolkit doctor
    """
    from toolkit.runtime.doctor import diagnose

    with messages().status("looking around"):
        report = diagnose()
    if json:
        print_json(report)
        return
    out = console()
    machine = report["machine"]
    quota = f", quota {machine['cpu_quota']:g}" if machine["cpu_quota"] else ""
    cores = f"{machine['usable_cores']} usable of {machine['cores']} cores{quota}"
    out.print(f"{machine['processor']}, {cores}, {machine['memory_gib']} GiB")
    out.print(f"{machine['system']}, Python {machine['python']}; GPUs: {', '.join(machine['gpus']) or 'none'}")
    out.print(f"torch computes on: {', '.join(report['torch_devices']) or 'not installed'}")
    print_table(
        "packages", ["package", "version"], [[n, v or "not installed"] for n, v in report["packages"].items()], 2
    )
    rows = []
    for name, found in report["providers"].items():
        precisions = found["precisions"]
        runs = ", ".join(each for each, reason in precisions.items() if reason is None)
        reasons = {found["reason"]} if not found["loads"] else {f"{p}: {r}" for p, r in precisions.items() if r}
        rows.append([name, "loads" if found["loads"] else "no", runs, "; ".join(sorted(filter(None, reasons)))])
    print_table("providers", ["provider", "", "computes in", "why not"], rows, 4)
    for line in report["advice"] or ["nothing is missing"]:
        out.print(f"advice: {line}" if report["advice"] else line, soft_wrap=True)
