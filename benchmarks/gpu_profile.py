"""Where the time of a training step goes: the device's kernels by kind, and what makes the CPU wait for it.

    python benchmarks/gpu_profile.py [--sizes 1.7b] [--cases 1,2,3] [--out FILE.json]     (make gpu has it)

Cases are those of gpu_step.py. A micro-batch and an update under torch's profiler, after two steps without it.
`busy` is the share of the step in which a kernel ran; copies to the host and synchronisations are counted, as each lets
the device run dry.
"""

from __future__ import annotations

import argparse
import gc
import re
import time
from typing import Any

import torch
from gpu_step import CASES, Case, arguments_of, batches_of, configuration, device_here, our_step, prepare, write
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from parsit import hf

# First match counts; kernel names of cuBLAS, cuDNN, torch and Triton.
KINDS = (
    ("attention", r"flash|fmha|attention|sdpa"),
    ("matrix products", r"gemm|cutlass|nvjet|matmul|sm90_xmma|cublas|conv"),
    ("copies and casts", r"copy|memcpy|_to_copy|CatArray"),
    ("fused by the compiler", r"^triton_"),
    ("sums", r"reduce|norm|softmax|sum"),
    ("element by element", r"elementwise|foreach|vectorized|multi_tensor"),
)


def kind_of(name: str) -> str:
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def summary(profiler: profile, seconds: float) -> dict[str, Any]:
    """Seconds of each kind of kernel, the share of the time that the device was busy, waits."""
    of_kind: dict[str, float] = {}
    kernels = 0
    names: dict[str, list[float]] = {}
    waits = {"copies to the host": 0, "synchronisations": 0, "launches": 0}
    for event in profiler.events():
        if event.device_type == DeviceType.CUDA:
            took = event.time_range.elapsed_us() / 1e6
            of_kind[kind_of(event.name)] = of_kind.get(kind_of(event.name), 0.0) + took
            one = names.setdefault(event.name[:110], [0, 0.0])
            one[0], one[1] = one[0] + 1, one[1] + took
            kernels += 1
            waits["copies to the host"] += "DtoH" in event.name
        elif event.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"):
            waits["synchronisations"] += 1
        elif event.name.startswith(("cudaLaunchKernel", "cuLaunchKernel")):
            waits["launches"] += 1
    top = sorted(names.items(), key=lambda item: -item[1][1])[:25]
    kinds = dict(sorted(of_kind.items(), key=lambda item: -item[1]))
    return {"seconds": seconds, "busy": sum(of_kind.values()) / seconds, "kernels": kernels, "kinds_s": kinds, **waits,
            "top": [{"name": name, "count": count, "seconds": took} for name, (count, took) in top]}  # fmt: skip


def run_case(case: Case, size: str, rehearse: bool) -> dict[str, Any]:
    device = device_here()
    architecture, config, _ = configuration(size, case.stage, case.flags, rehearse)
    processor = hf.new_processor(architecture)
    model = prepare(architecture, processor, config, device)
    batches = batches_of(config, processor, model, config.model_max_length)[:1]
    step = our_step(model, config, batches, device)
    for _ in range(2):
        step()
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU], acc_events=True) as profiler:
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    return summary(profiler, seconds)


def tell(row: dict[str, Any]) -> None:
    kinds = ", ".join(f"{kind} {took:.3f}" for kind, took in row["kinds_s"].items())
    print(f"{row['size']} {row['case']}: {row['seconds']:.3f} s, busy {row['busy']:.0%}; {kinds}")
    print(f"   {row['launches']} launches, {row['copies to the host']} copies to the host, "
          f"{row['synchronisations']} synchronisations")  # fmt: skip
    for one in row["top"]:
        print(f"   {one['seconds']:8.4f} s {one['count']:6d} x {one['name']}")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="1.7b")
    parser.add_argument("--cases", default="1,2,3", help="by number")


def main() -> None:
    arguments = arguments_of(__doc__, add_flags)
    rows = []
    for size in arguments.sizes.split(","):
        for case in (CASES[int(number)] for number in arguments.cases.split(",")):
            rows.append({"size": size, "case": case.name, **run_case(case, size, arguments.rehearse)})
            tell(rows[-1])
            write(arguments.out, device_here(), rows)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
