"""``puma-hub calibrate``."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from puma_hub.cli import common, processes, reading
from puma_hub.cli.output import Result

EXAMPLE = "puma-hub calibrate --model gemma-3-270m --bank target-bank --interactions new-ratings.csv --out calibrated"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser)
    parser.add_argument("--bank", required=True, metavar="ID", help="folder or Hub id of a bank of this LLM")
    reading.add_interactions(parser)
    parser.add_argument("--source", metavar="ID", help="the source LLM: use its predictions in place of labels")
    parser.add_argument("--source-bank", metavar="ID", help="with --source: the bank before the migration")
    parser.add_argument("--out", required=True, metavar="DIR", help="the bank with the calibrated head")


def run(args: argparse.Namespace) -> Result:
    import datasets

    from puma_hub.bank import PromptBank
    from puma_hub.bank.folder import LAYOUT
    from puma_hub.cli.outputs import check_outputs
    from puma_hub.errors import ConfigurationError
    from puma_hub.evaluation import calibrate
    from puma_hub.training import with_source_predictions

    check_outputs(args, {args.out: LAYOUT})
    if bool(args.source) != bool(args.source_bank):
        raise ConfigurationError("--source and --source-bank belong together; give both, or neither to use labels")
    bank = PromptBank.from_pretrained(args.bank)
    rows = datasets.concatenate_datasets([*reading.load_rows(args).values()])  # calibration needs no held-out rows
    if args.source:
        before = PromptBank.from_pretrained(args.source_bank)
        source_lm = common.load_lm(args.source, args, before.provenance.template or args.template)
        rows = with_source_predictions(source_lm, before, rows, noise=0.0)
        del source_lm
    lm = common.load_lm(args.model, args, args.template or bank.provenance.template)
    calibrated, found = calibrate(lm, bank, rows)
    if processes.is_main():
        calibrated.save_pretrained(args.out)
    text = (
        f"rating = {found.level:.3f} + {found.slope:.3f} * prediction, fitted to {found.rows} rows (their RMSE: "
        f"{found.rmse_before:.4f} before, {found.rmse_after:.4f} after); {calibrated} in {args.out}"
    )
    return Result(text, asdict(found))
