"""``toolkit demo``: the main job on embedded data and the embedded model, offline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from toolkit.cli.output import JsonFlag, messages, print_json, print_table

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo"),
    json: JsonFlag = False,
) -> None:
    """Fine-tune on handwritten digits, export, prove, time, predict; ends with one table.

    Example: toolkit demo
    """
    from toolkit.api import bench_latency, export, finetune, load
    from toolkit.cli.bench_latency import print_latency
    from toolkit.cli.parity import print_parity
    from toolkit.data.digits import write_digits

    started = time.perf_counter()
    say = messages().print
    data, run, head_run, bundle = out / "digits", out / "run", out / "run-head-only", out / "bundle"
    say("[bold]1/6[/] write scikit-learn's handwritten digits as image folders")
    write_digits(data, force=True)
    say("[bold]2/6[/] ask the embedded tiny CLIP without training, by text alone")
    zero_shot = _zero_shot_accuracy(data, out / "run-zero-shot")
    say("[bold]3/6[/] train a head on the frozen encoder, for comparison")
    of_data = f"data.path={data}"
    head_only = finetune("digits", out=head_run, overrides=[of_data, "model.unfreeze_last=0"], force=True).summary
    say("[bold]4/6[/] fine-tune the last two layers and the head")
    summary = finetune("digits", out=run, overrides=[of_data], force=True).summary
    say("[bold]5/6[/] fuse encoder and head into one ONNX graph and prove it against PyTorch")
    parity = export(run, out=bundle, force=True).parity
    say("[bold]6/6[/] measure its latency beside torch, and predict three test images")
    latency = bench_latency(bundle, compare=["torch-eager"], seconds=1.0, details=False)
    images = [sorted((data / "test" / digit).iterdir())[0] for digit in ("3", "5", "8")]
    with load(bundle) as classifier:
        predictions = list(classifier.entries(images))
    outcome = {
        "accuracy": {
            "zero_shot": zero_shot,
            "head_only": head_only["test"]["accuracy"],
            "two_layers_and_head": summary["test"]["accuracy"],
        },
        "parity": parity["results"]["fp32"]["cpu"],
        "latency": latency["rows"],
        "predictions": predictions,
        "seconds": time.perf_counter() - started,
        "paths": {"data": str(data), "run": str(run), "head_only_run": str(head_run), "bundle": str(bundle)},
    }
    if json:
        print_json(outcome)
        return
    print_parity(parity)
    print_latency(latency)
    _print_outcome(outcome, summary["test"]["images"])


def _zero_shot_accuracy(data: Path, out: Path) -> float:
    """Accuracy on the test split of the embedded model's text embeddings of ten words."""
    from toolkit.api import zero_shot

    texts = {str(digit): word for digit, word in enumerate(DIGIT_WORDS)}
    run = zero_shot("tiny-clip", out=out, templates=["a digit {}"], texts=texts, data=data, force=True)
    return float(run.summary["test"]["accuracy"])


def _print_outcome(outcome: dict[str, Any], test_images: int) -> None:
    accuracy, parity, paths = outcome["accuracy"], outcome["parity"], outcome["paths"]
    first = {row["engine"]: row for row in reversed(outcome["latency"])}
    rows = [
        [f"accuracy, zero-shot ({test_images} test images)", f"{accuracy['zero_shot']:.1%}"],
        ["accuracy, head alone", f"{accuracy['head_only']:.1%}"],
        ["accuracy, two layers and head", f"{accuracy['two_layers_and_head']:.1%}"],
        ["parity: max |logit difference| to PyTorch", f"{parity['max_abs_logit']:.1e} on {parity['images']} images"],
        ["parity: top-1 agreement", f"{parity['top1_agreement']:.0%}"],
        ["p50 of one image, ONNX Runtime", f"{first['onnxruntime']['p50_ms']:.2f} ms"],
        ["p50 of one image, torch", f"{first['torch-eager']['p50_ms']:.2f} ms"],
    ]
    rows += [
        [f"predicted for {entry['path']}", f"{entry['label']} ({entry['probabilities'][entry['label']]:.1%})"]
        for entry in outcome["predictions"]
    ]
    rows += [[name.replace("_", " "), path] for name, path in paths.items()]
    rows.append(["time", f"{outcome['seconds']:.0f} s"])
    print_table("the demo", ["what", "figure"], rows, left=2)
    messages().print(f"next: toolkit verify {paths['bundle']}", markup=False)
