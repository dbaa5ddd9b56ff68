"""Two command lines for each verb, as `--help` shows them."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "parsit info": ("parsit info qwen3-1.7b", "parsit info runs/tiny --json"),
    "parsit train": (
        "parsit train tiny --data data/train.jsonl --eval_data data/validation.jsonl --output_dir runs/tiny",
        "parsit train qwen3-1.7b/lora --data pages.jsonl --model_name_or_path runs/pretrain --output_dir runs/lora",
    ),
    "parsit check": (
        "parsit check tiny --data data/train.jsonl --output_dir runs/tiny",
        "parsit check qwen3-4b/finetune --data pages.jsonl --output_dir runs/4b --num_processes 8 --no_step",
    ),
    "parsit eval": (
        "parsit eval runs/tiny --data data/test.jsonl --out runs/tiny/eval",
        "parsit eval runs/tiny --bench olmocr bench --judge_python judge/bin/python --candidates peers/tesseract",
    ),
    "parsit export": (
        "parsit export runs/lora --out model",
        "parsit export runs/lora --out model --push_to_hub acme/reader",
    ),
    "parsit import": (
        "parsit import llava-checkpoint --out model",
        "parsit import mm_projector.bin --out projector --architecture qwen3-1.7b",
    ),
    "parsit parse": (
        "parsit parse report.pdf --model runs/tiny --format md",
        "parsit parse scans/ --model runs/tiny --out texts --format jsonl",
    ),
    "parsit ask": (
        'parsit ask invoice.png "What is the total?" --model runs/tiny',
        'parsit ask invoice.pdf "Read the fields." --model runs/tiny --schema invoice.schema.json',
    ),
    "parsit serve": (
        "parsit serve runs/tiny",
        "parsit serve runs/tiny --host 0.0.0.0 --port 9000 --token_file token.txt",
    ),
    "parsit data synth": (
        "parsit data synth --out data --pages 1000 --unit line",
        "parsit data synth --out invoices --pages 200 --kinds invoice,receipt --tasks fields --seed 7",
    ),
    "parsit data from-pdf": (
        "parsit data from-pdf papers --out pages",
        "parsit data from-pdf papers --out pages --dpi 150 --workers 4",
    ),
    "parsit data import": (
        "parsit data import --list",
        "parsit data import funsd FUNSD --out funsd.jsonl",
    ),
    "parsit data convert": (
        "parsit data convert --input records.parquet --output records.jsonl",
        "parsit data convert --input records.jsonl --output shard.tar --image_folder images",
    ),
    "parsit data validate": (
        "parsit data validate data/train.jsonl --image_folder data",
        "parsit data validate pages.jsonl --model tiny --model_max_length 4096",
    ),
    "parsit data show": (
        "parsit data show data/train.jsonl --out page.html",
        "parsit data show data/train.jsonl --out page.html --model tiny --n 50 --random 1",
    ),
    "parsit data stats": (
        "parsit data stats data/train.jsonl",
        "parsit data stats data/train.jsonl --model tiny --model_max_length 8192",
    ),
}
